"""The figures of ``docs/results.md``, from ``docs/results/real_data.csv``."""

from pathlib import Path

import pandas as pd

from selfcell.benchmark.ranks import rank_methods
from selfcell.core.atomic import write_text
from selfcell.reporting.benchmark_figures import draw_differences, draw_ranks
from selfcell.reporting.figures import as_svg
from selfcell.reporting.names import METHOD_NAMES

FIRST_SCORES = {"macro_f1", "pearson_per_cell", "total", "explained_variance_weighted"}


def write_figures(folder: Path, table: pd.DataFrame) -> None:
    """Draw what pre-training is worth in every study, and how methods of naming types rank over studies."""
    worth = table[(table["method"] == "fine_tuned") & table["metric"].isin(FIRST_SCORES)]
    worth = worth[(worth["metric"] == "pearson_per_cell") <= (worth["task"] == "cross_modality")]
    columns = {"against_scratch": "difference", "against_scratch_low": "low", "against_scratch_high": "high"}
    rows = worth.drop(columns=["low", "high"]).rename(columns=columns)
    rows = rows.assign(finding=[_beyond(low, high) for low, high in zip(rows["low"], rows["high"], strict=True)])
    labels = [f"{title}: {budget}" for title, budget in zip(rows["title"], rows["budget"], strict=True)]
    words = "fine-tuned less from scratch, in the first score of the task"
    write_text(folder / "worth.svg", as_svg(draw_differences(rows, labels, xlabel=words), words))
    ranking = draw_ranks(rank_methods(_type_scores(table)), dict(METHOD_NAMES))
    write_text(folder / "ranks.svg", as_svg(ranking, "mean ranks of methods of naming cell types"))


def _beyond(low: float, high: float) -> str:
    return "better" if low > 0 else "worse" if high < 0 else "within its interval"


def _type_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Give macro F1 with all labels, studies x methods; of studies with all genes and with fewer, those with fewer."""
    types = table[(table["metric"] == "macro_f1") & table["budget"].isin(["all donors", "all cells"])]
    types = types[~types["study"].str.endswith("_all_genes") & (types["study"] != "types_liu_variational")]
    return types.pivot_table(index="study", columns="method", values="mean").dropna(axis=1)
