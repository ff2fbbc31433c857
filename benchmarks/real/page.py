"""The tables of ``docs/results.md`` and the README, from ``docs/results/real_data.csv``: no number there is typed."""

from pathlib import Path

import pandas as pd
from real.between import write_between
from real.differences import differences_section
from real.words import interval, labels, seconds, units

from selfcell.reporting.names import method_name, metric_name

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
TASKS = {
    "cell_type": ("Cell types", ("macro_f1",)),
    "cross_modality": ("Proteins and chromatin", ("pearson_per_cell", "pearson_per_feature")),
    "integration": ("Integration of batches", ("total", "all_total", "bio_conservation", "batch_correction")),
    "reconstruction": ("Gene expression", ("explained_variance_weighted", "hidden_mse")),
}

HEADLINE = {
    "types_liu": ("2 donors", "all donors"),
    "types_liu_transfer": ("0.01 of the cells",),
    "types_kang": ("all cells",),
    "types_pancreas_Fasolino": ("all donors",),
    "types_pancreas_Fasolino_all_genes": ("all donors",),
    "types_liu_to_pbmc3k": ("all cells",),
    "types_liu_to_kang": ("all cells",),
    "types_liu_to_teaseq": ("all cells",),
    "proteins_liu_few": ("0.01 of the cells",),
    "proteins_liu": ("all donors",),
    "chromatin_teaseq": ("all cells",),
    "integration_pancreas": ("all donors",),
    "expression_liu": ("all donors",),
}
"""Studies and budgets of the README's table."""

REGIMES = ("zero_shot", "probe", "fine_tuned", "from_scratch")


def write_page(page: Path, table: pd.DataFrame, confidence: pd.DataFrame, verdicts: pd.DataFrame) -> None:
    """Write the tables of all tasks that were run between the marks of a page."""
    sections = [
        _section(title, table[(table["task"] == task) & table["metric"].isin(metrics)], metrics)
        for task, (title, metrics) in TASKS.items()
        if (table["task"] == task).any()
    ]
    parts = [_overview(table), differences_section(verdicts), *sections, _sureness(confidence)]
    write_between(page, parts, begin=BEGIN, end=END)


def write_headline(page: Path, table: pd.DataFrame) -> None:
    """Write the table of :data:`HEADLINE` between the marks of a page."""
    chosen = [(study, budget) for study, budgets in HEADLINE.items() for budget in budgets]
    places = pd.MultiIndex.from_frame(table[["study", "budget"]])
    if missing := set(chosen) - set(places):
        raise KeyError(f"real_data.csv has no rows of {missing}")
    shown, everything = _glance(table[places.isin(chosen)]), _glance(table)
    of_all = f"{len(shown) - _HEAD} of {len(everything) - _HEAD} rows, of every kind; [all of them](docs/results.md)."
    write_between(page, ["\n".join([*shown, "", of_all]) + "\n"], begin=BEGIN, end=END)


def _sureness(confidence: pd.DataFrame) -> str:
    """Tell how far the confidence of each study's answers can be trusted."""
    columns = (
        "accuracy",
        "ece_uncalibrated",
        "ece",
        "area_under_risk_coverage",
        "coverage",
        "set_size",
        "called_unknown",
    )
    lines = [
        "## How sure types are",
        "",
        "The first pre-training, all labels: accuracy; expected calibration error as it is and calibrated; the mean",
        "share of errors among the surest cells; prediction sets that hold the true type (0.95 is promised to cells",
        "like the labelled ones) and their size; cells called unknown, though all are of known types. Which types are",
        "noticed that the reference lacks is in `docs/results/unseen_types.csv`.",
        "",
        "| study | answers | right | error, as it is | calibrated | surest | sets right | in a set | unknown |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for _, row in confidence.iterrows():
        values = " | ".join(f"{row[column]:.3f}" for column in columns)
        lines.append(f"| {row['title']} | {method_name(row['method'])} | {values} |")
    return "\n".join([*lines, ""])


def _overview(table: pd.DataFrame) -> str:
    """Give one line a study and budget: the regimes, the best baseline, and what pre-training is worth."""
    lines = [
        "## At a glance",
        "",
        "The first score of each task (macro F1, Pearson correlation by cell, total of integration, explained",
        "variance) and, last, what starting from pre-trained weights is worth, with its interval.",
        "",
        *_glance(table),
    ]
    return "\n".join([*lines, ""])


_HEAD = 2
"""Lines of a table before its rows."""


def _glance(table: pd.DataFrame) -> list[str]:
    lines = [
        "| study | labels | zero-shot | probe | fine-tuned | from scratch | best baseline | worth of pre-training |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task, (_, metrics) in TASKS.items():
        rows = table[(table["task"] == task) & (table["metric"] == metrics[0])]
        for (_, budget), group in rows.groupby(["study", "budget"], sort=False):
            mean = group.set_index("method")["mean"]
            if "fine_tuned" not in mean:
                continue
            baselines = mean.drop([regime for regime in REGIMES if regime in mean])
            tuned = group[group["method"] == "fine_tuned"].iloc[0]
            columns = ["against_scratch", "against_scratch_low", "against_scratch_high"]
            cells = [
                group["title"].iloc[0],
                labels(budget),
                *(f"{mean[regime]:.3f}" if regime in mean else "" for regime in REGIMES),
                f"{baselines.max():.3f} {method_name(str(baselines.idxmax()))}",
                interval(*tuned[columns], sign="+"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _section(title: str, rows: pd.DataFrame, metrics: tuple[str, ...]) -> str:
    lines = [f"## {title}", ""]
    for _, study in rows.groupby("study", sort=False):
        first = study.iloc[0]
        lines += [
            f"**{first['title']}** ({first['n_cells']:,} test cells, {_drawn(first)}; "
            f"{study['n_pairs_of_seeds'].max()} pairs of seeds, fewer of what does not vary with both kinds)",
            "",
        ]
        for metric in [metric for metric in metrics if metric in set(study["metric"])]:
            lines += [*_table(metric, study[study["metric"] == metric]), ""]
    return "\n".join(lines)


def _drawn(row: pd.Series) -> str:
    """Say what intervals take in beside the seeds."""
    return "intervals over seeds alone" if row["task"] == "integration" else units(row["n_units"])


def _table(metric: str, rows: pd.DataFrame) -> list[str]:
    budgets = list(dict.fromkeys(rows["budget"]))
    name = metric_name(metric)
    lines = [f"| {name} | {' | '.join(map(labels, budgets))} | seconds |", "|---" * (len(budgets) + 2) + "|"]
    for method, of_method in rows.groupby("method", sort=False):
        cells = {row["budget"]: interval(row["mean"], row["low"], row["high"]) for _, row in of_method.iterrows()}
        found = " | ".join(cells.get(budget, "") for budget in budgets)
        lines.append(f"| {method_name(str(method))} | {found} | {seconds(of_method['seconds'].max())} |")
    tuned = rows[rows["against_scratch"].notna()].set_index("budget")
    if len(tuned):
        differences = [
            interval(*tuned.loc[budget, ["against_scratch", "against_scratch_low", "against_scratch_high"]], sign="+")
            if budget in tuned.index
            else ""
            for budget in budgets
        ]
        lines.append(f"| *fine-tuned less from scratch* | {' | '.join(differences)} | |")
    return lines
