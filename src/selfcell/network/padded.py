"""Dense cells for a GPU: in the type that is multiplied, and with a width that its matrix units like.

Rows whose length is no multiple of 8 keep a GPU off its quick paths, so columns without a gene are added, and as many
that all blocks of genes (:mod:`selfcell.network.block_error`) have one shape.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from selfcell.data.minibatch import SparseExpression, index_of_cells

GENES_AT_ONCE = 10_240
"""Fewer would take more launches, and a block of thousands of cells leaves the cache at any width."""
ALIGNED = 64


@dataclass(frozen=True)
class GeneBlocks:
    """How columns are divided: blocks of one width, and columns without a gene at the end of the last."""

    n_genes: int
    width: int
    n_blocks: int

    @classmethod
    def of(cls, n_genes: int) -> "GeneBlocks":
        """Divide genes into as few blocks as there need be."""
        n_blocks = -(-n_genes // GENES_AT_ONCE)
        width = -(-n_genes // (n_blocks * ALIGNED)) * ALIGNED
        return cls(n_genes, width, n_blocks)

    @property
    def n_columns(self) -> int:
        """Genes, and what is added."""
        return self.width * self.n_blocks

    def __iter__(self) -> Iterator[slice]:
        for block in range(self.n_blocks):
            yield slice(block * self.width, (block + 1) * self.width)


@dataclass(frozen=True, slots=True)
class PaddedExpression:
    """Expression of some cells, dense; columns beyond the genes are zero."""

    values: Float[Tensor, "n_cells n_columns"]


def flat_places(expression: SparseExpression) -> Int[Tensor, " n_values"]:
    """Give where each entry lies in a padded dense array that is read row by row."""
    n_columns = GeneBlocks.of(expression.n_genes).n_columns
    cell = index_of_cells(expression.cell_offsets, len(expression.values))
    return cell.mul_(n_columns).add_(expression.gene_index)


def spread(
    values: Float[Tensor, " n_values"], at: Int[Tensor, " n_values"], like: SparseExpression, *, dtype: torch.dtype
) -> Float[Tensor, "n_cells n_columns"]:
    """Write values into a padded dense array of zeros.

    Parameters
    ----------
    values, at
        What to write, and where: :func:`flat_places`.
    like
        Cells and genes of the array.
    dtype
        Of the array.
    """
    n_columns = GeneBlocks.of(like.n_genes).n_columns
    out = torch.zeros(like.n_cells * n_columns, dtype=dtype, device=values.device)
    return out.scatter_(0, at, values.to(dtype)).view(like.n_cells, n_columns)


def padded_expression(
    expression: Float[Tensor, "n_cells n_genes"] | SparseExpression, *, dtype: torch.dtype
) -> PaddedExpression:
    """Make cells dense and padded; those that are dense are copied."""
    if isinstance(expression, SparseExpression):
        return PaddedExpression(spread(expression.visible(), flat_places(expression), expression, dtype=dtype))
    n_cells, n_genes = expression.shape
    out = torch.zeros((n_cells, GeneBlocks.of(n_genes).n_columns), dtype=dtype, device=expression.device)
    out[:, :n_genes] = expression
    return PaddedExpression(out)


def padded_rows(rows: Shaped[Tensor, "n_genes ..."], n_rows: int, dtype: torch.dtype) -> Shaped[Tensor, "n_rows ..."]:
    """Copy weights, gene by gene, into another type, with rows of zeros at the end."""
    out = torch.zeros((n_rows, *rows.shape[1:]), dtype=dtype, device=rows.device)
    out[: len(rows)] = rows
    return out


def padded_linear(expression: PaddedExpression, layer: nn.Linear) -> Float[Tensor, "n_cells n_units"]:
    """Apply a layer from genes to padded cells, in the type that they have; no gradient flows to them."""
    assert layer.bias is not None
    result: Tensor = _PaddedLinear.apply(expression.values, layer.weight, layer.bias)  # type: ignore[no-untyped-call]
    return result


class _PaddedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cells: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with torch.autocast(cells.device.type, enabled=False):
            rows = padded_rows(weight.detach().T, cells.shape[1], cells.dtype)
            ctx.save_for_backward(cells)
            ctx.n_genes = weight.shape[1]
            return torch.addmm(bias.detach().to(cells.dtype), cells, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor]:
        (cells,) = ctx.saved_tensors
        gradient = gradients[0].to(cells.dtype)
        with torch.autocast(cells.device.type, enabled=False):
            d_weight = (cells.T @ gradient)[: ctx.n_genes].float()
        return None, d_weight.T, gradient.sum(dim=0, dtype=torch.float32)
