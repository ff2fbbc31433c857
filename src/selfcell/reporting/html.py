"""Write the page."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from selfcell.benchmark.intervals import Estimate
from selfcell.benchmark.results import StudyResults, read_results
from selfcell.benchmark.statistics import (
    SPREADS,
    TOO_FEW_SEEDS,
    VERDICT_RULE,
    Comparison,
    ConfusionStack,
    ScoreStack,
    Stack,
    answer_questions,
    spread_of,
    summarize,
)
from selfcell.benchmark.verdicts import BESIDE
from selfcell.core.errors import InputError
from selfcell.core.reading import reading
from selfcell.core.words import counted
from selfcell.downstream.metrics import FEW_CELLS, per_class
from selfcell.reporting import figures
from selfcell.reporting.answers import answer_table
from selfcell.reporting.benchmark_page import write_benchmark_page
from selfcell.reporting.confidence_section import confidence_content
from selfcell.reporting.feature_section import feature_content
from selfcell.reporting.names import (
    METRIC_HELP,
    SECOND_OPINION,
    VISIBLE_FROM,
    budget_word,
    fullest,
    method_name,
    metric_name,
)
from selfcell.reporting.page import sheet, write_page
from selfcell.reporting.run_page import run_content, seconds_and_versions

PAGE_SUFFIXES = (".html", ".htm")
"""What pages end in: nothing else is overwritten by one."""
_NAMED = (
    ("Label", "label_key"),
    ("Target", "target"),
    ("Taken for", "target_kind"),
    ("Predicted as", "transform"),
    ("Donor", "donor_key"),
    ("Batch", "batch_key"),
)
"""What the page calls entries of ``study.json``."""


def write_report(folder: str | Path, *, out: str | Path | None = None) -> Path:
    """Write one self-contained HTML page about a results folder or a training run.

    Parameters
    ----------
    folder
        What ``selfcell demo``, ``evaluate`` or ``benchmark`` wrote, or a run folder of ``pretrain`` or ``finetune``.
    out
        The file, which ends in .html or .htm; ``report.html`` in the folder if left out.

    Returns
    -------
    The path of the page.

    Raises
    ------
    InputError
        If the folder is neither, something in it is missing, or the file does not end in .html or .htm.

    Examples
    --------
    >>> selfcell.report("runs/mae").name  # or of what evaluate, demo or benchmark wrote
    'report.html'
    """
    folder = Path(folder)
    path = Path(out) if out is not None else folder / "report.html"
    _refuse_no_folder(folder)
    if path.suffix.lower() not in PAGE_SUFFIXES:
        raise InputError(f"{path} is no name of a page, which ends in .html or .htm: --out {path}.html (out).")
    if (folder / "benchmark.json").exists():
        return write_benchmark_page(folder, path)
    is_run = (folder / "manifest.json").exists() and not (folder / "study.json").exists()
    results = None if is_run else read_results(folder)
    with reading(folder):
        content = run_content(folder) if results is None else _study_content(results)
    return write_page("template.html.j2", content, path, source=folder)


def _refuse_no_folder(folder: Path) -> None:
    if folder.is_file():
        raise InputError(f"{folder} is a file. Give the folder that it is in: {folder.parent}")
    if not folder.is_dir():
        raise InputError(f"There is no folder {str(folder)!r}.")
    below = sorted(file.parent for name in ("study.json", "manifest.json") for file in folder.glob(f"*/{name}"))
    if below and not any((folder / name).exists() for name in ("study.json", "manifest.json", "benchmark.json")):
        raise InputError(
            f"{folder} is neither results nor a run, but has such in it. Name one: {', '.join(map(str, below[:3]))}"
            + (", ..." if len(below) > 3 else ".")
        )


def stack_of(results: StudyResults) -> ScoreStack:
    """Give the headline score of a study."""
    return ScoreStack(results.scores, results.resamples, str(results.about["headline_metric"]))


def spread_over(results: StudyResults) -> str:
    """Give what the intervals of a study take in, one of :data:`selfcell.benchmark.statistics.SPREADS`."""
    stack = stack_of(results)
    method, budget = next(iter(summarize(stack)))
    return spread_of(stack.draws(method, budget), has_donors=results.about["donor_key"] is not None)


def verdict_sentences(answers: Iterable[tuple[str, list[Comparison]]], *, task: str) -> list[str]:
    """Say in plain words what the comparisons found."""
    sentences = []
    for _, comparisons in answers:
        first = comparisons[0]
        pair = f"{method_name(first.method)} against {method_name(first.against)}"
        found = [
            f"{comparison.finding} with {comparison.budget} {budget_word(task)} ({comparison.difference.with_sign()})"
            for comparison in comparisons
        ]
        sentences.append(f"{pair[0].upper()}{pair[1:]}: {'; '.join(found)}.")
    return sentences


def second_opinion(results: StudyResults) -> list[str]:
    """Say what the comparisons find by the score that the first one must not be read without, if there is one."""
    task = str(results.about["task"])
    metric = SECOND_OPINION.get(task)
    if metric is None or metric not in set(results.scores["metric"]):
        return []
    answers = answer_questions(ScoreStack(results.scores, results.resamples, metric))
    return [f"By {_in_a_sentence(metric_name(metric))}: {text}" for text in verdict_sentences(answers, task=task)[:3]]


def headline(answers: list[tuple[str, list[Comparison]]], *, task: str, n_pretrainings: int) -> str:
    """Answer in a sentence whether pre-training helps here; of one pre-training, whether that one does."""
    for _, comparisons in answers:
        if (comparisons[0].method, comparisons[0].against) == ("fine_tuned", "from_scratch"):
            what = "self-supervised pre-training" if n_pretrainings > 1 else "this one pre-training"
            return _headline_of(comparisons, budget_word(task), what)
    return (
        "Fine-tuning was not compared with training from scratch, so whether pre-training helps is not answered here."
    )


def _headline_of(comparisons: list[Comparison], known: str, what: str) -> str:
    if all("no verdict" in comparison.finding for comparison in comparisons):
        why = comparisons[0].finding
        if why == TOO_FEW_SEEDS:
            why = "that takes three seeds or more of each kind that varies a result, of pre-training and of fine-tuning"
        return f"Whether {what} helps on these data cannot be told: {why}."
    helped = [comparison.budget for comparison in comparisons if comparison.verdict == "helps"]
    hurt = [comparison.budget for comparison in comparisons if comparison.verdict == "hurts"]
    if not helped and not hurt:
        return (
            f"No evidence that {what} helps on these data: at no budget does the fine-tuned "
            "network differ clearly from the same network trained from scratch."
        )
    parts = [f"helps with {' and '.join(helped)} {known}"] if helped else []
    parts += [f"hurts with {' and '.join(hurt)} {known}"] if hurt else []
    rest = [comparison.budget for comparison in comparisons if comparison.verdict == "no evidence"]
    parts += [f"shows no clear effect with {' and '.join(rest)} {known}"] if rest else []
    return f"Against the same network trained from scratch, {what} {', and '.join(parts)}."


def _study_content(results: StudyResults) -> dict[str, Any]:
    stack = stack_of(results)
    metric = metric_name(str(results.about["headline_metric"]))
    estimates = summarize(stack)
    answers = answer_questions(stack)
    about = results.about
    spread = spread_over(results)
    return {
        "title": f"Does self-supervision help on {about['dataset']}?",
        "headline": headline(answers, task=about["task"], n_pretrainings=len(set(about["pretrain_seeds"]))),
        "caveats": caveats(results),
        "sentences": [*verdict_sentences(answers, task=about["task"]), *second_opinion(results)],
        "rule": VERDICT_RULE + SPREADS[spread],
        "metric_help": METRIC_HELP.get(str(about["headline_metric"]), f"{metric}."),
        "facts": _study_facts(about),
        "score_table": _score_table(stack, estimates),
        "interval_of": _SPREAD_WORDS[spread],
        "beside": _beside(results),
        "budgets": list(stack.budgets),
        "budget_word": budget_word(about["task"]),
        "score_columns": ["Method", *(f"{budget} {budget_word(about['task'])}" for budget in stack.budgets)],
        "answer_sheet": sheet(answer_table(answers), "answers"),
        "visible_from": VISIBLE_FROM,
        "answers": [
            (question, figures.plot_differences(comparisons, metric=metric)) for question, comparisons in answers
        ],
        "score_figures": [
            (
                budget,
                figures.plot_scores(
                    {method: estimates[method, budget] for method in stack.methods if (method, budget) in estimates},
                    {method: method_name(method) for method in stack.methods},
                    budget=budget,
                    metric=metric,
                ),
            )
            for budget in stack.budgets
        ],
        "maps": _maps(results.cell_map),
        "curves": figures.plot_curves(results.curves) if "train_loss" in results.curves else None,
        **({"class_figure": None} if results.confusion.empty else _class_content(ConfusionStack(results.confusion))),
        **confidence_content(results.details),
        **feature_content(results.details),
        "settings": about["settings"],
        "made_by": seconds_and_versions(about["seconds"], about),
    }


def _class_content(stack: ConfusionStack) -> dict[str, Any]:
    budget = fullest(stack.budgets)
    wanted = [
        method
        for method in ("fine_tuned", "from_scratch", "zero_shot", "logistic_regression")
        if stack.has(method, budget)
    ] or [stack.methods[0]]
    pooled = {method: stack.matrices(method, budget).sum(axis=(0, 1)) for method in wanted}
    n_seeds = stack.matrices(wanted[0], budget).shape[0]
    scores = {method: per_class(matrix) for method, matrix in pooled.items()}
    scores = {method: score._replace(n_cells=score.n_cells / n_seeds) for method, score in scores.items()}
    estimates = {method: stack.estimate_classes(method, budget) for method in wanted}
    names = {method: method_name(method) for method in wanted}
    n_cells = scores[wanted[0]].n_cells
    rows = [
        (
            f"{name} *" if n_cells[place] < FEW_CELLS else name,
            [f"{int(n_cells[place]):,}", *(str(estimates[method][name]) for method in wanted)],
        )
        for place, name in enumerate(stack.classes)
        if n_cells[place] > 0
    ]
    title = f"{method_name(wanted[0])}, {budget} labelled, percent of each true type"
    return {
        "class_figure": figures.plot_classes(scores, names, stack.classes),
        "class_methods": [names[method] for method in wanted],
        "class_rows": rows,
        "class_budget": budget,
        "few_cells": FEW_CELLS,
        "confusion_figure": figures.plot_confusion(pooled[wanted[0]], stack.classes, title=title),
    }


def _beside(results: StudyResults) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Give the tables of the scores that the first one must not be read without, by what they are called."""
    measured = set(results.scores["metric"])
    tables = []
    for metric in BESIDE.get(str(results.about["headline_metric"]), ()):
        if metric in measured:
            stack = ScoreStack(results.scores, results.resamples, metric)
            tables.append((metric_name(metric), _score_table(stack, summarize(stack))))
    return tables


