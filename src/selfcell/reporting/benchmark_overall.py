"""What a benchmark says over all of its targets: each question's test, and how methods and encoders rank."""

import math
from collections.abc import Iterator

import pandas as pd

from selfcell.benchmark.ranks import rank_methods, scores_by_target
from selfcell.benchmark.verdicts import FEW_TARGETS, over_targets
from selfcell.core.words import counted
from selfcell.reporting.benchmark_figures import draw_ranks
from selfcell.reporting.benchmark_tables import BenchmarkTables, Drawing, Section, headline_scores
from selfcell.reporting.names import method_name, metric_name


def over_all_targets(tables: BenchmarkTables) -> Iterator[Section]:
    """Answer each question over all targets, and rank methods, where there are several targets."""
    if tables.estimates["target"].nunique() < 2:
        return
    sentences = [
        "Each target counts once, with the mean over its corpora, encoders and label budgets. Targets of one data set "
        "are not independent: read this as a summary. Wilcoxon's signed-rank test takes "
        f"{FEW_TARGETS} targets of one score."
    ]
    drawings: list[Drawing] = []
    for metric, part in headline_scores(tables.estimates).groupby("metric", sort=False):
        sentence, drawn = ranked(part, "method", metric_name(str(metric)))
        sentences.append(sentence)
        drawings += drawn
    summary = over_targets(tables.verdicts)
    table = pd.DataFrame(
        {
            "question": summary["question"],
            "score": summary["metric"].map(metric_name),
            "targets": summary["n_targets"],
            "above zero": summary["n_above"],
            "median difference": summary["median_difference"],
            "p (Wilcoxon)": summary["p_value"],
            "p (Holm)": summary["p_holm"],
        }
    )
    shown = [("over-all-targets", table)] if len(table) else []
    yield Section("What holds over all targets?", sentences, drawings, shown)


def ranked(estimates: pd.DataFrame, what: str, words: str) -> tuple[str, list[Drawing]]:
    """Say which method or encoder ranks first over targets, and draw it; or say that targets are too few.

    Parameters
    ----------
    estimates
        One score a target.
    what
        ``method`` or ``encoder``.
    words
        What they are ranked by.
    """
    scores = scores_by_target(estimates, what, least=FEW_TARGETS)
    if scores.empty:
        n_targets = estimates["target"].nunique()
        return (
            f"{words}: no ranks of {what}s, which take {FEW_TARGETS} targets at which the same ones were run; there "
            f"{'is' if n_targets == 1 else 'are'} {counted(n_targets, 'target')}.",
            [],
        )
    ranking = rank_methods(scores)
    names = {name: method_name(name) for name in scores.columns} if what == "method" else {}
    first = ranking.mean_rank.index[0]
    sentence = (
        f"{words}: {names.get(first, first)} ranks first on average over {ranking.n_targets} targets; mean ranks must "
        f"differ by {ranking.critical_difference:.2f} to be told apart (Nemenyi's test at 0.05)."
    )
    if not math.isnan(ranking.p_value):
        sentence += (
            f" That ranks differ so much, or more, if no {what} were better than another, has a probability of "
            f"{ranking.p_value:.2g} (p of Friedman's test of all {len(scores.columns)} at once)."
        )
    table = ranking.mean_rank.rename("mean rank").rename_axis(what).reset_index()
    table[what] = table[what].map(lambda name: names.get(name, name))
    caption = f"Ranks of {what}s: {words}"
    return sentence, [Drawing(f"ranks-{what}-{words}", caption, draw_ranks(ranking, names), table)]
