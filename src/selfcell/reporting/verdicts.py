"""The verdicts of a benchmark on the terminal."""

import sys
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selfcell.benchmark.intervals import Estimate
from selfcell.benchmark.verdicts import over_targets
from selfcell.core.reading import reading
from selfcell.reporting.names import encoder_name, method_name, metric_name

_SHOWN = (("fine_tuned", "from_scratch"), ("zero_shot", "pca_knn"))
"""Questions that are printed; all are in the table."""


def print_verdicts(folder: Path) -> None:
    """Print what a benchmark says of pre-training, one line a target, encoder and label budget.

    Parameters
    ----------
    folder
        The results of a benchmark.
    """
    with reading(folder / "verdicts.parquet"):
        verdicts = pd.read_parquet(folder / "verdicts.parquet")
    # A table that is piped into a file need not fit a screen.
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=200)
    summary = over_targets(verdicts)
    for method, against in _SHOWN:
        answers = verdicts[(verdicts["method"] == method) & (verdicts["against"] == against)]
        if answers.empty:
            continue
        question = str(answers["question"].iloc[0])
        console.print(_table(answers, question))
        for row in summary[(summary["question"] == question) & (summary["n_targets"] > 1)].to_dict("records"):
            console.print(_of_all_targets(row), style="dim")
    console.print(f"All questions, with p and power: {folder / 'verdicts.parquet'}", markup=False)


def _table(answers: pd.DataFrame, question: str) -> Table:
    table = Table(
        "target", "encoder", "labelled", "difference [95 %]", "pairs agree", "visible from", "verdict", title=question
    )
    for row in answers.to_dict("records"):
        difference = Estimate(row["difference"], row["low"], row["high"], ())
        seen = "" if np.isnan(row["detectable"]) else f"{row['detectable']:.3f}"
        encoder = encoder_name(row["encoder"], row["corpus"])
        agree = f"{row['n_agree']} of {row['n_pairs']}"
        words = (row["target"], encoder, row["budget"], difference.with_sign(), agree, seen, row["finding"])
        table.add_row(*map(escape, words))
    method, against = (method_name(answers[side].iloc[0]) for side in ("method", "against"))
    metrics = ", ".join(metric_name(metric) for metric in dict.fromkeys(answers["metric"]))
    table.caption = f"{method} minus {against}: {metrics}"
    return table


def _of_all_targets(summary: Mapping[Hashable, Any]) -> str:
    above = f"{metric_name(summary['metric'])}: above zero at {summary['n_above']} of {summary['n_targets']} targets"
    text = f"{above}, median {summary['median_difference']:+.3f}"
    if np.isnan(summary["p_holm"]):
        return f"{text}."
    return f"{text}; Wilcoxon's p {summary['p_value']:.2g}, {summary['p_holm']:.2g} by Holm for all questions."