def _score_table(stack: Stack, estimates: dict[tuple[str, str], Estimate]) -> list[tuple[str, list[str]]]:
    return [
        (
            method_name(method),
            [str(estimates[method, budget]) if (method, budget) in estimates else "" for budget in stack.budgets],
        )
        for method in stack.methods
    ]


def _in_a_sentence(name: str) -> str:
    """Write a name of a score as within a sentence; what is named after people keeps its capital."""
    return name if name.startswith(("Pearson", "Spearman")) else name[0].lower() + name[1:]


def caveats(results: StudyResults) -> list[str]:
    """Say what a reader must know before judging by these results."""
    about = results.about
    found = [about["note"]] if about.get("note") else []
    if about.get("quick"):
        found.append("This was a quick run on few cells and epochs, to see that everything works: do not judge by it.")
    if about["n_seeds"] > 1 and len(set(about["pretrain_seeds"])) < 2:
        found.append(
            "All seeds share one pre-training: what is said holds for this encoder, not for pre-training as such. Name "
            "others, of other seeds, with --also."
        )
    if about["n_seeds"] < 2:
        found.append("A single seed allows no verdict; give more with --seeds.")
    if about["n_seeds"] == 2:
        found.append("Two seeds say little of how much seeds matter, and allow no verdict: give more with --seeds.")
    if about.get("seen_note"):
        found.append(about["seen_note"])
    # Cells of another data set are of other donors, named or not.
    if about["donor_key"] is None and not about.get("is_query"):
        found.append(
            "No donor column was named, so test cells may be of donors that have cells in training too: expect less on "
            "new donors."
        )
    return found


