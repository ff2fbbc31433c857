"""How far the embeddings of different batches are apart, as a term of a loss."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the kernels, as multiples of the median squared distance."""


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
