"""Means with intervals of a benchmark: of every method, and between encoders or corpora that a target was asked of."""

import logging
from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd

from selfcell.benchmark.statistics import ScoreStack
from selfcell.benchmark.verdicts import BESIDE, FREQUENT, FREQUENT_COLUMNS, ONE, holm, stack_without_rare, without_rare
from selfcell.downstream.metrics import FEW_CELLS

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
"""Of a benchmark's tables, in ``benchmark.json``."""
ESTIMATE_COLUMNS = (
    *ONE,
    "method",
    "budget",
    "metric",
    "mean",
    "sd",
    "low",
    "high",
    "n_labelled_cells",
    "n_cells",
    "n_units",
    "seconds",
    "peak_memory_mb",
)
PAIR_COLUMNS = (
    "varied",
    *ONE,
    "against",
    "method",
    "budget",
    "metric",
    "difference",
    "low",
    "high",
    *FREQUENT_COLUMNS,
    "p_value",
    "p_holm",
    "finding",
)
CLASS_COLUMNS = (*ONE, "method", "budget", "class", "n_cells", "has_few_cells", "f1")
OF_ENCODER = ("zero_shot", "probe", "fine_tuned")


def estimates(scores: pd.DataFrame, resamples: pd.DataFrame, headlines: Mapping[str, str]) -> pd.DataFrame:
    """Estimate the score of every method.

    Parameters
    ----------
    scores, resamples
        The tables of a benchmark.
    headlines
        The score that each target is judged by.

    Returns
    -------
    One row a target, corpus, encoder, method, label budget and score, with the columns of :data:`ESTIMATE_COLUMNS`;
    ``sd`` is the standard deviation over pairs of seeds, each computation counted once, NaN with one; ``seconds`` is
    the median of a trial, ``peak_memory_mb`` the largest of all trials.
    """
    rows = []
    for which, of_study in _by(scores, list(ONE)):
        first = headlines[which[0]]
        for metric in (first, *BESIDE.get(first, ())):
            if metric not in set(of_study["metric"]):
                continue
            stack = ScoreStack(of_study, _of(resamples, which), metric)
            trials = of_study[of_study["metric"] == metric].groupby(["method", "budget"])
            for (method, budget), part in trials:
                found = stack.estimate(method, budget)
                row = {**dict(zip(ONE, which, strict=True)), "method": method, "budget": budget, "metric": metric}
                row |= {"mean": found.mean, "sd": _deviation(found.by_seed), "low": found.low, "high": found.high}
                row |= {name: part[name].median() for name in ("n_labelled_cells", "n_cells", "n_units", "seconds")}
                rows.append({**row, "peak_memory_mb": part["peak_memory_mb"].max()})
    return pd.DataFrame(rows, columns=list(ESTIMATE_COLUMNS))


def between(
    varied: Literal["encoder", "corpus"],
    scores: pd.DataFrame,
    resamples: pd.DataFrame,
    headlines: Mapping[str, str],
    *,
    sizes: Mapping[tuple[str, str], int] | None = None,
) -> pd.DataFrame:
    """Compare the encoders (or corpora) that a target was asked of with one of them, in each regime.

    Differences are taken within each pair of seeds and draw of test donors, as those between methods are. What was
    judged on different cells is not compared, which is logged.

    Parameters
    ----------
    varied
        What differs between the two sides; all else is the same.
    scores, resamples, headlines
        As in :func:`estimates`.
    sizes
        Cells by corpus and encoder: the largest corpus is compared with; the first where none is given.

    Returns
    -------
    One row a target, corpus, encoder, regime and label budget, with the columns of :data:`PAIR_COLUMNS`; ``against``
    is what it is compared with, and what begins with ``frequent`` is without types of few test cells. ``p_holm`` is
    corrected for all rows of a regime.
    """
    same = [name for name in ONE if name != varied]
    asked = scores[scores["method"].isin(OF_ENCODER)]
    rows = []
    for which, part in _by(asked, same):
        names = _reference_first(list(dict.fromkeys(part[varied])), which[-1], sizes or {})
        if len(names) < 2:
            continue
        metric, apart = headlines[which[0]], set[str]()
        draws = resamples[(resamples[same] == list(which)).all(axis=1)]
        needed = part["metric"].isin([metric, FREQUENT.get(metric)])
        for method, of_method in part[needed].groupby("method", sort=False):
            told_of = _with_method(of_method, draws, varied)
            stack, frequent = ScoreStack(*told_of, metric), stack_without_rare(*told_of, metric)
            told = {**dict(zip(same, which, strict=True)), "varied": varied, "against": names[0], "method": method}
            for budget in stack.budgets:
                # Models that were trained elsewhere may share no seed, by which scores are paired.
                apart |= {name for name in names[1:] if stack.are_of_other_cells(name, names[0], budget)}
                for name in (name for name in names[1:] if stack.can_compare(name, names[0], budget)):
                    comparison = stack.compare(name, names[0], budget)
                    difference = comparison.difference
                    row = {**told, varied: name, "budget": budget, "metric": metric, "difference": difference.mean}
                    row |= {"low": difference.low, "high": difference.high, "p_value": difference.p_value}
                    row |= without_rare(frequent, name, names[0], budget)
                    rows.append({**row, "finding": comparison.finding})
        for name in sorted(apart):
            logger.warning(
                "%s: %s and %s were judged on different cells, as each was pre-trained with others set aside, and are "
                "not compared. Name the cells to judge on (test_where, query).",
                which[0],
                name,
                names[0],
            )
    table = pd.DataFrame(rows, columns=list(PAIR_COLUMNS))
    for _, of_method in table.groupby("method"):
        table.loc[of_method.index, "p_holm"] = holm(of_method["p_value"].to_numpy(dtype=float))
    return table


