"""How methods rank over data sets :cite:p:`demsar2006`."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
from jaxtyping import Float


class Ranking(NamedTuple):
    """Mean ranks, and how far apart they must be."""

    mean_rank: pd.Series
    """By method, the best first; 1 is the best at every target."""
    n_targets: int
    critical_difference: float
    """Of two mean ranks, by Nemenyi's test at 0.05."""
    p_value: float
    """That all methods are alike, by Friedman's test; NaN with fewer than three methods."""


def rank_methods(scores: pd.DataFrame) -> Ranking:
    """Rank methods at each target, ties sharing their ranks, and average.

    Parameters
    ----------
    scores
        Targets x methods; larger is better. Methods that were not run at every target are to be left out.
    """
    values: Float[np.ndarray, "n_targets n_methods"] = scores.to_numpy(dtype=float)
    n_targets, n_methods = values.shape
    ranks = scipy.stats.rankdata(-values, axis=1)
    mean = pd.Series(ranks.mean(axis=0), index=scores.columns).sort_values(kind="stable")
    quantile = scipy.stats.studentized_range.ppf(0.95, n_methods, np.inf) / np.sqrt(2)
    critical = float(quantile * np.sqrt(n_methods * (n_methods + 1) / (6 * n_targets)))
    p_value = float(scipy.stats.friedmanchisquare(*values.T).pvalue) if n_methods > 2 else float("nan")
    return Ranking(mean, n_targets, critical, p_value)
