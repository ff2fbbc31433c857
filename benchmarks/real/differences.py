"""The tables of differences of ``docs/results.md``, from ``docs/results/verdicts.csv``."""

import pandas as pd
from real.words import interval, labels

from selfcell.reporting.names import method_name

TASKS = {
    "cell_type": "cell types",
    "cross_modality": "proteins and chromatin",
    "integration": "integration",
    "reconstruction": "expression",
}


def differences_section(table: pd.DataFrame) -> str:
    """Give one table a task: a line a study and label budget, a column a question, each with its interval."""
    lines = [
        "## Where each is above the other",
        "",
        "Differences in the first score of each task, taken within pairs of seeds and draws of test donors, with their",
        "95 % intervals; in bold where that leaves out zero. They are not corrected for their number:",
        "`docs/results/verdicts.csv` has p, as it is and by Holm's method, and what would have been visible.",
        "",
    ]
    for task, name in TASKS.items():
        of_task = table[table["task"] == task]
        if len(of_task):
            lines += [f"**Of {name}**", "", *_matrix(of_task), ""]
    return "\n".join(lines)


def _matrix(rows: pd.DataFrame) -> list[str]:
    pairs = list(dict.fromkeys(zip(rows["method"], rows["against"], strict=True)))
    heads = [f"{method_name(method)} less {method_name(against)}" for method, against in pairs]
    lines = [f"| study | labels | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for (title, budget), group in rows.groupby(["title", "budget"], sort=False):
        found = {(row["method"], row["against"]): _told(row) for _, row in group.iterrows()}
        lines.append(f"| {title} | {labels(budget)} | {' | '.join(found.get(pair, '') for pair in pairs)} |")
    return lines


def _told(row: pd.Series) -> str:
    told = interval(row["difference"], row["low"], row["high"], sign="+")
    return f"**{told}**" if row["low"] > 0 or row["high"] < 0 else told