def _reference_first(names: list[str], encoder: str, sizes: Mapping[tuple[str, str], int]) -> list[str]:
    """Put the largest corpus of an encoder first; without sizes all stay in their order."""
    return sorted(names, key=lambda name: -sizes.get((name, encoder), 0))


def count_failed(scores: pd.DataFrame) -> int:
    """Count what failed: once, however many rows, of pairs of seeds and encoders, share it."""
    failed = scores[scores["error"].notna()]
    # Tables of an older version do not tell which trials are one computation, or not of all that failed.
    works = failed.get("work_id", failed["trial_id"])
    return int(works.astype(object).fillna(failed["trial_id"]).nunique())


def classes(confusion: pd.DataFrame) -> pd.DataFrame:
    """Give the F1 of each type that test cells are of, and mark types of few test cells, whose F1 hangs on a few cells.

    Parameters
    ----------
    confusion
        The table of a benchmark.

    Returns
    -------
    One row a target, corpus, encoder, method, label budget and type, with the columns of :data:`CLASS_COLUMNS`; means
    over seeds.
    """
    if confusion.empty:
        return pd.DataFrame(columns=list(CLASS_COLUMNS))
    which = [*ONE, "method", "budget"]
    hits = confusion["n_cells"].where(confusion["truth"] == confusion["predicted"], 0)
    counts = confusion.assign(hits=hits)
    true = counts.groupby([*which, "trial_id", "truth"], sort=False)[["n_cells", "hits"]].sum()
    predicted = counts.groupby([*which, "trial_id", "predicted"], sort=False)["n_cells"].sum()
    n_predicted = predicted.rename_axis(true.index.names).reindex(true.index, fill_value=0)
    by_trial = true.assign(f1=2 * true["hits"] / (true["n_cells"] + n_predicted))
    means = by_trial.groupby([*which, "truth"], sort=False)[["n_cells", "f1"]].mean().reset_index()
    table = means.assign(has_few_cells=means["n_cells"] < FEW_CELLS).rename(columns={"truth": "class"})
    return table[list(CLASS_COLUMNS)]


def _deviation(by_seed: tuple[float, ...]) -> float:
    return float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else float("nan")


def _with_method(scores: pd.DataFrame, resamples: pd.DataFrame, varied: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Put what varies in the place of the method; trials of two sides may bear one id."""

    def renamed(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(trial_id=table[varied].astype(str) + " " + table["trial_id"])

    return renamed(scores).assign(method=scores[varied]), renamed(resamples).drop(columns=list(ONE))


def _by(scores: pd.DataFrame, keys: list[str]) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    return list(scores[scores["value"].notna()].groupby(keys, sort=False))


def _of(table: pd.DataFrame, which: tuple[str, ...]) -> pd.DataFrame:
    return table[(table[list(ONE)] == list(which)).all(axis=1)].drop(columns=list(ONE))
