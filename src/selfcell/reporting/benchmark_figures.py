"""Figures of a benchmark. Those of one comparison are in :mod:`selfcell.reporting.figures`."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from selfcell.benchmark.ranks import Ranking
from selfcell.reporting.figures import COLORS, MARKERS, make_logarithmic, new_figure
from selfcell.reporting.names import method_name

_WIDE = 7.2
_LONGEST_LINE = 44
"""Characters of a label before it is broken: longer ones would leave the drawing no room."""
_VERDICT_COLORS = {"helps": 0, "better": 0, "hurts": 1, "worse": 1}


def draw_differences(rows: pd.DataFrame, labels: Sequence[str], *, xlabel: str) -> Figure:
    """Draw differences with their intervals, one line each; filled where the verdict is clear.

    Parameters
    ----------
    rows
        ``difference``, ``low``, ``high`` and ``finding``.
    labels
        What each line is called.
    xlabel
        What is subtracted from what.
    """
    broken = [textwrap.fill(str(label), _LONGEST_LINE) for label in labels]
    lines = max((label.count("\n") + 1 for label in broken), default=1)
    figure, axes = new_figure(width=_WIDE, height=1.0 + (0.14 + 0.14 * lines) * len(rows))
    for place, row in enumerate(rows.iloc[::-1].to_dict("records")):
        clear = row["finding"] in _VERDICT_COLORS
        color = COLORS[_VERDICT_COLORS[row["finding"]]] if clear else "#555555"
        axes.plot([row["low"], row["high"]], [place, place], color=color, linewidth=1.6)
        axes.plot(
            row["difference"], place, MARKERS[_VERDICT_COLORS.get(row["finding"], 0)], color=color, markersize=7,
            fillstyle="full" if clear else "none",
        )  # fmt: skip
        axes.annotate(
            f" {row['finding']}", (1.0, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=color
        )
    axes.axvline(0, color="#333333", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(rows)), broken[::-1], fontsize=9)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(xlabel)
    return figure


def draw_ranks(ranking: Ranking, names: dict[str, str]) -> Figure:
    """Draw mean ranks, the best on top, with the critical difference as a bar: what it spans is not told apart."""
    order = list(ranking.mean_rank.index)
    figure, axes = new_figure(width=_WIDE, height=1.3 + 0.3 * len(order))
    for place, method in enumerate(reversed(order)):
        rank = float(ranking.mean_rank[method])
        axes.plot([rank, rank + ranking.critical_difference], [place, place], color="#999999", linewidth=3, alpha=0.6)
        axes.plot(rank, place, "o", color=COLORS[0], markersize=7)
        axes.annotate(f" {rank:.2f}", (1.0, place), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.set_yticks(range(len(order)), [names.get(method, method) for method in reversed(order)])
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlabel(f"mean rank over {ranking.n_targets}; grey: within the critical difference of it")
    return figure


def draw_sizes(curves: pd.DataFrame, *, xlabel: str, ylabel: str) -> Figure:
    """Draw scores against a number of cells, a line each for what ``line`` names.

    Parameters
    ----------
    curves
        ``line``, ``size``, ``mean``, ``low``, ``high``.
    xlabel, ylabel
        Names of the axes.
    """
    figure, axes = new_figure(width=_WIDE, height=3.4)
    for place, (line, points) in enumerate(curves.groupby("line", sort=False)):
        ordered = points.sort_values("size")
        # Moved aside a little, so that intervals do not lie on one another.
        size = ordered["size"] * 1.02**place
        spread = np.abs(ordered[["low", "high"]].to_numpy(dtype=float).T - ordered["mean"].to_numpy(dtype=float))
        axes.errorbar(
            size, ordered["mean"], yerr=np.nan_to_num(spread), label=str(line), color=COLORS[place % len(COLORS)],
            marker=MARKERS[place % len(MARKERS)], linewidth=1.3, capsize=2,
        )  # fmt: skip
    make_logarithmic(axes, "x")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_cost(seconds: pd.Series) -> Figure:
    """Draw the median seconds of a trial of each method, on a logarithmic axis."""
    ordered = seconds.sort_values(ascending=False)
    figure, axes = new_figure(width=_WIDE, height=1.0 + 0.3 * len(ordered))
    axes.barh(range(len(ordered)), ordered, color=COLORS[0], height=0.6)
    for place, value in enumerate(ordered):
        axes.annotate(f" {value:,.1f}", (1.0, place), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.set_yticks(range(len(ordered)), [method_name(str(method)) for method in ordered.index])
    make_logarithmic(axes, "x")
    axes.set_xlabel("seconds of a trial, median over targets, budgets and seeds")
    return figure
