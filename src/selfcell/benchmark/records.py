"""From the outcomes of trials to the tables of a study."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from selfcell.benchmark.results import CONFUSION_COLUMNS, SCORE_COLUMNS
from selfcell.benchmark.trials import Failure, Outcome, Trial


@dataclass(frozen=True)
class Record:
    """The rows of one trial."""

    scores: list[dict[str, Any]]
    resamples: pd.DataFrame
    confusion: pd.DataFrame

    @classmethod
    def of(cls, outcome: Outcome | Failure, facts: Mapping[str, Any], *, headline: str) -> "Record":
        """Make the rows; of a trial that failed there is one, with its error and no value.

        Parameters
        ----------
        outcome
            What the trial gave.
        facts
            What a row says of the trial, whatever came of it; with its ``trial_id``.
        headline
            The score that a failed trial's row is under.
        """
        row = {**facts, "seconds": outcome.seconds}
        if isinstance(outcome, Failure):
            failed = {**row, "metric": headline, "value": float("nan"), "error": outcome.error}
            return cls([failed], pd.DataFrame(), pd.DataFrame())
        row["peak_memory_mb"] = outcome.peak_memory_mb
        # Named as they are read back, since tables of both are put together.
        resamples = pd.DataFrame(list(outcome.scores.resampled.values())).rename(columns=str)
        resamples.insert(0, "metric", list(outcome.scores.resampled))
        resamples.insert(0, "trial_id", facts["trial_id"])
        confusion = outcome.tables.get("confusion", pd.DataFrame())
        if not confusion.empty:
            told = [name for name in CONFUSION_COLUMNS if name in facts and name not in confusion]
            confusion = confusion.assign(**{name: facts[name] for name in told})
        values = outcome.scores.values.items()
        return cls([{**row, "metric": metric, "value": value} for metric, value in values], resamples, confusion)


def in_tables(records: Sequence[Record]) -> dict[str, pd.DataFrame]:
    """Put the rows of all trials together: ``scores``, ``resamples`` and ``confusion``."""
    resamples = [record.resamples for record in records if not record.resamples.empty]
    confusion = [record.confusion for record in records if not record.confusion.empty]
    return {
        "scores": pd.DataFrame([row for record in records for row in record.scores], columns=list(SCORE_COLUMNS)),
        "resamples": _joined(resamples, ("trial_id", "metric")),
        "confusion": _joined(confusion, CONFUSION_COLUMNS)[list(CONFUSION_COLUMNS)],
    }


def feature_means(trials: Sequence[Trial], outcomes: Mapping[Hashable, Outcome | Failure]) -> dict[str, pd.DataFrame]:
    """Average over seeds what is known of each feature, where the task has features that are predicted."""
    tables = []
    for trial in trials:
        outcome = outcomes[trial.key]
        if isinstance(outcome, Outcome) and "features" in outcome.tables:
            tables.append(outcome.tables["features"].assign(method=trial.method, budget=trial.budget))
    if not tables:
        return {}
    groups = pd.concat(tables, ignore_index=True).groupby(["method", "budget", "feature"], sort=False)
    means = groups.agg(pearson=("pearson", "mean"), pearson_sd=("pearson", "std"), mse=("mse", "mean"))
    return {"features": means.reset_index()}


def _joined(tables: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(columns))
