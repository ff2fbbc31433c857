"""AdamW for weights that lie in memory column by column."""

from typing import Any

import torch
from torch import Tensor


class AdamW(torch.optim.AdamW):
    """Torch's fused AdamW, which copies a gradient that does not lie row by row before it uses it.

    Weights laid by gene (:func:`selfcell.network.sparse.lay_by_gene`) are given to it transposed, as are their gradient
    and state, so that nothing is copied; the numbers are the same but for the last digit.

    Raises
    ------
    ValueError
        If the state of a weight does not lie in memory as the weight does.
    """

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        has_complex = bool(super()._init_group(group, *lists))  # type: ignore[no-untyped-call]
        weights, gradients, *states = lists
        by_column = [weight.ndim == 2 and not weight.is_contiguous() and weight.T.is_contiguous() for weight in weights]
        for tensors in states:
            if any(state.ndim == 2 and not state.T.is_contiguous() for state in _chosen(tensors, by_column)):
                raise ValueError("The state of the optimizer lies otherwise in memory than the weights it is for.")
        for tensors in (weights, gradients, *states):
            if len(tensors) == len(by_column):
                tensors[:] = [
                    tensor.detach().T if turned and tensor.ndim == 2 else tensor
                    for tensor, turned in zip(tensors, by_column, strict=True)
                ]
        return has_complex


def _chosen(tensors: list[Tensor], chosen: list[bool]) -> list[Tensor]:
    return [tensor for tensor, is_chosen in zip(tensors, chosen, strict=False) if is_chosen]
