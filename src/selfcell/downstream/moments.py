"""Means, variances and correlations from sums, where constants are found to be constant despite rounding."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# A variance this much smaller than the mean square about the shift is rounding. The shift is one of the values, which
# lies at most sqrt(n) standard deviations from their mean, so real variances are larger by far.
_ROUNDING = 1e-12


class Moments(NamedTuple):
    """Moments of truth and prediction, weighted by how often each value counts; arrays of one shape."""

    n: np.ndarray
    """How many values there are."""
    mean_truth: np.ndarray
    mean_predicted: np.ndarray
    variance_truth: np.ndarray
    """Divided by ``n``; exactly 0 where all values are one."""
    variance_predicted: np.ndarray
    covariance: np.ndarray

    @property
    def variance_of_error(self) -> np.ndarray:
        """Variance of truth minus prediction."""
        return np.asarray(np.maximum(self.variance_truth + self.variance_predicted - 2 * self.covariance, 0.0))

    @property
    def squared_error(self) -> np.ndarray:
        """Mean squared error."""
        return np.asarray(self.variance_of_error + (self.mean_truth - self.mean_predicted) ** 2)

    @property
    def pearson(self) -> np.ndarray:
        """Pearson correlation: NaN where the truth is constant, 0 where only the prediction is."""
        scale = np.sqrt(self.variance_truth) * np.sqrt(self.variance_predicted)
        correlation = np.clip(self.covariance / np.where(scale > 0, scale, 1.0), -1.0, 1.0)
        return np.asarray(np.where(self.variance_truth > 0, correlation, np.nan))

    @property
    def explained_variance(self) -> np.ndarray:
        """1 - variance of error / variance of truth; for constant truth 1 if the prediction is constant too, else 0."""
        varies = self.variance_truth > 0
        explained = 1 - self.variance_of_error / np.where(varies, self.variance_truth, 1.0)
        return np.asarray(np.where(varies, explained, self.variance_predicted == 0))


def moments(
    n: Float[np.ndarray, "..."],
    sums: Float[np.ndarray, "5 ..."],
    *,
    shift_truth: Float[np.ndarray, "..."],
    shift_predicted: Float[np.ndarray, "..."],
) -> Moments:
    """Compute moments from sums about a shift; NaN where there are no values.

    Parameters
    ----------
    n
        How many values there are.
    sums
        Of truth, prediction, their squares and their product, each after the shift was taken off.
    shift_truth, shift_predicted
        The shifts.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        truth, predicted, truth_squared, predicted_squared, product = sums / n
    variance_truth = _variance(truth, truth_squared)
    variance_predicted = _variance(predicted, predicted_squared)
    vary = (variance_truth != 0) & (variance_predicted != 0)
    covariance = np.where(vary, product - truth * predicted, 0.0)
    return Moments(
        np.broadcast_to(n, truth.shape),
        truth + shift_truth,
        predicted + shift_predicted,
        variance_truth,
        variance_predicted,
        covariance,
    )


def _variance(mean: np.ndarray, mean_square: np.ndarray) -> np.ndarray:
    variance = mean_square - mean**2
    return np.where(variance <= _ROUNDING * mean_square, 0.0, variance)
