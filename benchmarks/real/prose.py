"""The prose of ``docs/results.md``, from ``prose.md`` beside this file, in which tables' figures have names.

``<STUDY:METHOD>`` is a mean, ``{STUDY:METHOD:AGAINST}`` a difference with its interval, of the first score of the task;
``:b=BUDGET`` and ``:m=METRIC`` name the label budget and another score. What is not in the tables once is an error.
"""

import re
from pathlib import Path

import pandas as pd
from real.between import points, write_between
from real.words import interval

from selfcell.downstream import DOWNSTREAM_TASKS

TEMPLATE = Path(__file__).with_name("prose.md")
BEGIN, END = "<!-- prose: begin -->", "<!-- prose: end -->"


def write_prose(page: Path, table: pd.DataFrame, verdicts: pd.DataFrame) -> None:
    """Write the prose between the marks of a page."""
    text = TEMPLATE.read_text(encoding="utf-8").strip()
    text = re.sub(r"<([^<>\s]+:[^<>]+)>", lambda found: _mean(table, found[1]), text)
    text = re.sub(r"\{([^{}\s]+:[^{}]+)\}", lambda found: _difference(verdicts, found[1]), text)
    write_between(page, [*points(text), ""], begin=BEGIN, end=END)


def _mean(table: pd.DataFrame, name: str) -> str:
    (study, method), told = _parts(name)
    rows = table[(table["study"] == study) & (table["method"] == method)]
    first = rows["task"].map({task: one.headline for task, one in DOWNSTREAM_TASKS.items()})
    rows = rows[rows["metric"] == told.get("m", first)]
    return f"{_only(rows, name, told)['mean']:.3f}"


def _difference(verdicts: pd.DataFrame, name: str) -> str:
    (study, method, against), told = _parts(name)
    asked = (verdicts["study"] == study) & (verdicts["method"] == method) & (verdicts["against"] == against)
    row = _only(verdicts[asked], name, told)
    return interval(row["difference"], row["low"], row["high"], sign="+")


def _parts(name: str) -> tuple[list[str], dict[str, str]]:
    parts = name.split(":")
    return [part for part in parts if "=" not in part], dict(part.split("=") for part in parts if "=" in part)


def _only(rows: pd.DataFrame, name: str, told: dict[str, str]) -> pd.Series:
    found = rows[rows["budget"] == told["b"]] if "b" in told else rows
    if len(found) != 1:
        raise KeyError(f"{name} stands for {len(found)} rows of the tables, not for one.")
    return found.iloc[0]
