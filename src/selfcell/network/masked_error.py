"""Squared error over a set of genes of each cell, some genes of all cells at a time."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from selfcell.data.minibatch import SparseExpression
from selfcell.network.by_gene import ByGene
from selfcell.network.gene_sets import GeneSets
from selfcell.network.kernels import in_equal_parts
from selfcell.network.mask_kernels import mask_residuals

_GENES_AT_ONCE = 1024


def squared_error_of_sets(
    hidden: Float[Tensor, "n_cells n_units"],
    layer: nn.Linear,
    truth: SparseExpression,
    *,
    scored: GeneSets,
    scale: float,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, ""]:
    r"""Squared error of a linear last layer over the genes :math:`S_c` of each cell, zeros included.

    .. math:: L = \sum_c \sum_{g \in S_c} (w_g \cdot h_c + b_g - x_{cg})^2 .

    Products of all cells with a thousand genes at a time are made, used and forgotten: loss and gradients are
    of the dense ones, but no array of cells x genes is.

    Parameters
    ----------
    hidden
        What goes into the layer.
    layer
        From units to genes, without activation.
    truth
        ``log1p`` expression, on the CPU.
    scored
        The genes that count.
    scale
        Factor on the loss.
    dtype
        In which products are made: float32 or bfloat16.
    """
    assert layer.bias is not None
    loss: Tensor = _SquaredErrorOfSets.apply(hidden, layer.weight, layer.bias, truth, scored, scale, dtype)  # type: ignore[no-untyped-call]
    return loss


class _SquaredErrorOfSets(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        truth: SparseExpression,
        scored: GeneSets,
        scale: float,
        dtype: torch.dtype,
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            cells, rows = hidden.detach().to(dtype), weight.detach().to(dtype)
            offsets, genes, values = truth.arrays()
            n_threads = torch.get_num_threads()
            columns = ByGene.of(offsets, genes, n_genes=len(rows), n_threads=n_threads)
            d_hidden, d_weight = torch.zeros(cells.shape), torch.empty(rows.shape)
            d_bias, losses = torch.empty(len(rows)), np.empty(len(rows))
            for start in range(0, len(rows), _GENES_AT_ONCE):
                part = slice(start, min(start + _GENES_AT_ONCE, len(rows)))
                products = rows[part] @ cells.T
                in_equal_parts(
                    mask_residuals,
                    products.numpy() if dtype == torch.float32 else products.view(torch.uint16).numpy(),
                    scored.mask(part),
                    columns.gene_offsets[part.start : part.stop + 1],
                    columns.cells,
                    columns.entries,
                    values,
                    bias.detach()[part].numpy(),
                    np.float32(2 * scale),
                    d_bias[part].numpy(),
                    losses[part],
                    n_items=part.stop - part.start,
                    n_threads=n_threads,
                    work_of_item=truth.n_cells,
                )
                d_hidden += products.T @ rows[part]
                d_weight[part] = products @ cells
            ctx.gradients = (d_hidden.to(hidden.dtype), d_weight, d_bias)
        return torch.tensor(losses.sum() * scale, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        factor = gradients[0]
        parts = ctx.gradients if float(factor) == 1.0 else [part.mul_(factor) for part in ctx.gradients]
        return (*parts, None, None, None, None)
