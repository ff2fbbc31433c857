"""The results of a comparison as a table in the terminal."""

import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from selfcell.benchmark.results import read_results
from selfcell.benchmark.statistics import answer_questions, summarize
from selfcell.reporting.html import caveats, headline, second_opinion, stack_of, verdict_sentences
from selfcell.reporting.names import budget_word, method_name, metric_name


def print_results(folder: Path) -> None:
    """Print the headline score of every method and budget, and the verdict."""
    results = read_results(folder)
    stack = stack_of(results)
    task = str(results.about["task"])
    estimates = summarize(stack)
    n_cells = results.about["split"]["test"]["n_cells"]
    judged = "unseen cells" if results.about.get("has_seen") is False else "test cells"
    table = Table(
        "method",
        *stack.budgets,
        title=f"{metric_name(str(results.about['headline_metric']))} on {n_cells:,} {judged}, by what is "
        f"{budget_word(task)}: mean [95 %]",
        box=box.SIMPLE_HEAD,
        title_style="bold",
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for method in stack.methods:
        cells = [str(estimates[method, budget]) if (method, budget) in estimates else "" for budget in stack.budgets]
        table.add_row(method_name(method), *cells)
    # A table that is piped into a file need not fit a screen.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print()
    console.print(table)
    answers = answer_questions(stack)
    n_pretrainings = len(set(results.about["pretrain_seeds"]))
    console.print(headline(answers, task=task, n_pretrainings=n_pretrainings), style="bold", highlight=False)
    for line in [*verdict_sentences(answers, task=task), *second_opinion(results), *caveats(results)]:
        console.print(f"- {line}", highlight=False, markup=False)
