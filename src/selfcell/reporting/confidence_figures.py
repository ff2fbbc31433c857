"""Figures of confidence, as SVG strings: whether it means what it says, and what it is worth."""

from collections.abc import Mapping

import pandas as pd

from selfcell.reporting.figures import COLORS, MARKERS, WIDTH, as_svg, make_logarithmic, new_figure

_N_SHOWN = 400
"""Points of a curve: a file shall not grow with the cells."""
_LINES = ("-", "--", "-.", ":")


def plot_reliability(tables: Mapping[str, pd.DataFrame]) -> str:
    """Draw accuracy against confidence, with intervals; below, how many cells each bin has.

    Parameters
    ----------
    tables
        Name of a method, such as "calibrated", to its table of
        :func:`~selfcell.downstream.reliability.reliability_table`.
    """
    figure, axes = new_figure(height=WIDTH + 0.9)
    grid = figure.add_gridspec(2, 1, height_ratios=(4, 1))
    axes.set_subplotspec(grid[0])
    below = figure.add_subplot(grid[1], sharex=axes)
    below.spines[["top", "right"]].set_visible(False)
    axes.plot([0, 1], [0, 1], color="#333333", linestyle="--", linewidth=1, label="confidence = accuracy")
    for place, (name, table) in enumerate(tables.items()):
        color, marker, line = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)], _LINES[place % len(_LINES)]
        confidence = table["mean_confidence"]
        axes.vlines(confidence, table["low"], table["high"], color=color, linewidth=1.2)
        axes.plot(confidence, table["accuracy"], line, marker=marker, color=color, markersize=5, label=name)
        below.plot(confidence, table["n_cells"], line, marker=marker, color=color, markersize=4, linewidth=1)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("share of cells that are right")
    axes.tick_params(labelbottom=False)
    below.set_xlabel("mean confidence")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    make_logarithmic(below, "y")
    below.set_ylabel("cells")
    return as_svg(figure, f"Accuracy against confidence: {_named(tables)}")


def plot_risk_coverage(curves: Mapping[str, pd.DataFrame]) -> str:
    """Draw the share of errors against the share of cells that keep their label, the surest first.

    Parameters
    ----------
    curves
        Name of a method to its table of :func:`~selfcell.downstream.rejection.risk_coverage`.
    """
    figure, axes = new_figure(height=3.2)
    for place, (name, curve) in enumerate(curves.items()):
        color, line = COLORS[place % len(COLORS)], _LINES[place % len(_LINES)]
        shown = _thinned(curve)
        axes.plot(shown["coverage"], shown["risk"], line, color=color, linewidth=1.5, label=name)
        axes.plot(shown["coverage"].iloc[-1], shown["risk"].iloc[-1], MARKERS[place % len(MARKERS)], color=color)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of cells that keep their label")
    axes.set_ylabel("share of errors among them")
    axes.legend(fontsize=8, frameon=False)
    return as_svg(figure, f"Errors against cells that keep their label: {_named(curves)}")


def _thinned(curve: pd.DataFrame) -> pd.DataFrame:
    """Leave out what the eye cannot tell apart."""
    bins = (curve["coverage"] * _N_SHOWN).astype(int)
    return curve.groupby(bins, sort=False).tail(1)


def _named(tables: Mapping[str, pd.DataFrame]) -> str:
    return ", ".join(tables)
