"""Distributions of counts with the parameters of :mod:`selfcell.network.likelihoods`, in float64 and without torch."""

from dataclasses import dataclass

import numpy as np
import scipy.special
from jaxtyping import Float

from selfcell.data.counts import TARGET_TOTAL


@dataclass(frozen=True)
class CountDistribution:
    r"""Poisson, negative binomial, or zero-inflated negative binomial counts of some cells.

    The negative binomial has mean :math:`\mu` and variance :math:`\mu + \mu^2 / \theta`. With zero inflation a count is
    zero with probability :math:`\pi` besides, and the mean is that of the others.
    """

    mean: Float[np.ndarray, "n_cells n_genes"]
    inverse_dispersion: Float[np.ndarray, " n_genes"] | None = None
    """The :math:`\\theta` of each gene; None for Poisson."""
    extra_zero_logit: Float[np.ndarray, "n_cells n_genes"] | None = None
    """The logit of the :math:`\\pi` of each entry; None without zero inflation."""

    @classmethod
    def of_outputs(
        cls,
        outputs: Float[np.ndarray, "n_cells n_outputs"],
        library_size: Float[np.ndarray, " n_cells"],
        *,
        log_inverse_dispersion: Float[np.ndarray, " n_genes"] | None = None,
    ) -> "CountDistribution":
        """Read what a decoder gives.

        Parameters
        ----------
        outputs
            One number a gene, whose softplus is the mean in counts per 10,000; behind these, with zero inflation, one
            more, the logit of the share of zeros.
        library_size
            Counts of each cell.
        log_inverse_dispersion
            The likelihood's ``log_theta``; none for Poisson.
        """
        wide = outputs.astype(np.float64)
        n_genes = wide.shape[1] if log_inverse_dispersion is None else len(log_inverse_dispersion)
        mean = np.logaddexp(0.0, wide[:, :n_genes]) * (library_size.astype(np.float64) / TARGET_TOTAL)[:, None]
        theta = None if log_inverse_dispersion is None else np.exp(log_inverse_dispersion.astype(np.float64))
        return cls(mean, theta, wide[:, n_genes:] if wide.shape[1] > n_genes else None)

    @property
    def extra_zero(self) -> Float[np.ndarray, "n_cells n_genes"] | None:
        r"""The :math:`\pi` of each entry; None without zero inflation."""
        return None if self.extra_zero_logit is None else np.asarray(scipy.special.expit(self.extra_zero_logit))

    def log_probability(self, counts: Float[np.ndarray, "n_cells n_genes"]) -> Float[np.ndarray, "n_cells n_genes"]:
        """Give the logarithm of the probability of each count."""
        log_probability = self._log_zero()
        if self.extra_zero_logit is not None:
            # In logarithms throughout: a large logit makes 1 - pi zero.
            log_probability = np.logaddexp(_log_expit(self.extra_zero_logit), self._log_counted() + log_probability)
        cells, genes = counted = np.nonzero(counts)
        count, mean = counts[counted].astype(np.float64), self.mean[counted]
        if self.inverse_dispersion is None:
            of_counted = scipy.special.xlogy(count, mean) - mean - scipy.special.gammaln(count + 1)
        else:
            theta = self.inverse_dispersion[genes]
            ways = -scipy.special.betaln(theta, count + 1) - np.log(theta + count)
            share = scipy.special.xlogy(count, mean) - count * np.log(theta + mean)
            of_counted = ways + share - theta * np.log1p(mean / theta)
        if self.extra_zero_logit is not None:
            of_counted = of_counted + self._log_counted()[counted]
        log_probability[cells, genes] = of_counted
        return log_probability

    def zero_probability(self) -> Float[np.ndarray, "n_cells n_genes"]:
        """Give the probability that a count is zero."""
        return self._inflated(np.exp(self._log_zero()))

    def _log_zero(self) -> np.ndarray:
        if self.inverse_dispersion is None:
            return -self.mean
        return np.asarray(-self.inverse_dispersion * np.log1p(self.mean / self.inverse_dispersion))

    def _log_counted(self) -> np.ndarray:
        assert self.extra_zero_logit is not None
        return _log_expit(-self.extra_zero_logit)

    def _inflated(self, probability: np.ndarray) -> np.ndarray:
        extra_zero = self.extra_zero
        return probability if extra_zero is None else extra_zero + (1 - extra_zero) * probability


def _log_expit(logit: np.ndarray) -> np.ndarray:
    return np.asarray(-np.logaddexp(0.0, -logit))
