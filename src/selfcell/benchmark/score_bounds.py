"""What a score can be at least and at most, so that no interval says more."""

import numpy as np

from selfcell.benchmark.intervals import Estimate

_SHARES = frozenset(
    {"macro_f1", "micro_f1", "balanced_accuracy", "macro_f1_frequent", "macro_f1_ontology", "micro_f1_ontology"}
    | {"total", "bio_conservation", "batch_correction", "all_total"}
)
"""Scores between 0 and 1."""


def bounds_of(metric: str) -> tuple[float, float]:
    """Give the bounds of a score by its name."""
    if "pearson" in metric or "spearman" in metric:
        return -1.0, 1.0
    if "mse" in metric:
        return 0.0, np.inf
    if "explained_variance" in metric:
        return -np.inf, 1.0
    return (0.0, 1.0) if metric in _SHARES else (-np.inf, np.inf)


def within(estimate: Estimate, bounds: tuple[float, float]) -> Estimate:
    """Cut off of an interval what the score cannot be."""
    return estimate._replace(low=max(estimate.low, bounds[0]), high=min(estimate.high, bounds[1]))
