"""Figures as SVG strings. Every distinction shown by color is shown by shape, place or text as well."""

import html
import io
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, MaxNLocator

from selfcell.benchmark.intervals import Estimate
from selfcell.benchmark.statistics import Comparison
from selfcell.downstream.metrics import PerClass

# Okabe and Ito's palette: told apart with any kind of color vision; black last.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6D00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH = 4.6
"""Inches; narrow enough to be read on a phone without zooming."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "selfcell",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    # Names come from data, and a $ in them is no sign of mathematics.
    "text.parse_math": False,
}


def plot_scores(estimates: dict[str, Estimate], names: dict[str, str], *, budget: str, metric: str) -> str:
    """Draw the score of each method at one label budget: mean, interval, and a tick a seed."""
    order = sorted(estimates, key=lambda method: estimates[method].mean)
    figure, axes = new_figure(height=0.7 + 0.36 * len(order))
    for place, method in enumerate(order):
        estimate = estimates[method]
        axes.plot([estimate.low, estimate.high], [place, place], color="#333333", linewidth=1.6)
        axes.plot(estimate.by_seed, [place] * len(estimate.by_seed), "|", color="#333333", markersize=11)
        axes.plot(estimate.mean, place, "o", color=COLORS[0], markersize=7)
        axes.annotate(f"{estimate.mean:.3f}", (1.0, place), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.set_yticks(range(len(order)), [names[method] for method in order])
    axes.set_xlabel(f"{metric}, test cells")
    axes.set_ylim(-0.6, len(order) - 0.4)
    return as_svg(figure, f"{metric} of {len(order)} methods, {budget}")


def plot_differences(comparisons: Sequence[Comparison], *, metric: str) -> str:
    """Draw the difference between two methods at each label budget."""
    figure, axes = new_figure(height=0.9 + 0.42 * len(comparisons))
    for place, comparison in enumerate(reversed(comparisons)):
        difference = comparison.difference
        axes.plot([difference.low, difference.high], [place, place], color="#333333", linewidth=1.6)
        axes.plot(difference.by_seed, [place] * len(difference.by_seed), "|", color="#333333", markersize=11)
        axes.plot(difference.mean, place, "D", color=COLORS[0], markersize=7)
        axes.annotate(comparison.finding, (1.0, place), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.axvline(0, color="#333333", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(comparisons)), [comparison.budget for comparison in reversed(comparisons)])
    axes.set_ylim(-0.6, len(comparisons) - 0.4)
    axes.set_xlabel(f"difference in {metric}")
    return as_svg(figure, f"Difference in {metric} at each label budget")


def plot_curves(curves: pd.DataFrame) -> str:
    """Draw training and validation loss by epoch, one line a seed."""
    figure, axes = new_figure(height=2.9)
    for place, (seed, curve) in enumerate(curves.groupby("pretrain_seed")):
        style: dict[str, Any] = {
            "color": COLORS[place % len(COLORS)],
            "marker": MARKERS[place % len(MARKERS)],
            "markersize": 4,
        }
        for column, line in (("validation_loss", "-"), ("train_loss", ":")):
            if column in curve:
                label = f"{column.split('_')[0]}, seed {seed}"
                axes.plot(curve["epoch"], curve[column], line, label=label, linewidth=1.3, **style)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, frameon=False)
    return as_svg(figure, "Loss by epoch of pre-training")


def plot_map(points: pd.DataFrame, *, by: str, title: str) -> str:
    """Draw cells in two dimensions, told apart by type (numbers on the map) or by batch; by shape as well as color."""
    groups = list(points.groupby(by))
    n_columns = 2 if by == "label" else 3
    figure, axes = new_figure(height=WIDTH + 0.22 * -(-len(groups) // n_columns))
    for place, (name, group) in enumerate(groups):
        axes.scatter(
            group["x"],
            group["y"],
            s=9,
            alpha=0.6,
            linewidths=0,
            color=COLORS[place % len(COLORS)],
            marker=MARKERS[(place // len(COLORS) + place) % len(MARKERS)],
            label=f"{place + 1} {name}" if by == "label" else str(name),
            rasterized=True,
        )
        if by == "label":
            text = axes.text(group["x"].median(), group["y"].median(), str(place + 1), fontsize=9, weight="bold")
            text.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground="white")])
    axes.legend(
        fontsize=8, markerscale=2, frameon=False, ncols=n_columns, loc="upper center", bbox_to_anchor=(0.5, -0.01)
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=10)
    return as_svg(figure, title)


def plot_classes(scores: dict[str, PerClass], names: dict[str, str], classes: Sequence[str]) -> str:
    """Draw F1 of each class for a few methods; the class names bear the number of test cells."""
    first = next(iter(scores.values()))
    shown = [place for place in np.argsort(first.n_cells) if first.n_cells[place] > 0]
    figure, axes = new_figure(height=1.1 + 0.3 * len(shown))
    for place, (method, of_class) in enumerate(scores.items()):
        values = [of_class.f1[class_place] for class_place in shown]
        axes.plot(
            values,
            range(len(shown)),
            MARKERS[place],
            color=COLORS[place],
            label=names[method],
            markersize=6,
            alpha=0.85,
        )
    labels = [f"{classes[place]} ({int(first.n_cells[place]):,})" for place in shown]
    axes.set_yticks(range(len(shown)), labels)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("F1 (mean over seeds)")
    axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)
    return as_svg(figure, "F1 of each cell type")


def plot_confusion(matrix: np.ndarray, classes: Sequence[str], *, title: str) -> str:
    """Draw where the cells of each true type went, in percent, with the numbers written in."""
    present = np.flatnonzero(matrix.sum(axis=1) > 0).tolist()
    share = 100 * matrix[present] / matrix[present].sum(axis=1, keepdims=True)
    columns = np.flatnonzero(matrix.sum(axis=0) + matrix.sum(axis=1) > 0).tolist()
    share = share[:, columns]
    size = 2.2 + 0.33 * len(columns)
    figure, axes = new_figure(width=size, height=size * len(present) / len(columns) + 0.4)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for row, column in zip(*np.nonzero(share >= 0.5), strict=True):
        color = "white" if share[row, column] > 55 else "black"
        axes.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(columns)), [classes[place] for place in columns], rotation=90)
    axes.set_yticks(range(len(present)), [classes[place] for place in present])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.grid(visible=False)
    axes.set_title(title, fontsize=10)
    return as_svg(figure, title)


def new_figure(*, height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """Make an empty figure in the style of the page; sizes are in inches."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.add_subplot()


class _PlainNumbers(LogFormatter):
    """Numbers of a logarithmic axis as they are, without mathematics."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Write a number, if there is room for it."""
        shown = bool(super().__call__(x, pos))
        return (f"{x:,.0f}" if x >= 1 else f"{x:g}") if shown else ""


def make_logarithmic(axes: Axes, which: Literal["x", "y"]) -> None:
    """Put the axis x or y on a logarithmic scale, its numbers written out."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(_PlainNumbers())
    axis.set_minor_formatter(_PlainNumbers())


def as_svg(figure: Figure, description: str) -> str:
    """Give a figure as an ``svg`` element that scales with the page and says what it shows."""
    drawing = _saved(figure, format="svg", dpi=150, metadata={"Date": None}).decode()
    element = drawing[drawing.index("<svg") :]
    return element.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1)


def as_pdf(figure: Figure) -> bytes:
    """Give a figure as a PDF."""
    return _saved(figure, format="pdf", metadata={"CreationDate": None})


def _saved(figure: Figure, **options: Any) -> bytes:
    stream = io.BytesIO()
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with mpl.rc_context(_STYLE):
        figure.savefig(stream, **options)
    return stream.getvalue()
