"""How far a decoder's output is from what was measured: squared error, or a likelihood of counts.

Each is a function of outputs and truth, entry by entry, so that any part of the entries can be averaged.
"""

import abc
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

LikelihoodName = Literal["squared_error", "poisson", "negative_binomial", "zero_inflated_negative_binomial"]
OutputName = Literal["identity", "softplus"]

_PER = 10_000.0
_SMALLEST_MEAN = 1e-8


class Likelihood(nn.Module, abc.ABC):
    """The negative log-likelihood of each gene of each cell, up to a constant for the squared error.

    Parameters
    ----------
    n_genes
        Genes.
    """

    outputs_per_gene = 1
    """How many numbers the decoder gives for a gene; the first ``n_genes`` outputs are the first of each gene."""
    of_counts = True
    """Whether the truth is counts, with their sum per cell, or ``log1p`` of counts per 10,000."""

    def __init__(self, n_genes: int) -> None:
        super().__init__()
        self.n_genes = n_genes

    @abc.abstractmethod
    def forward(
        self,
        outputs: Float[Tensor, "n_cells n_outputs"],
        truth: Float[Tensor, "n_cells n_genes"],
        library_size: Float[Tensor, " n_cells"],
    ) -> Float[Tensor, "n_cells n_genes"]:
        """Give the loss of each entry."""


class SquaredError(Likelihood):
    """Squared difference on ``log1p`` expression.

    Parameters
    ----------
    n_genes
        Genes.
    output
        What the decoder's output goes through first: identity, or softplus, which cannot be negative.
    """

    of_counts = False

    def __init__(self, n_genes: int, output: OutputName = "identity") -> None:
        super().__init__(n_genes)
        self.output = output

    def forward(
        self,
        outputs: Float[Tensor, "n_cells n_genes"],
        truth: Float[Tensor, "n_cells n_genes"],
        library_size: Float[Tensor, " n_cells"],  # noqa: ARG002
    ) -> Float[Tensor, "n_cells n_genes"]:
        """Give the squared error of each entry."""
        predicted = functional.softplus(outputs) if self.output == "softplus" else outputs
        return (predicted - truth).square()


class Poisson(Likelihood):
    r"""Poisson counts with mean :math:`\mu_{cg} = \mathrm{softplus}(o_{cg}) \, l_c / 10^4`, :math:`l` the library size.

    The output is so in counts per 10,000, whatever the depth of the cell, and depends on no other gene's.
    """

    def forward(
        self,
        outputs: Float[Tensor, "n_cells n_genes"],
        truth: Float[Tensor, "n_cells n_genes"],
        library_size: Float[Tensor, " n_cells"],
    ) -> Float[Tensor, "n_cells n_genes"]:
        """Give the negative log-probability of each count."""
        mean = _mean(outputs, library_size)
        return mean - truth * mean.log() + torch.lgamma(truth + 1)


class NegativeBinomial(Likelihood):
    r"""Negative binomial counts, with the mean of :class:`Poisson` and variance :math:`\mu + \mu^2 / \theta_g`.

    The inverse dispersion :math:`\theta` is learned for each gene, as its logarithm.

    Departs from the paper's released code :cite:p:`richter2025`, which scores ``log1p`` values instead of counts.
    """

    def __init__(self, n_genes: int) -> None:
        super().__init__(n_genes)
        self.log_inverse_dispersion = nn.Parameter(torch.zeros(n_genes))

    def forward(
        self,
        outputs: Float[Tensor, "n_cells n_outputs"],
        truth: Float[Tensor, "n_cells n_genes"],
        library_size: Float[Tensor, " n_cells"],
    ) -> Float[Tensor, "n_cells n_genes"]:
        """Give the negative log-probability of each count."""
        return self.negative_log(_mean(outputs, library_size), truth)

    def negative_log(
        self, mean: Float[Tensor, "n_cells n_genes"], truth: Float[Tensor, "n_cells n_genes"]
    ) -> Float[Tensor, "n_cells n_genes"]:
        """Give the negative log-probability of each count, given its mean."""
        theta = self.log_inverse_dispersion.exp()
        log_total = (theta + mean).log()
        return (
            torch.lgamma(theta)
            + torch.lgamma(truth + 1)
            - torch.lgamma(truth + theta)
            - theta * (self.log_inverse_dispersion - log_total)
            - truth * (mean.log() - log_total)
        )


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """Negative binomial counts, of which a share is zero besides; the second output of a gene is that share's logit."""

    outputs_per_gene = 2

    def forward(
        self,
        outputs: Float[Tensor, "n_cells n_outputs"],
        truth: Float[Tensor, "n_cells n_genes"],
        library_size: Float[Tensor, " n_cells"],
    ) -> Float[Tensor, "n_cells n_genes"]:
        """Give the negative log-probability of each count."""
        of_counts, extra_zero = outputs[:, : self.n_genes], outputs[:, self.n_genes :]
        counted = -self.negative_log(_mean(of_counts, library_size), truth) + functional.logsigmoid(-extra_zero)
        zero = torch.logaddexp(functional.logsigmoid(extra_zero), counted)
        return -torch.where(truth == 0, zero, counted)


def make_likelihood(name: LikelihoodName, *, n_genes: int, output: OutputName = "identity") -> Likelihood:
    """Make a likelihood by name; ``output`` is the squared error's."""
    if name == "squared_error":
        return SquaredError(n_genes, output)
    classes: dict[str, type[Likelihood]] = {
        "poisson": Poisson,
        "negative_binomial": NegativeBinomial,
        "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomial,
    }
    return classes[name](n_genes)


def _mean(
    outputs: Float[Tensor, "n_cells n_genes"], library_size: Float[Tensor, " n_cells"]
) -> Float[Tensor, "n_cells n_genes"]:
    # A mean of exactly 0, where softplus underflows, has no logarithm.
    return functional.softplus(outputs) * (library_size[:, None] / _PER) + _SMALLEST_MEAN
