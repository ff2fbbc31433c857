"""Layers between all genes and a few hundred units that touch the genes that a cell expresses alone.

A minibatch of cells is 90 to 95 % zeros, and the first and last layer hold nearly all weights. Their weights lie in
memory gene by gene, so that a cell's first layer is a sum of rows, one an expressed gene, and no array of cells x genes
is made. On a CPU alone. In bfloat16 rows are read at half the width and summed in float32.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from selfcell.data.minibatch import SparseExpression
from selfcell.network.by_gene import ByGene
from selfcell.network.entry_kernels import add_rows, gather_by_gene, rows_by_gene, score_entries
from selfcell.network.kernels import in_parts

GENES_AT_ONCE = 8192
"""Genes whose products are summed in bfloat16 before they are added up in float32."""


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
        ctx.expression, ctx.dtype = expression, dtype
        offsets, genes, values = expression.arrays()
        out = bias.detach().repeat(expression.n_cells, 1)
        by_gene = as_bits(weight.detach().T, dtype)
        in_parts(
            add_rows, offsets, genes, values, by_gene, out.numpy(), work=offsets, n_threads=torch.get_num_threads()
        )
        return out.to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor, None]:
        gradient, expression = gradients[0], ctx.expression
        d_weight = _summed_by_gene(expression, expression.values.detach().numpy(), gradient.to(ctx.dtype))
        return None, d_weight.T, gradient.sum(dim=0, dtype=torch.float32), None


def squared_error_of_all(
    hidden: Float[Tensor, "n_cells n_units"],
    layer: nn.Linear,
    truth: SparseExpression,
    *,
    scored: Float[Tensor, " n_values"],
    zero_weight: Float[Tensor, " n_cells"],
    scale: float,
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
    scored
        Weight of each non-zero entry's error.
    zero_weight
        Weight of the squared prediction of a cell's other genes; 0 for all cells leaves them out.
    scale
        Factor on the loss.
    dtype
        In which weights and hidden units are read: float32 or bfloat16.
    """
    assert layer.bias is not None
    loss: Tensor = _SquaredErrorOfAll.apply(  # type: ignore[no-untyped-call]
        hidden, layer.weight, layer.bias, truth, scored, zero_weight, scale, dtype
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
        scored: Tensor,
        zero_weight: Tensor,
        scale: float,
        dtype: torch.dtype,
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            hidden, weight, bias = hidden.detach(), weight.detach(), bias.detach()
            rows, cells = weight.to(dtype), hidden.to(dtype)
            # Scaled beforehand: each gradient is then written once.
            scored, zero_weight = scored.float() * scale, zero_weight.float() * scale
            loss, d_hidden, residual = _of_entries(rows, bias, cells, truth, scored, zero_weight)
            all_genes = bool(zero_weight.any())
            if all_genes:
                loss += _add_zeros(d_hidden, rows, bias @ weight, bias, cells.float(), zero_weight)
            ctx.gradients = None
            if any(ctx.needs_input_grad):
                of_weights = _for_weights if all_genes else _for_weights_of_entries
                d_weight, d_bias = of_weights(rows, bias, cells, truth, residual, zero_weight)
                ctx.gradients = (d_hidden.to(hidden.dtype), d_weight, d_bias)
        return torch.tensor(loss, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        factor = gradients[0]
        parts = ctx.gradients if float(factor) == 1.0 else [part.mul_(factor) for part in ctx.gradients]
        return (*parts, None, None, None, None, None)


def _of_entries(
    rows: Tensor, bias: Tensor, cells: Tensor, truth: SparseExpression, scored: Tensor, zero_weight: Tensor
) -> tuple[float, Tensor, np.ndarray]:
    offsets, genes, values = truth.arrays()
    d_hidden = torch.zeros(cells.shape)
    residual, loss = np.empty(len(genes), dtype=np.float32), np.zeros(truth.n_cells)
    in_parts(
        score_entries,
        offsets,
        genes,
        values,
        scored.numpy(),
        zero_weight.numpy(),
        as_bits(rows, rows.dtype),
        bias.numpy(),
        as_bits(cells, cells.dtype),
        residual,
        d_hidden.numpy(),
        loss,
        work=offsets,
        n_threads=torch.get_num_threads(),
    )
    return float(loss.sum()), d_hidden, residual


def _add_zeros(
    d_hidden: Tensor, rows: Tensor, with_bias: Tensor, bias: Tensor, cells: Tensor, zero_weight: Tensor
) -> float:
    """Add what all genes, taken as zero, do to the gradient of the cells, and give their loss."""
    products = torch.zeros(rows.shape[1], rows.shape[1])
    for start in range(0, len(rows), GENES_AT_ONCE):
        some = rows[start : start + GENES_AT_ONCE]
        products += some.T @ some
    half = cells @ products
    squares = torch.linalg.vecdot(cells, half) + 2 * (cells @ with_bias) + bias.square().sum()
    d_hidden += 2 * zero_weight[:, None] * (half + with_bias)
    return float(zero_weight.double() @ squares.double())


def _for_weights(
    rows: Tensor, bias: Tensor, cells: Tensor, truth: SparseExpression, residual: np.ndarray, zero_weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Give the gradients of weights and bias."""
    offsets, genes, _ = truth.arrays()
    n_threads = torch.get_num_threads()
    double = 2 * zero_weight
    in_full = cells.float()
    moment = (in_full * double[:, None]).T @ in_full
    columns = ByGene.of(offsets, genes, n_genes=len(rows), n_threads=n_threads)
    d_weight, d_bias = torch.empty(rows.shape), torch.empty(len(rows))
    in_parts(
        gather_by_gene,
        columns.gene_offsets,
        columns.cells,
        columns.entries,
        residual,
        as_bits(cells, cells.dtype),
        as_bits(rows @ moment.to(rows.dtype), rows.dtype),
        bias.numpy(),
        (double @ in_full).numpy(),
        as_bits(rows, rows.dtype),
        np.float32(double.sum()),
        d_weight.numpy(),
        d_bias.numpy(),
        work=columns.gene_offsets,
        n_threads=n_threads,
    )
    return d_weight, d_bias


def _for_weights_of_entries(
    rows: Tensor, bias: Tensor, cells: Tensor, truth: SparseExpression, residual: np.ndarray, zero_weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Give the gradients of weights and bias where entries alone count."""
    del rows, zero_weight
    d_bias = torch.zeros(len(bias)).index_add_(0, truth.gene_index.long(), torch.from_numpy(residual))
    return _summed_by_gene(truth, residual, cells), d_bias


def _summed_by_gene(expression: SparseExpression, values: np.ndarray, cells: Tensor) -> Tensor:
    """Sum for each gene its entries' values times the rows of their cells."""
    offsets, genes, _ = expression.arrays()
    n_threads = torch.get_num_threads()
    columns = ByGene.of(offsets, genes, n_genes=expression.n_genes, n_threads=n_threads)
    summed = torch.empty(expression.n_genes, cells.shape[1])
    in_parts(
        rows_by_gene,
        columns.gene_offsets,
        columns.cells,
        columns.entries,
        values,
        as_bits(cells, cells.dtype),
        summed.numpy(),
        work=columns.gene_offsets,
        n_threads=n_threads,
    )
    return summed


def as_bits(rows: Tensor, dtype: torch.dtype) -> np.ndarray:
    """Give rows to a compiled loop in a type: float32 as it is, bfloat16 as its bits."""
    rows = rows.to(dtype).contiguous()
    return rows.numpy() if dtype == torch.float32 else rows.view(torch.uint16).numpy()
