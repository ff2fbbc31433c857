"""Heads that pretext tasks put on the encoder while it trains: projectors and predictors."""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from selfcell.network.compute import Compute

HeadSizes = Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)]
"""Units of the layers of a head, from the encoder outwards, at least one."""

HeadActivation = Literal["relu", "gelu"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}

LastLayer = Literal["linear", "linear_without_bias", "batch_norm", "batch_norm_without_scale"]
"""What a head ends in. Batch norm follows a Linear without bias, and may be without scale and shift."""


class Head(nn.Sequential):
    """Layers computed as the encoder's hidden ones are; what comes out is of the weights' type."""

    compute = Compute()

    def forward(self, input: Float[Tensor, "n_cells n_units"]) -> Float[Tensor, "n_cells n_outputs"]:  # noqa: A002
        """Apply the layers."""
        weight = next(self.parameters())
        with self.compute.blocks(weight.device):
            output: Tensor = super().forward(input)  # type: ignore[no-untyped-call]
        return output.to(weight.dtype)


def projection_head(
    sizes: Sequence[int],
    *,
    last: LastLayer = "linear",
    batch_norm: bool = True,
    activation: HeadActivation = "relu",
) -> Head:
    """Stack Linear, batch norm, activation; the last Linear has no activation.

    A Linear before batch norm has no bias, which the norm would take away again. In training over several processes
    each normalizes over its own cells unless batch norm is made common, by torch's
    ``SyncBatchNorm.convert_sync_batchnorm``.

    The heads of the papers' texts, made for images, in these arguments (their sizes without the encoder's 2,048 units):

    ==============  ========================  ==========================  ========================================
    task            projector                 ends in                     predictor, always ``linear`` at the end
    ==============  ========================  ==========================  ========================================
    SimCLR          2048-128                  ``linear``
    MoCo v2         2048-128                  ``linear``, no batch norm
    BYOL            4096-256                  ``linear``                  4096-256
    SimSiam         2048-2048-2048            ``batch_norm_...``          512-2048
    Barlow Twins    8192-8192-8192            ``linear_without_bias``
    VICReg          8192-8192-8192            ``linear_without_bias``
    NNCLR           2048-2048-256             ``batch_norm``              4096-256
    DINO            2048-2048-256, GELU       ``linear``, no batch norm
    ==============  ========================  ==========================  ========================================

    Parameters
    ----------
    sizes
        Width of the input, of the hidden layers, and of the output.
    last
        What it ends in.
    batch_norm
        Whether the hidden layers are normalized.
    activation
        After each hidden layer.
    """
    blocks: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes[:-1]):
        blocks.append(nn.Linear(n_in, n_out, bias=not batch_norm))
        if batch_norm:
            blocks.append(nn.BatchNorm1d(n_out))
        blocks.append(_ACTIVATIONS[activation]())
    blocks.append(nn.Linear(sizes[-2], sizes[-1], bias=last == "linear"))
    if last in {"batch_norm", "batch_norm_without_scale"}:
        blocks.append(nn.BatchNorm1d(sizes[-1], affine=last == "batch_norm"))
    return Head(*blocks)


@torch.no_grad()
def projection_spread(projection: Float[Tensor, "n_cells n_units"]) -> Float[Tensor, ""]:
    """Tell how far projections point in different directions: 0 if all in one, near 1 if evenly in all.

    The standard deviation over cells of each unit of the projections at unit length, averaged over units, times the
    root of their number :cite:p:`chen2021simsiam`.
    """
    spread: Tensor = functional.normalize(projection, dim=1).std(dim=0, correction=0).mean()
    return spread * math.sqrt(projection.shape[1])
