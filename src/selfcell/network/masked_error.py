"""Squared error over a set of genes of each cell."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from selfcell.data.minibatch import SparseExpression
from selfcell.network.blocks import Gradients, error_of_genes, given_away
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
    loss: Tensor = _SquaredErrorOfSets.apply(  # type: ignore[no-untyped-call]
        hidden, layer.weight, layer.bias, truth, scored, scale, dtype, torch.is_grad_enabled()
    )
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
        differentiate: bool,  # noqa: FBT001 - a Function's arguments have no names
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            cells, rows = hidden.detach().to(dtype), weight.detach().to(dtype)
            gradients = Gradients.like(hidden, weight) if differentiate else None
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
            ctx.gradients = None if gradients is None else gradients.given_as(hidden.dtype)
        return torch.tensor(loss, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (*given_away(ctx, gradients[0]), None, None, None, None, None)
