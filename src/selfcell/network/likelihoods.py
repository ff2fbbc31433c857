"""How far a decoder's output is from what was measured: squared error, or a likelihood of counts.

Each is a function of outputs and truth, entry by entry, so that any part of the entries can be averaged.
"""

import abc
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

LikelihoodName = Literal["squared_error", "poisson", "negative_binomial", "zero_inflated_negative_binomial"]
OutputName = Literal["identity", "softplus", "sigmoid"]

_PER = 10_000.0
_LARGEST_LOG_THETA = 15.0
_STIRLING_FROM = 32.0
_EXPONENTIAL_BELOW = -15.0


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

    def forward(
        self,
        outputs: Float[Tensor, "n_cells n_outputs"],
        truth: Float[Tensor, "n_cells n_genes"],
        library_size: Float[Tensor, " n_cells"],
    ) -> Float[Tensor, "n_cells n_genes"]:
        """Give the loss of each entry."""
        of_gene = outputs.reshape(len(outputs), self.outputs_per_gene, self.n_genes).transpose(0, 1)
        return self.of_entries(of_gene, truth, library_size[:, None], genes=slice(None))

    def expected(
        self, outputs: Float[Tensor, "n_cells n_outputs"], library_size: Float[Tensor, " n_cells"]
    ) -> Float[Tensor, "n_cells n_genes"]:
        """Give what is expected of each entry: counts of cells with so many, or ``log1p`` of counts per 10,000."""
        of_gene = outputs.reshape(len(outputs), self.outputs_per_gene, self.n_genes).transpose(0, 1)
        return self.mean(of_gene, library_size[:, None])

    @abc.abstractmethod
    def mean(
        self, outputs: Float[Tensor, " outputs_per_gene *entries"], library_size: Float[Tensor, "..."]
    ) -> Float[Tensor, " *entries"]:
        """Give the mean of what the likelihood is of, entry by entry; arguments as in :meth:`of_entries`."""

    @abc.abstractmethod
    def of_entries(
        self,
        outputs: Float[Tensor, " outputs_per_gene *entries"],
        truth: Float[Tensor, " *entries"],
        library_size: Float[Tensor, "..."],
        *,
        genes: slice | Int[Tensor, " *entries"],
    ) -> Float[Tensor, " *entries"]:
        """Give the loss of some entries.

        Parameters
        ----------
        outputs
            What the decoder gives for each.
        truth
            What was measured.
        library_size
            Counts of the cell of each.
        genes
            Gene of each: along the last axis, or one by one.
        """


class SquaredError(Likelihood):
    """Squared difference on ``log1p`` expression.

    Parameters
    ----------
    n_genes
        Genes.
    output
        What the decoder's output goes through first: identity; softplus, which cannot be negative; or sigmoid, which
        cannot exceed 1 either.
    """

    of_counts = False

    def __init__(self, n_genes: int, output: OutputName = "identity") -> None:
        super().__init__(n_genes)
        self.output = output

    def of_entries(
        self,
        outputs: Float[Tensor, " 1 *entries"],
        truth: Float[Tensor, " *entries"],
        library_size: Float[Tensor, "..."],
        *,
        genes: slice | Int[Tensor, " *entries"],  # noqa: ARG002
    ) -> Float[Tensor, " *entries"]:
        """Give the squared error of each entry."""
        return (self.mean(outputs, library_size) - truth).square()

    def mean(
        self,
        outputs: Float[Tensor, " 1 *entries"],
        library_size: Float[Tensor, "..."],  # noqa: ARG002
    ) -> Float[Tensor, " *entries"]:
        """Give the ``log1p`` expression of each entry."""
        if self.output == "sigmoid":
            return outputs[0].sigmoid()
        return functional.softplus(outputs[0]) if self.output == "softplus" else outputs[0]


class Poisson(Likelihood):
    r"""Poisson counts with mean :math:`\mu_{cg} = \mathrm{softplus}(o_{cg}) \, l_c / 10^4`, :math:`l` the library size.

    The output is so in counts per 10,000, whatever the depth of the cell, and depends on no other gene's.
    """

    def of_entries(
        self,
        outputs: Float[Tensor, " 1 *entries"],
        truth: Float[Tensor, " *entries"],
        library_size: Float[Tensor, "..."],
        *,
        genes: slice | Int[Tensor, " *entries"],  # noqa: ARG002
    ) -> Float[Tensor, " *entries"]:
        """Give the negative log-probability of each count."""
        log_mean = _log_mean(outputs[0], library_size)
        return log_mean.exp() - truth * log_mean + torch.lgamma(truth + 1)

    def mean(
        self, outputs: Float[Tensor, " 1 *entries"], library_size: Float[Tensor, "..."]
    ) -> Float[Tensor, " *entries"]:
        """Give the mean count of each entry."""
        return _log_mean(outputs[0], library_size).exp()


