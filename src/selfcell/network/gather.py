"""Cells of all training processes, for losses that compare cells with each other."""

from typing import Any

import torch
import torch.distributed
from jaxtyping import Float, Int
from torch import Tensor


def gather_cells(rows: Float[Tensor, "n_cells n_units"]) -> Float[Tensor, "n_all_cells n_units"]:
    """Give the rows of all processes, in the order of their ranks; gradients flow back to where each row came from.

    With one process these are the rows themselves. All processes must have the same number of rows. A loss that each
    process computes from its own cells, and whose gradients are averaged over processes, then has the gradient of the
    one loss of all cells.
    """
    if _n_processes() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


def gathered_positions(n_cells: int, *, device: torch.device) -> Int[Tensor, " n_cells"]:
    """Give the positions of this process's cells among those that :func:`gather_cells` returns."""
    rank = torch.distributed.get_rank() if _n_processes() > 1 else 0
    return torch.arange(rank * n_cells, (rank + 1) * n_cells, device=device)


def _n_processes() -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


class _GatherRows(torch.autograd.Function):
    """All-gather whose backward adds up what every process's loss says of a row; torch's own one is deprecated."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.n_cells = rows.shape[0]
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(summed)
        start = torch.distributed.get_rank() * ctx.n_cells
        return summed[start : start + ctx.n_cells]
