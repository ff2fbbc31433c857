"""How numbers are written in the tables of ``docs/results.md``."""

import pandas as pd


def interval(mean: float, low: float, high: float, *, sign: str = "") -> str:
    """Give a mean with its interval, where it has one; with the sign of each if asked to."""
    if pd.isna(low):
        return f"{mean:{sign}.3f}"
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"
