"""The layer from all genes to a few hundred units, on the genes that a cell expresses alone.

A minibatch of cells is 90 to 95 % zeros, and this layer and the last hold nearly all weights. Its weights lie in memory
gene by gene, so that a cell's units are a sum of rows, one an expressed gene, and no array of cells x genes is made.
Genes that many cells express are made dense, some cells at a time. On a CPU alone. In bfloat16 rows are read at half
the width and summed in float32.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from selfcell.data.minibatch import SparseExpression
from selfcell.network.blocks import gene_blocks
from selfcell.network.by_gene import ByGene, sum_by_gene
from selfcell.network.entry_kernels import add_rare_rows, fill_genes, show_entries
from selfcell.network.frequent import BREAK_EVEN, Frequent
from selfcell.network.kernels import as_bits, in_equal_parts, in_parts

CELLS_AT_ONCE = 1024
"""Cells whose frequent genes are made dense for the first layer."""


def lay_by_gene(layer: nn.Linear) -> nn.Linear:
    """Have the weights of a layer that takes genes lie in memory gene by gene; their shape stays what it is."""
    layer.weight = nn.Parameter(layer.weight.detach().T.contiguous().T)
    return layer


def sparse_linear(
    expression: SparseExpression, layer: nn.Linear, *, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "n_cells n_units"]:
    """Apply a layer to sparse cells; what ``layer(expression.dense())`` gives, without the dense array.

    Parameters
    ----------
    expression
        Cells, on the CPU. No gradient flows to them.
    layer
        A layer from genes, laid by gene (:func:`lay_by_gene`).
    dtype
        In which weights and gradients are read: float32 or bfloat16. That is also the type of the result.
    """
    assert layer.bias is not None
    result: Tensor = _SparseLinear.apply(expression, layer.weight, layer.bias, dtype)  # type: ignore[no-untyped-call]
    return result


class _SparseLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, expression: SparseExpression, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
        often = Frequent.of(expression, BREAK_EVEN[dtype])
        ctx.expression, ctx.dtype, ctx.often = expression, dtype, often
        offsets, genes, values = expression.arrays()
        factor = _factor(expression)
        with torch.autocast("cpu", enabled=False):
            rows = weight.detach().T.to(dtype)
            out = bias.detach().repeat(expression.n_cells, 1)
            frequent_rows = rows[torch.from_numpy(often.genes)]
            for start in range(0, expression.n_cells, CELLS_AT_ONCE):
                part = slice(start, min(start + CELLS_AT_ONCE, expression.n_cells))
                dense = torch.empty(part.stop - part.start, len(often.genes), dtype=dtype)
                in_parts(
                    add_rare_rows,
                    offsets[part.start : part.stop + 1],
                    genes,
                    values,
                    factor[part],
                    often.place,
                    as_bits(rows),
                    as_bits(dense),
                    out[part].numpy(),
                    work=offsets[part.start : part.stop + 1],
                    n_threads=torch.get_num_threads(),
                )
                out[part] += dense @ frequent_rows
        return out.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor, None]:
        gradient, expression, often = gradients[0].to(ctx.dtype), ctx.expression, ctx.often
        with torch.autocast("cpu", enabled=False):
            d_weight = torch.empty(expression.n_genes, gradient.shape[1])
            shown = _shown(expression)
            sum_by_gene(often.rare, expression, shown, gradient, out=d_weight)
            for genes in gene_blocks(often.genes, n_cells=expression.n_cells):
                dense = _dense_genes(genes, expression, shown, dtype=ctx.dtype)
                d_weight[torch.from_numpy(genes)] = (dense @ gradient).float()
        return None, d_weight.T, gradient.sum(dim=0, dtype=torch.float32), None


def _factor(expression: SparseExpression) -> np.ndarray:
    return np.ones(expression.n_cells, dtype=np.float32) if expression.factor is None else expression.factor.numpy()


def _shown(expression: SparseExpression) -> np.ndarray:
    """Give what the encoder sees of each entry, sorted by gene."""
    columns = ByGene.of(expression)
    shown = np.empty_like(columns.values)
    in_equal_parts(
        show_entries,
        columns.values,
        columns.cells,
        _factor(expression),
        shown,
        n_items=len(shown),
        n_threads=torch.get_num_threads(),
    )
    return shown


def _dense_genes(genes: np.ndarray, expression: SparseExpression, shown: np.ndarray, *, dtype: torch.dtype) -> Tensor:
    """Give what the encoder sees of some genes, with the zeros: genes x cells."""
    columns = ByGene.of(expression)
    dense = torch.empty(len(genes), expression.n_cells, dtype=dtype)
    in_parts(
        fill_genes,
        genes,
        columns.gene_offsets,
        columns.cells,
        shown,
        as_bits(dense),
        work=columns.of_genes(genes) + np.arange(len(genes) + 1),
        n_threads=torch.get_num_threads(),
    )
    return dense
