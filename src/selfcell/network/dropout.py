"""Dropout whose random numbers are made where they are used, by all threads: torch draws them on one."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from selfcell.network.kernels import in_equal_parts
from selfcell.network.mask_kernels import drop_units
from selfcell.network.random_bits import drawn_seed, limit_of


class QuickDropout(nn.Dropout):
    """Drops units as :class:`torch.nn.Dropout` does.

    On a CPU which ones is a function of one draw from torch's generator and of each unit's place; nothing is kept for
    the way back.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Drop units while training."""
        quick = self.training and self.p > 0 and input.is_cpu and input.dtype in {torch.float32, torch.bfloat16}
        if not quick:
            return super().forward(input)
        dropped: Tensor = _Dropped.apply(input, self.p, drawn_seed(None))  # type: ignore[no-untyped-call]
        return dropped


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, units: Tensor, share: float, seed: tuple[np.uint32, np.uint32]) -> Tensor:
        ctx.draw = (share, seed)
        return _drop(units, share, seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _drop(gradients[0], *ctx.draw), None, None


def _drop(units: Tensor, share: float, seed: tuple[np.uint32, np.uint32]) -> Tensor:
    units = units.contiguous()
    out = torch.empty_like(units)
    in_half = units.dtype == torch.bfloat16
    flat = [array.view(-1).view(torch.uint16).numpy() if in_half else array.view(-1).numpy() for array in (units, out)]
    factor = np.float32(1 / (1 - share))
    in_equal_parts(
        drop_units, *flat, *seed, limit_of(share), factor, n_items=units.numel(), n_threads=torch.get_num_threads()
    )
    return out
