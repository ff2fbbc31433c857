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
    """That all are alike, by Friedman's test; NaN with fewer than three."""


def scores_by_target(estimates: pd.DataFrame, ranked: str, *, least: int) -> pd.DataFrame:
    """Give the scores of what is to be ranked at each target, which counts once, whatever was varied there.

    Where some were not run at all targets, as many are kept as have ``least`` targets in common, with these targets.
    Each target's score is the mean over corpora, encoders, methods and label budgets, of those at which all that are
    kept were run.

    Parameters
    ----------
    estimates
        What :func:`selfcell.benchmark.summaries.estimates` gives, of one score a target.
    ranked
        What is ranked: ``method`` or ``encoder``.
    least
        Targets.

    Returns
    -------
    Targets x methods (or encoders); empty where no two have so many targets in common.
    """
    varied = [name for name in ("target", "corpus", "encoder", "method", "budget") if name != ranked]
    table = estimates.pivot_table(index=varied, columns=ranked, values="mean")
    was_run = table.notna().groupby(level="target").any()
    choices = []
    for names in _run_together(was_run):
        complete = table[list(names)].dropna().groupby(level="target").mean()
        if len(names) > 1 and len(complete) >= least:
            choices.append(complete)
    return max(choices, key=lambda one: one.shape[::-1], default=pd.DataFrame())


def _run_together(was_run: pd.DataFrame) -> list[tuple[str, ...]]:
    """Give what was run at a target, and what several targets have in common, each set once."""
    of_targets = {frozenset(was_run.columns[row]) for row in was_run.to_numpy()}
    found, new = set(of_targets), of_targets
    while new:
        new = {one & other for one in new for other in of_targets} - found
        found |= new
    return sorted(tuple(name for name in was_run.columns if name in names) for names in found)


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
