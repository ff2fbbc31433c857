"""The verdicts of a benchmark: every question, at every target, encoder and label budget, and over all targets."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy.stats

from selfcell.benchmark.statistics import QUESTIONS, ScoreStack, spread_of

ONE = ("target", "corpus", "encoder")
"""What a study is of."""
FREQUENT_COLUMNS = ("frequent_difference", "frequent_low", "frequent_high")
"""A difference and its interval without types of few test cells."""
COLUMNS = (
    *ONE,
    "budget",
    "metric",
    "question",
    "method",
    "against",
    "difference",
    "low",
    "high",
    *FREQUENT_COLUMNS,
    "p_value",
    "p_holm",
    "effect_size",
    "detectable",
    "n_pairs",
    "n_agree",
    "n_units",
    "spread",
    "verdict",
    "finding",
)
FREQUENT = {"macro_f1": "macro_f1_frequent"}
"""Scores that are compared beside a first one: the mean over types with enough test cells to be sure of."""
BESIDE = {
    "macro_f1": ("macro_f1_frequent",),
    "total": ("bio_conservation", "batch_correction", "all_total"),
    "explained_variance_weighted": ("hidden_mse", "hidden_pearson_per_cell"),
    "pearson_per_cell": ("pearson_per_feature", "mse"),
}
"""Scores that a first one must not be read without."""
OVER_TARGETS_COLUMNS = ("question", "metric", "n_targets", "n_above", "median_difference", "p_value", "p_holm")
FEW_TARGETS = 6
"""With fewer that differ from 0, no signed-rank test can come below 0.05."""
HOLM_RULE = (
    "p (Holm) beside a verdict is corrected for all comparisons of its question, which the verdict is not: where it is "
    "above 0.05, the verdict may be chance among many. "
)


def verdicts(scores: pd.DataFrame, resamples: pd.DataFrame, headlines: Mapping[str, str]) -> pd.DataFrame:
    """Answer every question that was studied, with its uncertainty.

    Parameters
    ----------
    scores, resamples
        The tables of a benchmark.
    headlines
        The score that each target is judged by.

    Returns
    -------
    One row a question, target, corpus, encoder and label budget, with the columns of :data:`COLUMNS`; those that begin
    with ``frequent`` are the difference without types of few test cells, where the score is a mean over types.
    ``p_holm`` is corrected by Holm's method for all rows of a question. ``effect_size`` is the difference over its
    standard deviation between pairs of seeds; ``detectable`` the difference of which there would have been a verdict
    with a probability of 0.8; ``n_agree`` the pairs of seeds that agree with the mean in sign; ``spread`` what the
    interval takes in beside seeds, one of :data:`~selfcell.benchmark.statistics.SPREADS`.
    """
    rows = []
    for which, of_study in scores[scores["value"].notna()].groupby(list(ONE), sort=False):
        metric = headlines[which[0]]
        if metric not in set(of_study["metric"]):
            # It cannot be computed of these cells.
            continue
        draws = resamples[_is_of(resamples, which)].drop(columns=list(ONE))
        stack, frequent = ScoreStack(of_study, draws, metric), stack_without_rare(of_study, draws, metric)
        has_donors = bool(of_study["n_labelled_donors"].notna().any())
        for method, against, question in QUESTIONS:
            for budget in stack.budgets:
                if stack.can_compare(method, against, budget):
                    told = {"budget": budget, "metric": metric, "question": question}
                    found = _row(stack, method, against, budget, has_donors=has_donors)
                    found |= without_rare(frequent, method, against, budget)
                    rows.append({**dict(zip(ONE, which, strict=True)), **told, **found})
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    for _, of_question in table.groupby("question"):
        table.loc[of_question.index, "p_holm"] = holm(of_question["p_value"].to_numpy(dtype=float))
    return table


def over_targets(table: pd.DataFrame) -> pd.DataFrame:
    """Ask each question of all targets at once, by Wilcoxon's signed-rank test, as :cite:t:`demsar2006` advises.

    Each target counts once, with the mean of its differences over corpora, encoders and budgets; those that are judged
    by other scores are asked apart, since their differences are not of one size. Targets of one data set are no
    independent ones, so read the result as a summary.

    Parameters
    ----------
    table
        What :func:`verdicts` gives.

    Returns
    -------
    One row a question and score: number of targets, on how many the difference is above 0, its median, and p (NaN with
    fewer than six targets that differ from 0, of which no test could make anything), corrected by Holm's method for all
    rows in ``p_holm``.
    """
    rows = []
    for (question, metric), of_question in table.groupby(["question", "metric"], sort=False):
        by_target = of_question.groupby("target")["difference"].mean().to_numpy(dtype=float)
        enough = np.count_nonzero(by_target) >= FEW_TARGETS
        rows.append(
            {
                "question": question,
                "metric": metric,
                "n_targets": len(by_target),
                "n_above": int((by_target > 0).sum()),
                "median_difference": float(np.median(by_target)),
                "p_value": float(scipy.stats.wilcoxon(by_target).pvalue) if enough else float("nan"),
            }
        )
    summary = pd.DataFrame(rows, columns=list(OVER_TARGETS_COLUMNS[:-1]))
    return summary.assign(p_holm=holm(summary["p_value"].to_numpy(dtype=float)))


def stack_without_rare(scores: pd.DataFrame, resamples: pd.DataFrame, metric: str) -> ScoreStack | None:
    """Stack what a mean over types is without those of few test cells; None if there is no such score."""
    beside = FREQUENT.get(metric, "")
    return ScoreStack(scores, resamples, beside) if beside in set(scores["metric"]) else None


def without_rare(frequent: ScoreStack | None, method: str, against: str, budget: str) -> dict[str, float]:
    """Give the columns that tell of a difference without types of few test cells; none where it cannot be told."""
    if frequent is None or not frequent.can_compare(method, against, budget):
        return {}
    difference = frequent.compare(method, against, budget).difference
    return dict(zip(FREQUENT_COLUMNS, (difference.mean, difference.low, difference.high), strict=True))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Correct p for the number of tests by Holm's step-down method :cite:p:`holm1979`; NaN stays and does not count."""
    corrected = np.full(len(p_values), np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return corrected


def _row(stack: ScoreStack, method: str, against: str, budget: str, *, has_donors: bool) -> dict[str, object]:
    comparison, draws = stack.compare(method, against, budget), stack.draws(method, budget)
    difference = comparison.difference
    spread = float(np.std(difference.by_seed, ddof=1)) if len(difference.by_seed) > 1 else 0.0
    return {
        "method": method,
        "against": against,
        "difference": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "p_value": difference.p_value,
        "effect_size": difference.mean / spread if spread > 0 else float("nan"),
        "detectable": comparison.detectable,
        "n_pairs": len(difference.by_seed),
        "n_agree": comparison.n_agree,
        "n_units": draws.n_units,
        "spread": spread_of(draws, has_donors=has_donors),
        "verdict": comparison.verdict,
        "finding": comparison.finding,
    }


def _is_of(table: pd.DataFrame, which: tuple[str, ...]) -> pd.Series:
    return (table[list(ONE)] == list(which)).all(axis=1)
