"""Layers between all genes and a few hundred units that touch the genes that a cell expresses alone.

A minibatch of cells is 90 to 95 % zeros, and the first and last layer hold nearly all weights. Their weights lie in
memory gene by gene, so that a cell's first layer is a sum of rows, one an expressed gene, and no array of cells x genes
is made. On a CPU alone. In bfloat16 rows are read at half the width and summed in float32.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from selfcell.data.minibatch import SparseExpression
from selfcell.network.blocks import Gradients, error_of_genes, gene_blocks
from selfcell.network.by_gene import ByGene
from selfcell.network.entry_kernels import (
    add_rare_rows,
    fill_genes,
    gather_by_gene,
    rows_by_gene,
    score_rare_entries,
    show_entries,
)
from selfcell.network.frequent import BREAK_EVEN, Frequent
from selfcell.network.kernels import as_bits, in_equal_parts, in_parts

GENES_AT_ONCE = 8192
"""Genes whose products are summed in bfloat16 before they are added up in float32."""
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


def squared_error_of_all(
    hidden: Float[Tensor, "n_cells n_units"],
    layer: nn.Linear,
    truth: SparseExpression,
    *,
    entry_weight: tuple[float, float],
    zero_weight: Float[Tensor, " n_cells"],
    scale: float,
    genes: Bool[np.ndarray, " n_genes"] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, ""]:
    r"""Squared error of a linear last layer over all genes, zeros included, in time of the non-zero entries.

    With predictions :math:`y_c = W h_c + b`, truth :math:`x` and weights :math:`w` of the non-zero entries, :math:`z_c`
    of the zeros,

    .. math::

        L = \sum_{x_{cg} \ne 0} w_{cg} (y_{cg} - x_{cg})^2 + \sum_c z_c \sum_{g: x_{cg} = 0} y_{cg}^2 ,

    where the second sum is taken over all genes less those that are not zero, and over all genes it is
    :math:`h_c^\top (W^\top W) h_c + 2 h_c^\top W^\top b + b^\top b`: a matrix of units x units serves all cells. The
    gradients are of the same form, :math:`2 z_c (h_c W^\top W + b^\top W)` for :math:`h_c` and
    :math:`2 (W H^\top Z H + b\, (z^\top H))` for :math:`W`, plus what the non-zero entries add.

    Parameters
    ----------
    hidden
        What goes into the layer.
    layer
        From units to genes, without activation.
    truth
        ``log1p`` expression, on the CPU.
    entry_weight
        Weight of the error of a visible and of a hidden non-zero entry.
    zero_weight
        Weight of the squared prediction of a cell's other genes; 0 for all cells leaves them out.
    scale
        Factor on the loss.
    genes
        True for genes that count; None for all.
    dtype
        In which weights and hidden units are read: float32 or bfloat16.
    """
    assert layer.bias is not None
    loss: Tensor = _SquaredErrorOfAll.apply(  # type: ignore[no-untyped-call]
        hidden, layer.weight, layer.bias, truth, entry_weight, zero_weight, genes, scale, dtype
    )
    return loss


class _SquaredErrorOfAll(torch.autograd.Function):
    """Takes the gradients together with the loss: they need the same rows, which then are read once."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        truth: SparseExpression,
        entry_weight: tuple[float, float],
        zero_weight: Tensor,
        genes: np.ndarray | None,
        scale: float,
        dtype: torch.dtype,
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            layer = _Layer(weight.detach().to(dtype), bias.detach(), hidden.detach().to(dtype))
            # Scaled beforehand: each gradient is then written once.
            weights = _Weights(torch.tensor(entry_weight) * scale, zero_weight.float() * scale)
            gradients = Gradients(torch.zeros(hidden.shape), torch.empty(weight.shape), torch.empty(len(bias)))
            # Of rare genes the sum over all cells costs the same for any number of cells.
            share = BREAK_EVEN[dtype] * (1 - hidden.shape[1] / (1.5 * len(hidden))) if weights.of_zeros.any() else 1.0
            often = Frequent.of(truth, share, among=genes)
            loss = error_of_genes(
                often.genes, *layer, truth, gradients, zero_weight=weights.of_zeros, scored=weights.of_entries
            )
            loss += _error_of_rare(often, layer, truth, weights, gradients)
            if genes is not None:
                left_out = torch.from_numpy(np.flatnonzero(~genes))
                gradients.weight[left_out], gradients.bias[left_out] = 0.0, 0.0
            ctx.gradients = (gradients.hidden.to(hidden.dtype), gradients.weight, gradients.bias)
        return torch.tensor(loss, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        factor = gradients[0]
        parts = ctx.gradients if float(factor) == 1.0 else [part.mul_(factor) for part in ctx.gradients]
        return (*parts, None, None, None, None, None, None)


class _Layer(NamedTuple):
    rows: Tensor
    bias: Tensor
    cells: Tensor


class _Weights(NamedTuple):
    of_entries: Tensor
    of_zeros: Tensor


def _error_of_rare(
    often: Frequent, layer: _Layer, truth: SparseExpression, weights: _Weights, gradients: Gradients
) -> float:
    """Take the squared error of rare genes: of their entries one by one, and of all else by products of units."""
    if not len(often.rare):
        return 0.0
    loss, residual = _of_entries(often, layer, truth, weights, gradients.hidden)
    if not weights.of_zeros.any():
        gradients.bias[:] = 0.0
        gradients.bias.index_add_(0, truth.gene_index.long(), torch.from_numpy(residual))
        sum_by_gene(often.rare, truth, residual[ByGene.of(truth).entries], layer.cells, out=gradients.weight)
        return loss
    rows = layer.rows[torch.from_numpy(often.rare)]
    loss += _add_zeros(often, rows, layer, weights.of_zeros, gradients.hidden)
    _for_weights(often, rows, layer, truth, residual, weights.of_zeros, gradients)
    return loss


def _of_entries(
    often: Frequent, layer: _Layer, truth: SparseExpression, weights: _Weights, d_hidden: Tensor
) -> tuple[float, np.ndarray]:
    """Give the loss of the rare entries beyond that of zeros, and its derivatives by their predictions."""
    offsets, genes, values = truth.arrays()
    residual, loss = np.zeros(len(genes), dtype=np.float32), np.zeros(truth.n_cells)
    in_parts(
        score_rare_entries,
        offsets,
        genes,
        often.place,
        values,
        weights.of_entries.numpy(),
        weights.of_zeros.numpy(),
        as_bits(layer.rows),
        layer.bias.numpy(),
        as_bits(layer.cells),
        residual,
        d_hidden.numpy(),
        loss,
        work=offsets,
        n_threads=torch.get_num_threads(),
    )
    return float(loss.sum()), residual


def _add_zeros(often: Frequent, rows: Tensor, layer: _Layer, zero_weight: Tensor, d_hidden: Tensor) -> float:
    """Add what all rare genes, taken as zero, do to the gradient of the cells, and give their loss."""
    products = torch.zeros(rows.shape[1], rows.shape[1])
    for start in range(0, len(rows), GENES_AT_ONCE):
        some = rows[start : start + GENES_AT_ONCE]
        products += some.T @ some
    bias, cells = layer.bias[torch.from_numpy(often.rare)], layer.cells.float()
    with_bias = (bias.to(rows.dtype) @ rows).float()
    half = cells @ products
    squares = torch.linalg.vecdot(cells, half) + 2 * (cells @ with_bias) + bias.square().sum()
    d_hidden += 2 * zero_weight[:, None] * (half + with_bias)
    return float(zero_weight.double() @ squares.double())


def _for_weights(
    often: Frequent,
    rows: Tensor,
    layer: _Layer,
    truth: SparseExpression,
    residual: np.ndarray,
    zero_weight: Tensor,
    gradients: Gradients,
) -> None:
    """Write the gradients of the rare genes' weights and bias."""
    double, in_full = 2 * zero_weight, layer.cells.float()
    moment = (in_full * double[:, None]).T @ in_full
    columns = ByGene.of(truth)
    in_parts(
        gather_by_gene,
        often.rare,
        columns.gene_offsets,
        columns.cells,
        columns.entries,
        residual,
        as_bits(layer.cells),
        as_bits(rows @ moment.to(rows.dtype)),
        layer.bias.numpy(),
        (double @ in_full).numpy(),
        as_bits(rows),
        np.float32(double.sum()),
        gradients.weight.numpy(),
        gradients.bias.numpy(),
        work=columns.of_genes(often.rare),
        n_threads=torch.get_num_threads(),
    )


def sum_by_gene(
    wanted: np.ndarray, expression: SparseExpression, values: np.ndarray, cells: Tensor, *, out: Tensor
) -> None:
    """Write for each wanted gene the sum of its entries' values, sorted by gene, times the rows of their cells."""
    columns = ByGene.of(expression)
    in_parts(
        rows_by_gene,
        wanted,
        columns.gene_offsets,
        columns.cells,
        values,
        as_bits(cells),
        out.numpy(),
        work=columns.of_genes(wanted),
        n_threads=torch.get_num_threads(),
    )
