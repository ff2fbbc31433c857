"""Terms of a loss that ask embeddings of different batches to be alike."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

_UNITS = 128
_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the kernels, as multiples of the median squared distance."""


class BatchDiscriminator(nn.Module):
    """Tells the batch of a cell from its embedding, while the encoder learns the opposite :cite:p:`ganin2016`.

    Parameters
    ----------
    n_latent, n_batches
        Sizes.
    """

    def __init__(self, *, n_latent: int, n_batches: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_latent, _UNITS), nn.ReLU(), nn.Linear(_UNITS, _UNITS), nn.ReLU(), nn.Linear(_UNITS, n_batches)
        )

    def forward(
        self, embedding: Float[Tensor, "n_cells n_latent"], batch_code: Int[Tensor, " n_cells"]
    ) -> Float[Tensor, ""]:
        """Give the cross-entropy, which the discriminator lowers, and the encoder raises."""
        return functional.cross_entropy(self.layers(reverse_gradient(embedding)), batch_code)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004 - a Function's
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return -gradients[0]


def reverse_gradient(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Give the same values, whose gradient is turned round on its way back."""
    reversed_: Tensor = _Reversed.apply(values)  # type: ignore[no-untyped-call]
    return reversed_


def maximum_mean_discrepancy(
    embedding: Float[Tensor, "n_cells n_latent"], batch_code: Int[Tensor, " n_cells"], *, n_batches: int
) -> Float[Tensor, ""]:
    r"""Give the mean squared discrepancy between the pairs of batches :cite:p:`gretton2012`; 0 for a single batch.

    For batches :math:`a, b` it is

    .. math:: \overline{k}_{aa} + \overline{k}_{bb} - 2 \overline{k}_{ab} ,

    with the mean of the kernel over all pairs of their cells, a cell with itself included. The kernel is a mean of
    Gaussian ones, whose widths are multiples of the median squared distance between the cells.
    """
    squared = torch.cdist(embedding, embedding, compute_mode="donot_use_mm_for_euclid_dist").square()
    median = squared.detach().median().clamp(min=torch.finfo(squared.dtype).tiny)
    kernel = torch.stack([(-squared / (2 * width * median)).exp() for width in _BANDWIDTHS]).mean(dim=0)
    belongs = functional.one_hot(batch_code, n_batches).to(kernel.dtype)
    belongs = belongs[:, belongs.sum(dim=0) > 0]
    share = belongs / belongs.sum(dim=0)
    means = share.T @ kernel @ share
    within = means.diagonal()
    between = within[:, None] + within[None, :] - 2 * means
    n_present = len(within)
    return between.sum() / max(n_present * (n_present - 1), 1)
