"""Squared error over a set of genes of each cell."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from selfcell.data.minibatch import SparseExpression
from selfcell.network.blocks import Gradients, error_of_genes
from selfcell.network.gene_sets import GeneSets


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

    Products of all cells with some genes at a time are made, used and forgotten: loss and gradients are
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
            gradients = Gradients(torch.zeros(cells.shape), torch.empty(rows.shape), torch.empty(len(rows)))
            loss = error_of_genes(
                np.arange(len(rows)),
                rows,
                bias.detach(),
                cells,
                truth,
                gradients,
                zero_weight=torch.full((truth.n_cells,), scale),
                scored=scored,
            )
            ctx.gradients = (gradients.hidden.to(hidden.dtype), gradients.weight, gradients.bias)
        return torch.tensor(loss, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        factor = gradients[0]
        parts = ctx.gradients if float(factor) == 1.0 else [part.mul_(factor) for part in ctx.gradients]
        return (*parts, None, None, None, None)
