"""Cells whose zeros are noisy: an array of cells x genes that is made, used and forgotten some genes at a time.

A first layer needs it twice, for its units and for the gradient of its weights, and it is made anew for each: random
numbers that are a function of a seed and a place cost less than the memory would.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from selfcell.data.minibatch import SparseExpression
from selfcell.network.sparse import sparse_linear

ENTRIES_AT_ONCE = 2**21
"""Cells x genes that are made at once."""


@dataclass(frozen=True, slots=True)
class BlockwiseExpression:
    """Sparse cells, to some of which a dense part is added that is made in blocks of genes. On the CPU alone."""

    sparse: SparseExpression
    """All cells."""
    cells: Int[Tensor, " n_dense"]
    """Which have a dense part; each once."""
    make_block: Callable[[slice], Float[Tensor, "n_dense n_block"]]
    """Gives the dense part of some genes, the same each time."""

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.sparse.n_cells

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return self.sparse.n_genes

    def dense(self) -> Float[Tensor, "n_cells n_genes"]:
        """Give the sum of both parts."""
        dense = self.sparse.dense()
        for genes in self.blocks():
            dense[self.cells, genes] += self.make_block(genes)
        return dense

    def blocks(self) -> list[slice]:
        """Divide the genes into blocks; none where no cell has a dense part."""
        if not len(self.cells):
            return []
        width = max(1, ENTRIES_AT_ONCE // len(self.cells))
        return [slice(start, min(start + width, self.n_genes)) for start in range(0, self.n_genes, width)]


def blockwise_linear(
    expression: BlockwiseExpression, layer: nn.Linear, *, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "n_cells n_units"]:
    """Apply a layer; what ``layer(expression.dense())`` gives, without the dense array.

    Parameters
    ----------
    expression
        Cells. No gradient flows to them.
    layer
        A layer from genes, laid by gene (:func:`selfcell.network.sparse.lay_by_gene`).
    dtype
        Of the products of matrices: float32 or bfloat16, whose products are summed in float32. That is also the type of
        the result.
    """
    units = sparse_linear(expression.sparse, layer, dtype=dtype)
    if not len(expression.cells):
        return units
    added: Tensor = _DensePart.apply(expression, layer.weight, dtype)  # type: ignore[no-untyped-call]
    return units.index_add(0, expression.cells, added)


class _DensePart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, expression: BlockwiseExpression, weight: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.expression, ctx.dtype = expression, dtype
        by_gene = weight.detach().T
        units = torch.zeros(len(expression.cells), by_gene.shape[1])
        with torch.autocast("cpu", enabled=False):
            for genes in expression.blocks():
                block, rows = expression.make_block(genes).to(dtype), by_gene[genes].to(dtype)
                if dtype == torch.float32:
                    units.addmm_(block, rows)
                else:
                    units += block @ rows
        return units.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        expression, gradient = ctx.expression, gradients[0].to(ctx.dtype)
        d_weight = torch.empty(expression.n_genes, gradient.shape[1])
        with torch.autocast("cpu", enabled=False):
            for genes in expression.blocks():
                d_weight[genes] = expression.make_block(genes).to(ctx.dtype).T @ gradient
        return None, d_weight.T, None
