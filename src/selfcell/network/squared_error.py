"""Squared error of a linear last layer over all genes, in time of the non-zero entries. On a CPU alone."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from selfcell.data.minibatch import SparseExpression
from selfcell.network.blocks import Gradients, error_of_genes, given_away
from selfcell.network.by_gene import ByGene, sum_by_gene
from selfcell.network.entry_kernels import gather_by_gene, score_rare_entries
from selfcell.network.frequent import BREAK_EVEN, Frequent
from selfcell.network.kernels import as_bits, in_parts

GENES_AT_ONCE = 8192
"""Genes whose products are summed in bfloat16 before they are added up in float32."""


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
        hidden, layer.weight, layer.bias, truth, entry_weight, zero_weight, genes, scale, dtype, torch.is_grad_enabled()
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
        differentiate: bool,  # noqa: FBT001 - a Function's arguments have no names
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            layer = _Layer(weight.detach().to(dtype), bias.detach(), hidden.detach().to(dtype))
            # Scaled beforehand: each gradient is then written once.
            weights = _Weights(torch.tensor(entry_weight) * scale, zero_weight.float() * scale)
            gradients = Gradients.like(hidden, weight) if differentiate else None
            # Of rare genes the sum over all cells costs the same for any number of cells.
            share = BREAK_EVEN[dtype] * (1 - hidden.shape[1] / (1.5 * len(hidden))) if weights.of_zeros.any() else 1.0
            often = Frequent.of(truth, share, among=genes)
            loss = error_of_genes(
                often.genes, *layer, truth, gradients, zero_weight=weights.of_zeros, scored=weights.of_entries
            )
            loss += _error_of_rare(often, layer, truth, weights, gradients)
            if gradients is not None and genes is not None:
                left_out = torch.from_numpy(np.flatnonzero(~genes))
                gradients.weight[left_out], gradients.bias[left_out] = 0.0, 0.0
            ctx.gradients = None if gradients is None else gradients.given_as(hidden.dtype)
        return torch.tensor(loss, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (*given_away(ctx, gradients[0]), None, None, None, None, None, None, None)


class _Layer(NamedTuple):
    rows: Tensor
    bias: Tensor
    cells: Tensor


class _Weights(NamedTuple):
    of_entries: Tensor
    of_zeros: Tensor


def _error_of_rare(
    often: Frequent, layer: _Layer, truth: SparseExpression, weights: _Weights, gradients: Gradients | None
) -> float:
    """Take the squared error of rare genes: of their entries one by one, and of all else by products of units."""
    if not len(often.rare):
        return 0.0
    d_hidden = torch.zeros(layer.cells.shape) if gradients is None else gradients.hidden
    loss, residual = _of_entries(often, layer, truth, weights, d_hidden)
    if not weights.of_zeros.any():
        if gradients is None:
            return loss
        gradients.bias[:] = 0.0
        gradients.bias.index_add_(0, truth.gene_index.long(), torch.from_numpy(residual))
        sum_by_gene(often.rare, truth, residual[ByGene.of(truth).entries], layer.cells, out=gradients.weight)
        return loss
    rows = layer.rows[torch.from_numpy(often.rare)]
    loss += _add_zeros(often, rows, layer, weights.of_zeros, d_hidden)
    if gradients is not None:
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
