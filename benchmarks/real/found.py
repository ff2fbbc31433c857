"""What was found, in some sentences, from ``docs/results/real_data.csv`` and ``verdicts.csv``: no number is typed."""

from pathlib import Path

import pandas as pd
from real.between import points, write_between
from real.words import interval, labels

BEGIN, END = "<!-- found: begin -->", "<!-- found: end -->"
REGIMES = ("zero_shot", "probe", "fine_tuned", "from_scratch", "untrained_encoder")
NEVER_SEEN = (
    *(f"types_pancreas_{study}" for study in ("Tritschler", "Fasolino", "Muraro", "Tosti")),
    *("types_kang", "types_liu_to_kang", "types_liu_to_teaseq", "types_liu_to_pbmc3k"),
)
"""Studies, conditions and data sets that are judged on and that neither pre-training nor the reference had."""
ELSEWHERE = "types_liu_transfer"
"""Pre-trained on other data sets than those that have the labels."""
SENTENCES = """\
- **With all labels, fine-tuning from pre-trained weights is no better than from random ones**: of {n_all} comparisons
  of cell types it is clearly above in {all_above} and clearly below in {all_below} ({all_least} to {all_most} macro
  F1).
- **With few labels it is a little better**: clearly so in {few_above} of {n_few} comparisons of cell types
  ({few_least} to {few_most}), and for proteins ({proteins}, correlation within a cell). After Holm's correction
  for all {n_every} comparisons of this kind these stand: {stands}. The others may be chance.
- **The frozen embedding is where pre-training shows.** By its nearest neighbors it is clearly above PCA on {new_above}
  of {n_new} studies, conditions or data sets that neither pre-training nor the labels had, and clearly below on
  {new_below}. Among donors of one study it is level ({same}, all labels); pre-trained on other data sets than those
  that have the labels it is below ({elsewhere}).
- **A regression on the frozen embedding** (`probe`) is the best use of it with few labelled donors: {two} over the same
  regression on the genes, with two. Of all {n_probe} comparisons it is clearly above in {probe_above} and clearly
  below in {probe_below}.
- **Try a plain regression on the genes first**: in {n_level} of {n_types} comparisons of cell types some baseline (the
  best of several, picked afterwards) is as good as the fine-tuned network or better."""


def write_found(page: Path, table: pd.DataFrame, verdicts: pd.DataFrame) -> None:
    """Write the sentences between the marks of a page."""
    told = SENTENCES.format(**_worth(verdicts), **_frozen(verdicts), **_probe(verdicts), **_plain(table))
    write_between(page, [*points(told), ""], begin=BEGIN, end=END)


def _question(verdicts: pd.DataFrame, method: str, against: str) -> pd.DataFrame:
    return verdicts[(verdicts["method"] == method) & (verdicts["against"] == against)]


def _worth(verdicts: pd.DataFrame) -> dict[str, object]:
    every = _question(verdicts, "fine_tuned", "from_scratch")
    has_all = every["budget"].str.startswith("all ")
    is_types = every["task"] == "cell_type"
    everything, few = every[is_types & has_all], every[is_types & ~has_all]
    proteins = every[~is_types & ~has_all]
    return {
        **_counted("all", everything),
        **_counted("few", few),
        **_range("all", everything),
        **_range("few", few[few["low"] > 0]),
        "proteins": ", ".join(f"{_interval(row)} with {labels(row['budget'])}" for _, row in proteins.iterrows()),
        "n_every": len(every),
        "stands": "; ".join(_named(row) for _, row in every[every["p_holm"] < 0.05].iterrows()) or "none",
    }


def _frozen(verdicts: pd.DataFrame) -> dict[str, object]:
    rows = _question(verdicts, "zero_shot", "pca_knn")
    with_all = rows[rows["budget"] == "all donors"].set_index("study")
    return {
        **_counted("new", rows[rows["study"].isin(NEVER_SEEN)]),
        "same": _interval(with_all.loc["types_liu"]),
        "elsewhere": _interval(with_all.loc[ELSEWHERE]),
    }


def _probe(verdicts: pd.DataFrame) -> dict[str, object]:
    rows = _question(verdicts, "probe", "logistic_regression")
    with_two = rows[rows["budget"] == "2 donors"].set_index("study")
    return {**_counted("probe", rows), "two": _interval(with_two.loc["types_liu"])}


def _plain(table: pd.DataFrame) -> dict[str, object]:
    of_types = table[table["metric"] == "macro_f1"].groupby(["study", "budget"])
    of_rows = [mean for _, rows in of_types if "fine_tuned" in (mean := rows.set_index("method")["mean"])]
    best = [mean.drop([name for name in REGIMES if name in mean]).max() for mean in of_rows]
    n_level = sum(one >= mean["fine_tuned"] for one, mean in zip(best, of_rows, strict=True))
    return {"n_level": n_level, "n_types": len(of_rows)}


def _counted(name: str, rows: pd.DataFrame) -> dict[str, object]:
    counts = {"above": (rows["low"] > 0).sum(), "below": (rows["high"] < 0).sum()}
    return {f"n_{name}": len(rows), **{f"{name}_{side}": count or "none" for side, count in counts.items()}}


def _range(name: str, rows: pd.DataFrame) -> dict[str, object]:
    return {f"{name}_least": f"{rows['difference'].min():+.3f}", f"{name}_most": f"{rows['difference'].max():+.3f}"}


def _named(row: pd.Series) -> str:
    return f"{row['title'][0].lower()}{row['title'][1:]}, {labels(row['budget'])}: {row['difference']:+.3f}"


def _interval(row: pd.Series) -> str:
    return interval(row["difference"], row["low"], row["high"], sign="+")
