"""How numbers are written in the tables of ``docs/results.md``."""

import re

import pandas as pd

from selfcell.downstream.resampling import N_BLOCKS


def interval(mean: float, low: float, high: float, *, sign: str = "") -> str:
    """Give a mean with its interval, where it has one; with the sign of each if asked to."""
    if pd.isna(low):
        return f"{mean:{sign}.3f}"
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def labels(budget: str) -> str:
    """Say what is labelled: a share in hundredths."""
    share = re.fullmatch(r"(0\.\d+) of the cells", budget)
    return budget if share is None else f"{100 * float(share[1]):g} % of the cells"


def units(n_units: int) -> str:
    """Say what is drawn anew for intervals; a study without donors has always as many blocks."""
    return f"{n_units} random blocks of cells" if n_units == N_BLOCKS else f"{n_units} donors"


def seconds(value: float) -> str:
    """Give seconds in three digits, or as whole ones."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
