"""What the page of a benchmark is made of: its tables, and the parts that questions are answered in."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

RELATIONS = {
    "own": "pre-trained on cells that the target learns from, judged on others, none of which pre-training was given",
    "transfer": "pre-trained on other cells alone, none of the target's",
    "named": "judged on cells that the plan names, such as a study or condition, none of which pre-training was given",
    "query": "judged on another data set than is learned from, none of whose cells pre-training was given",
    "seen": "judged on cells or donors that pre-training was given too, without their labels",
    "unknown": "whether pre-training was given cells of the target is not known",
    "given": "models that the plan names, whatever they were pre-trained on",
}
"""What the cells of pre-training are to those of a target; see :data:`selfcell.benchmark.seen.Relation`."""


@dataclass(frozen=True)
class Drawing:
    """A figure, and the numbers in it."""

    name: str
    """Of its files."""
    caption: str
    figure: Figure
    table: pd.DataFrame


@dataclass(frozen=True)
class Section:
    """The answer to one question."""

    title: str
    sentences: list[str]
    drawings: list[Drawing] = field(default_factory=list)
    tables: list[tuple[str, pd.DataFrame]] = field(default_factory=list)
    """Further tables, by name."""


@dataclass(frozen=True)
class BenchmarkTables:
    """What is on disk of a benchmark."""

    about: dict[str, Any]
    verdicts: pd.DataFrame
    estimates: pd.DataFrame
    pairs: pd.DataFrame
    classes: pd.DataFrame
    failures: pd.DataFrame
    """One row a pair of seeds and encoder, that may share what failed."""
    n_failed: int

    @property
    def plan(self) -> dict[str, Any]:
        """The plan."""
        return dict(self.about["plan"])

    def relation(self, target: str, corpus: str, encoder: str) -> str:
        """Tell what the cells of pre-training are to those of a target, one of :data:`RELATIONS`."""
        if corpus not in self.plan["corpora"]:
            return "given"
        which = {"target": target, "corpus": corpus, "encoder": encoder}
        told = (one["relation"] for one in self.about.get("seen", []) if which.items() <= one.items())
        return str(next(told, "unknown"))

    def title(self, target: str) -> str:
        """Give what people read for a target."""
        return str(self.plan["targets"][target].get("title") or target)


def of_question(verdicts: pd.DataFrame, method: str, against: str) -> pd.DataFrame:
    """Give the answers to one question."""
    return verdicts[(verdicts["method"] == method) & (verdicts["against"] == against)]


def headline_scores(estimates: pd.DataFrame) -> pd.DataFrame:
    """Keep the score that each target is judged by, which comes first."""
    first = estimates.groupby("target")["metric"].transform("first")
    return estimates[estimates["metric"] == first]
