"""AdamW for weights that lie in memory column by column."""

from typing import Any

import torch
from torch import Tensor


class AdamW(torch.optim.AdamW):
    """Torch's fused AdamW, which copies a gradient that does not lie row by row before it uses it.

    Weights laid by gene (:func:`selfcell.network.sparse.lay_by_gene`) are given to it transposed, as are their gradient
    and state, so that nothing is copied; the numbers are the same.
    """

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        has_complex = bool(super()._init_group(group, *lists))  # type: ignore[no-untyped-call]
        for tensors in lists:
            tensors[:] = [_row_by_row(tensor) for tensor in tensors]
        return has_complex


def _row_by_row(tensor: Tensor) -> Tensor:
    """Give the same memory, transposed where it lies column by column."""
    by_column = tensor.ndim == 2 and not tensor.is_contiguous() and tensor.T.is_contiguous()
    return tensor.detach().T if by_column else tensor
