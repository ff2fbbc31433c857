"""The tables of ``docs/results/``, from the studies of a benchmark of ``plans/real.toml``."""

from pathlib import Path

import pandas as pd
from real.figures import write_figures
from real.found import write_found
from real.page import write_headline, write_page
from real.prose import write_prose

from selfcell.benchmark.plan import planned_encoders, planned_studies, read_plan
from selfcell.benchmark.results import StudyResults, read_results
from selfcell.benchmark.statistics import ScoreStack
from selfcell.benchmark.verdicts import holm, verdicts
from selfcell.downstream import DOWNSTREAM_TASKS
from selfcell.downstream.confidence_scores import confidence_scores
from selfcell.reporting.names import METHOD_NAMES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "results"
PLAN = read_plan(ROOT / "plans" / "real.toml")
TARGETS = PLAN.targets
ASKED = {
    (study.target, method) for study in planned_studies(PLAN, planned_encoders(PLAN)) for method in study.plan.methods
}
"""Targets with each of their methods."""
FOUND_IN = ("README.md", "docs/does-it-help.md", "docs/results.md")
"""Pages that say what was found."""
KEPT_METRICS = {
    "cell_type": ("macro_f1", "macro_f1_frequent", "micro_f1", "balanced_accuracy", "macro_f1_ontology"),
    "cross_modality": ("pearson_per_cell", "pearson_per_feature", "pearson_flattened", "spearman_per_cell", "mse"),
    "integration": ("total", "all_total", "bio_conservation", "batch_correction"),
    "reconstruction": (
        "explained_variance_weighted",
        "pearson_per_cell",
        "mse",
        "hidden_mse",
        "hidden_pearson_per_cell",
    ),
}
"""The scores of the table of each task; all others are in the folders."""


def write_tables(out: Path) -> None:
    """Write one table a task: mean and interval of each method in each study, and seconds and memory.

    Targets that are not finished in ``out`` keep the rows that they have.
    """
    files = {name: sorted((out / "studies" / name).glob("*/study.json")) for name in TARGETS}
    finished = {name: read_results(found[0].parent) for name, found in files.items() if found}
    scores = [_scores(name, results) for name, results in finished.items()]
    examined = {name: results.details for name, results in finished.items() if "confidence" in results.details}
    confidence = [confidence_scores(details["confidence"]).assign(study=name) for name, details in examined.items()]
    answers = [_verdicts(name, results) for name, results in finished.items()]
    unseen = [details["unseen_types"].assign(study=name) for name, details in examined.items()]
    DOCS.mkdir(parents=True, exist_ok=True)
    _write(DOCS / "real_data.csv", scores)
    _write(DOCS / "confidence.csv", confidence)
    _write(DOCS / "unseen_types.csv", unseen)
    _write(DOCS / "verdicts.csv", _with_holm(answers))
    table, verdicts_ = pd.read_csv(DOCS / "real_data.csv"), pd.read_csv(DOCS / "verdicts.csv")
    write_page(DOCS.parent / "results.md", table, pd.read_csv(DOCS / "confidence.csv"), verdicts_)
    write_headline(ROOT / "README.md", table)
    write_prose(DOCS.parent / "results.md", table, verdicts_)
    for page in FOUND_IN:
        write_found(ROOT / page, table, verdicts_)
    write_figures(DOCS, table)


def _write(file: Path, of_studies: list[pd.DataFrame]) -> None:
    """Write the rows of all studies in their order, those of the file where a method of a study has no others.

    What the plan does not ask any more is left out.
    """
    keys = ["study", "method"] if file.name != "unseen_types.csv" else ["study"]
    if not of_studies:
        return
    rows = pd.concat(of_studies, ignore_index=True)
    if file.exists():
        before = pd.read_csv(file)
        ours = pd.MultiIndex.from_frame(rows[keys])
        rows = pd.concat([rows, before[~pd.MultiIndex.from_frame(before[keys]).isin(ours)]], ignore_index=True)
        rows = rows[before.columns]
    order = {name: place for place, name in enumerate([*TARGETS, *METHOD_NAMES])}
    rows = rows[rows["study"].isin(TARGETS)]
    if "method" in rows:
        rows = rows[[pair in ASKED for pair in zip(rows["study"], rows["method"], strict=True)]]
    rows = rows.sort_values(keys, key=lambda names: names.map(order), kind="stable")
    rows = rows.assign(title=[TARGETS[name].title for name in rows["study"]])
    rows.to_csv(file, index=False, float_format="%.4g")


def _scores(name: str, results: StudyResults) -> pd.DataFrame:
    rows = []
    task = str(results.about["task"])
    for metric in KEPT_METRICS[task]:
        if metric not in set(results.scores["metric"]):
            continue
        stack = ScoreStack(results.scores, results.resamples, metric)
        for method in stack.methods:
            for budget in (budget for budget in stack.budgets if stack.has(method, budget)):
                rows.append({"task": task, "study": name, **_row(results, stack, method, budget, metric)})
    return pd.DataFrame(rows)


KEPT_OF_VERDICTS = (
    *("budget", "metric", "question", "method", "against", "difference", "low", "high"),
    *("frequent_difference", "frequent_low", "frequent_high", "p_value", "p_holm", "detectable", "n_pairs", "finding"),
)


def _verdicts(name: str, results: StudyResults) -> pd.DataFrame:
    """Answer the questions that a study answers; p by Holm's method is of all studies, and comes later."""
    which = {"target": name, "corpus": results.about["corpus"], "encoder": results.about["encoder"]}
    task = str(results.about["task"])
    tables = [table.assign(**which) for table in (results.scores, results.resamples)]
    found = verdicts(*tables, {name: DOWNSTREAM_TASKS[task].headline})
    return found[list(KEPT_OF_VERDICTS)].assign(task=task, study=name)


def _with_holm(answers: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """Correct p for all studies of a question, as the verdicts of one benchmark are."""
    table = pd.concat(answers, ignore_index=True)
    for _, rows in table.groupby("question"):
        table.loc[rows.index, "p_holm"] = holm(rows["p_value"].to_numpy(dtype=float))
    return [table]


def _row(results: StudyResults, stack: ScoreStack, method: str, budget: str, metric: str) -> dict[str, object]:
    estimate = stack.estimate(method, budget)
    trials = results.scores.query("method == @method and budget == @budget and metric == @metric")
    against = stack.has("from_scratch", budget) and method == "fine_tuned"
    difference = stack.compare(method, "from_scratch", budget).difference if against else None
    return {
        "budget": budget,
        "method": method,
        "metric": metric,
        "mean": estimate.mean,
        "low": estimate.low,
        "high": estimate.high,
        "n_pairs_of_seeds": len(estimate.by_seed),
        "n_cells": int(trials["n_cells"].iloc[0]),
        "n_units": int(trials["n_units"].iloc[0]),
        "against_scratch": float("nan") if difference is None else difference.mean,
        "against_scratch_low": float("nan") if difference is None else difference.low,
        "against_scratch_high": float("nan") if difference is None else difference.high,
        "seconds": trials["seconds"].median(),
        "peak_memory_mb": trials["peak_memory_mb"].max(),
    }