class NegativeBinomial(Likelihood):
    r"""Negative binomial counts, with the mean of :class:`Poisson` and variance :math:`\mu + \mu^2 / \theta_g`.

    The inverse dispersion :math:`\theta` is learned for each gene, as its logarithm, and kept between
    :math:`e^{-15}` and :math:`e^{15}`, where it is Poisson to all digits.

    Departs from the paper's released code :cite:p:`richter2025`, which scores ``log1p`` values instead of counts.
    """

    def __init__(self, n_genes: int) -> None:
        super().__init__(n_genes)
        self.log_inverse_dispersion = nn.Parameter(torch.zeros(n_genes))

    @property
    def log_theta(self) -> Float[Tensor, " n_genes"]:
        """Logarithm of the inverse dispersion of each gene, within its bounds."""
        return self.log_inverse_dispersion.clamp(-_LARGEST_LOG_THETA, _LARGEST_LOG_THETA)

    def of_entries(
        self,
        outputs: Float[Tensor, " outputs_per_gene *entries"],
        truth: Float[Tensor, " *entries"],
        library_size: Float[Tensor, "..."],
        *,
        genes: slice | Int[Tensor, " *entries"],
    ) -> Float[Tensor, " *entries"]:
        """Give the negative log-probability of each count."""
        return self.negative_log(_log_mean(outputs[0], library_size), truth, genes=genes)

    def mean(
        self, outputs: Float[Tensor, " outputs_per_gene *entries"], library_size: Float[Tensor, "..."]
    ) -> Float[Tensor, " *entries"]:
        """Give the mean count of each entry."""
        return _log_mean(outputs[0], library_size).exp()

    def negative_log(
        self,
        log_mean: Float[Tensor, " *entries"],
        truth: Float[Tensor, " *entries"],
        *,
        genes: slice | Int[Tensor, " *entries"] = slice(None),
    ) -> Float[Tensor, " *entries"]:
        r"""Give the negative log-probability of each count :math:`x`, given the logarithm of its mean.

        Put together from terms that stay small as :math:`\theta` grows,

        .. math::

            \log x! - \log\frac{\Gamma(x + \theta)}{\Gamma(\theta) \theta^x} - x \log\mu
            + (x + \theta) \log(1 + \mu / \theta) .
        """
        log_theta = self.log_theta[genes]
        theta = log_theta.exp()
        over = torch.log1p((log_mean - log_theta).exp())
        return torch.lgamma(truth + 1) - _log_rising(theta, truth) - truth * log_mean + (truth + theta) * over


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """Negative binomial counts, of which a share is zero besides; the second output of a gene is that share's logit."""

    outputs_per_gene = 2

    def of_entries(
        self,
        outputs: Float[Tensor, " 2 *entries"],
        truth: Float[Tensor, " *entries"],
        library_size: Float[Tensor, "..."],
        *,
        genes: slice | Int[Tensor, " *entries"],
    ) -> Float[Tensor, " *entries"]:
        """Give the negative log-probability of each count."""
        of_counts, extra_zero = outputs
        of_count = self.negative_log(_log_mean(of_counts, library_size), truth, genes=genes)
        counted = functional.logsigmoid(-extra_zero) - of_count
        zero = torch.logaddexp(functional.logsigmoid(extra_zero), counted)
        return -torch.where(truth == 0, zero, counted)

    def mean(
        self, outputs: Float[Tensor, " 2 *entries"], library_size: Float[Tensor, "..."]
    ) -> Float[Tensor, " *entries"]:
        """Give the mean count of each entry, zeros besides included."""
        of_counts, extra_zero = outputs
        return (_log_mean(of_counts, library_size) + functional.logsigmoid(-extra_zero)).exp()


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


def _log_mean(outputs: Float[Tensor, " *entries"], library_size: Float[Tensor, "..."]) -> Float[Tensor, " *entries"]:
    # Far below zero softplus is exp to all digits, and its logarithm the output itself, with its gradient.
    of_softplus = functional.softplus(outputs.clamp(min=_EXPONENTIAL_BELOW)).log()
    per_total = torch.where(outputs < _EXPONENTIAL_BELOW, outputs, of_softplus)
    return per_total + depth_of(library_size).log()


def depth_of(library_size: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Give library sizes in 10,000 counts; that of a cell without counts is tiny, so that it has a logarithm."""
    return (library_size / _PER).clamp(min=torch.finfo(library_size.dtype).tiny)


def _log_rising(theta: Float[Tensor, "..."], truth: Float[Tensor, " *entries"]) -> Float[Tensor, " *entries"]:
    r"""Give :math:`\log \Gamma(x + \theta) - \log \Gamma(\theta) - x \log \theta`.

    The gamma functions grow and cancel as theta does, to nothing but rounding; from 32 on Stirling's series takes their
    place, in which they cancel on paper. Its error there is under 1e-10.
    """
    small, large = theta.clamp(max=_STIRLING_FROM), theta.clamp(min=_STIRLING_FROM)
    by_gamma = torch.lgamma(truth + small) - torch.lgamma(small) - truth * small.log()
    ratio = (large + truth - 0.5) * torch.log1p(truth / large) - truth
    by_series = ratio + _stirling(large + truth) - _stirling(large)
    return torch.where(theta < _STIRLING_FROM, by_gamma, by_series)


def _stirling(z: Tensor) -> Tensor:
    return 1 / (12 * z) - 1 / (360 * z**3)