_SPREAD_WORDS = {
    "donors": "seeds and test donors",
    "blocks": "seeds and random blocks of test cells",
    "seeds": "seeds",
}
_SEEN = {True: ", seen without labels in pre-training", False: ", never seen before", None: ""}
"""By whether pre-training has seen test cells; None where nothing tells."""


def _study_facts(about: dict[str, Any]) -> list[tuple[str, str]]:
    split = about["split"]

    def part(name: str) -> str:
        n_donors = split[name]["n_donors"]
        return f"{split[name]['n_cells']:,} cells" + (f" of {counted(n_donors, 'donor')}" if n_donors else "")

    types = about.get("left_out", {})
    left_out = (
        f"; {sum(types.values()):,} more are of types that no labelled cell has: {', '.join(types)}" if types else ""
    )
    judged = "To judge" + _SEEN[about.get("has_seen")]
    both = "measured in both data sets: all methods but scVI and scANVI learn from these"
    measured_in = both if about.get("is_query") else "in the cells"
    return [
        ("Data", f"{about['dataset']}: {about['n_cells']:,} cells x {about['n_genes']:,} genes"),
        *(
            [("Genes", f"{n_measured:,} of the model's {about['n_genes']:,} are {measured_in}")]
            if (n_measured := about.get("n_measured_genes"))
            else []
        ),
        ("Task", about["task"]),
        *((name, about[key]) for name, key in _NAMED if about.get(key)),
        ("For training", part("train")),
        ("To watch the pre-training loss", part("validation")),
        (judged, part("test") + left_out),
        (
            "Seeds",
            f"{about['n_seeds']}, of pre-training ({', '.join(map(str, about['pretrain_seeds']))}) and of fine-tuning",
        ),
    ]


def _maps(cell_map: pd.DataFrame) -> list[str]:
    drawn = []
    for space, points in cell_map.groupby("space", sort=False):
        if points["label"].notna().any():
            drawn.append(figures.plot_map(points, by="label", title=f"{space}, by cell type"))
        if points["batch"].notna().any():
            drawn.append(figures.plot_map(points, by="batch", title=f"{space}, by batch"))
    return drawn
