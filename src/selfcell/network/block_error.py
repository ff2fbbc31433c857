"""Squared error of a linear last layer over all genes, some genes of all cells at a time; for a GPU.

A GPU multiplies dense matrices faster than it looks entries up, so every product is made. What is saved is memory and
its traffic: predictions are turned into errors in the block where they were made, and both gradients are taken from it
at once.

What is compiled is marked ``no_type_check``, since what checks types at run time in tests cannot be.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from selfcell.network.padded import GeneBlocks, padded_rows

UNSCORED = -1.0
"""Stands where expression would stand, for what the error leaves out."""


def squared_error_in_blocks(
    hidden: Float[Tensor, "n_cells n_units"],
    layer: nn.Linear,
    truth: Float[Tensor, "n_cells n_columns"],
    *,
    zero_weight: float,
    scale: Float[Tensor, ""],
    dtype: torch.dtype,
    compiled: bool = False,
) -> Float[Tensor, ""]:
    r"""Squared error over all genes, zeros by a weight of their own.

    .. math::

        L = s \Bigl( \sum_{x_{cg} > 0} (w_g \cdot h_c + b_g - x_{cg})^2
            + z \sum_{x_{cg} = 0} (w_g \cdot h_c + b_g)^2 \Bigr) .

    Parameters
    ----------
    hidden
        What goes into the layer.
    layer
        From units to genes, without activation.
    truth
        ``log1p`` expression with the columns of :class:`selfcell.network.padded.GeneBlocks`, and :data:`UNSCORED` where
        the error does not count and where there is no gene.
    zero_weight
        Weight :math:`z` of the genes that a cell does not express.
    scale
        Factor :math:`s` on the loss. It stays on the device.
    dtype
        In which matrices are multiplied: float32, or bfloat16, whose errors are computed and summed in float32.
    compiled
        Have the errors computed by one compiled kernel instead of several.
    """
    assert layer.bias is not None
    loss: Tensor = _SquaredErrorInBlocks.apply(  # type: ignore[no-untyped-call]
        hidden, layer.weight, layer.bias, truth, zero_weight, scale, dtype, compiled, torch.is_grad_enabled()
    )
    return loss


class _SquaredErrorInBlocks(torch.autograd.Function):
    """Takes the gradients together with the loss: they need the same products, which then are made once."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        truth: Tensor,
        zero_weight: float,
        scale: Tensor,
        dtype: torch.dtype,
        compiled: bool,  # noqa: FBT001 - a Function's arguments have no names
        differentiate: bool,  # noqa: FBT001
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            score = _compiled_score() if compiled else score_block
            blocks, cells = GeneBlocks.of(len(weight)), hidden.detach().to(dtype)
            rows = padded_rows(weight.detach(), blocks.n_columns, dtype)
            biases = padded_rows(bias.detach(), blocks.n_columns, torch.float32)
            loss, d_hidden = torch.zeros((), device=cells.device), torch.zeros_like(cells, dtype=torch.float32)
            d_weight, d_bias = torch.empty_like(rows, dtype=torch.float32), torch.empty_like(biases)
            for part in blocks:
                error, squares = score(cells @ rows[part].T, biases[part], truth[:, part], zero_weight, scale)
                loss += squares
                if differentiate:
                    d_hidden += error @ rows[part]
                    d_weight[part] = error.T @ cells
                    d_bias[part] = error.sum(dim=0, dtype=torch.float32)
            ctx.gradients = (d_hidden.to(hidden.dtype), d_weight[: len(weight)], d_bias[: len(weight)])
        return loss * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        parts = [(part * gradients[0]).to(part.dtype) for part in ctx.gradients]
        return (*parts, None, None, None, None, None, None)


@no_type_check
def score_block(
    products: Float[Tensor, "n_cells n_some"],
    bias: Float[Tensor, " n_some"],
    truth: Float[Tensor, "n_cells n_some"],
    zero_weight: float,
    scale: Float[Tensor, ""],
) -> tuple[Float[Tensor, "n_cells n_some"], Float[Tensor, ""]]:
    """Give the gradient of the scaled error by each prediction, in the type of the products, and the error unscaled."""
    truth = truth.float()
    error = products.float() + bias - truth
    weighted = error * torch.where(truth > 0, 1.0, torch.where(truth == 0, zero_weight, 0.0))
    return (weighted * (2 * scale)).to(products.dtype), (weighted * error).sum()


@functools.cache
def _compiled_score() -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.compile(score_block)


@functools.cache
def compiler_fault(device: torch.device) -> str | None:
    """Say why torch cannot compile for a device, or None where it can; it is tried on a few numbers."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    try:
        # Another function than the one that is meant: it would be compiled for the shapes of both.
        torch.compile(_tried)(torch.ones(2, device=device))
    except Exception as error:  # noqa: BLE001 - compilers fail in many ways, and there is another way to compute
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return None


@no_type_check
def _tried(numbers: Tensor) -> Tensor:
    return (2 * numbers).sum()
