"""Means with intervals, from the scores of seeds and of draws of test donors.

Cells of one donor are not independent, and three seeds are too few for a bootstrap over seeds. So the variance of a
mean over seeds is put together from parts: the variance between seeds, divided by their number, and the variance over
test donors, from a bootstrap that draws whole donors anew and recomputes the score. Where every pre-training is
fine-tuned with every seed, pre-trainings and fine-tunings each give a part: the variance of the means over the other,
divided by their number, which counts what is left of each pair twice, on the safe side. The interval is Student's, with
the degrees of freedom of Welch and Satterthwaite. Differences are taken within each pair of seeds and each draw of
donors.
"""

import re
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.stats
from jaxtyping import Float

N_RESAMPLES = 2_000
CONFIDENCE = 0.95
POWER = 0.8
_LEAST_DEGREES = 2
"""Of freedom, where seeds alone vary: from two seeds that happen to agree no certainty follows."""


class Estimate(NamedTuple):
    """A mean over seeds with its 95 % interval."""

    mean: float
    low: float
    """NaN where nothing was varied that an interval could be made of."""
    high: float
    by_seed: tuple[float, ...]
    standard_error: float = float("nan")
    """Of the mean."""
    degrees: float = float("nan")
    """Of freedom, of Student's t."""
    levels: int | None = None
    """How many values the seed took that took the fewest, of pre-training and fine-tuning, if it was varied."""

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.mean:.3f}"
        low, high = (re.sub(r"^(-?)0\.", r"\1.", f"{bound:.3f}") for bound in (self.low, self.high))
        return f"{self.mean:.3f} [{low}, {high}]"

    @property
    def p_value(self) -> float:
        """Two-sided probability of a mean as far from 0, by the same t as the interval; NaN where there is none."""
        if not self.standard_error > 0:
            return float("nan")
        return float(2 * scipy.stats.t.sf(abs(self.mean) / self.standard_error, self.degrees))

    @property
    def detectable(self) -> float:
        """The difference that an interval would tell from 0 with a probability of 0.8, given this spread."""
        if not self.standard_error > 0:
            return float("nan")
        return float(_least_distance(self.degrees) * self.standard_error)

    def with_sign(self) -> str:
        """Write it as a difference, with signs."""
        return f"{self.mean:+.3f}" + ("" if np.isnan(self.low) else f" [{self.low:+.3f}, {self.high:+.3f}]")


class Draws(NamedTuple):
    """The score of one method at one budget: of each pair of seeds, and of each draw of test donors."""

    seeds: tuple[tuple[int, int], ...]
    """Seeds of pre-training and of fine-tuning."""
    by_seed: Float[np.ndarray, " n_seeds"]
    """Over all test cells."""
    resampled: Float[np.ndarray, " n_draws"]
    """Mean over seeds; empty where the score has no meaning on a draw of donors."""
    n_units: int
    """Test donors."""
    works: tuple[str, ...] = ()
    """What was computed for each pair; scores of pairs that share it are one score, written down twice. None: all
    differ."""

    def without_copies(self) -> "Draws":
        """Give the scores that were computed, each once."""
        if len(set(self.works)) == len(self.works):
            return self
        kept = [self.works.index(work) for work in dict.fromkeys(self.works)]
        return self._replace(
            seeds=tuple(self.seeds[place] for place in kept),
            by_seed=self.by_seed[kept],
            works=tuple(self.works[place] for place in kept),
        )


def estimate_of(draws: Draws) -> Estimate:
    """Estimate a mean over seeds, or a difference of two, by the rule at the head of this file."""
    parts = _variances_over_seeds(draws)
    levels = min((degrees + 1 for _, degrees in parts), default=1)
    mean, by_seed = float(draws.by_seed.mean()), tuple(map(float, draws.by_seed))
    # Draws on which the score has no meaning say nothing.
    if draws.n_units > 1 and np.isfinite(draws.resampled).any():
        # The bootstrap's variance is too small by (n - 1) / n.
        parts.append((float(np.nanvar(draws.resampled)) * draws.n_units / (draws.n_units - 1), draws.n_units - 1))
    elif not any(part for part, _ in parts) or max(degrees for _, degrees in parts) < _LEAST_DEGREES:
        # Only seeds could vary, and none of them matters, or two agree by chance: that is no certainty.
        return Estimate(mean, np.nan, np.nan, by_seed, levels=levels)
    variance = sum(part for part, _ in parts)
    uncertainty = sum(part**2 / degrees for part, degrees in parts) + np.finfo(float).tiny
    degrees, error = max(variance**2 / uncertainty, 1.0), float(np.sqrt(variance))
    half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * error
    return Estimate(mean, mean - half, mean + half, by_seed, error, float(degrees), levels)


def _least_distance(degrees: float) -> float:
    """Give how many standard errors from 0 a mean must be to be told from it, with the power asked for."""
    certain = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, degrees))
    # The noncentral t, since the standard error is itself estimated; with 1 degree the distance is 1.3 times certain.
    return float(
        scipy.optimize.brentq(lambda distance: scipy.stats.nct.sf(certain, degrees, distance) - POWER, 0, 2 * certain)
    )


def _variances_over_seeds(draws: Draws) -> list[tuple[float, int]]:
    """Give the parts of the variance of the mean that come from seeds, each with its degrees of freedom."""
    pretraining, finetuning = (np.array(seeds) for seeds in zip(*draws.seeds, strict=True))
    n_seeds = len(draws.by_seed)
    if n_seeds == 1:
        return []
    if len(np.unique(finetuning)) == n_seeds and len(np.unique(pretraining)) > 1:
        # Each fine-tuning has a pre-training of its own, or several share one: a pre-training is what is independent,
        # and one variance takes in both.
        return [_variance_over(pretraining, draws.by_seed)]
    # Crossed, with all pairs or with those of which no trial failed.
    return [_variance_over(factor, draws.by_seed) for factor in (pretraining, finetuning) if len(np.unique(factor)) > 1]


def _variance_over(factor: np.ndarray, values: np.ndarray) -> tuple[float, int]:
    """Give what the levels of one kind of seed add to the variance of the mean, and its degrees of freedom."""
    levels, sizes = np.unique(factor, return_counts=True)
    means = np.array([values[factor == level].mean() for level in levels])
    # Levels weigh by their pairs in the mean, which are not always as many.
    return float(means.var(ddof=1) * ((sizes / sizes.sum()) ** 2).sum()), len(levels) - 1
