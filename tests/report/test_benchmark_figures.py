import numpy as np
import pandas as pd
import pytest

from selfcell.reporting.benchmark_figures import draw_cost, draw_differences, draw_sizes
from selfcell.reporting.figures import as_pdf, as_svg, plot_confusion, plot_map


def test_long_labels_leave_the_drawing_its_room():
    rows = pd.DataFrame(
        {"difference": [0.1, 0.0], "low": [0.05, -0.1], "high": [0.2, 0.1], "finding": ["helps", "none"]}
    )
    label = "Proteins that both sets measure, learned from one data set, judged on another: all cells"
    figure = draw_differences(rows, [label, "short"], xlabel="difference")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.get_position().width > 0.4
    assert axes.get_yticklabels()[1].get_text().replace("\n", " ") == label


@pytest.mark.parametrize("name", ["a $ b $", "$\\frac{", r"\$ $x$"])
def test_a_dollar_in_a_name_is_no_mathematics(name):
    rows = pd.DataFrame({"difference": [0.1], "low": [0.05], "high": [0.2], "finding": ["helps"]})
    figure = draw_differences(rows, [name], xlabel=name)
    assert as_svg(figure, name).count(f">{name}<") == 2 and as_pdf(figure).startswith(b"%PDF")
    curves = pd.DataFrame({"line": [name] * 2, "size": [20, 5000], "mean": [0.1, 0.2], "low": 0.0, "high": 0.3})
    assert f">{name}<" in as_svg(draw_sizes(curves, xlabel=name, ylabel="score"), "curves")
    points = pd.DataFrame({"x": [0.0, 1.0], "y": [0.0, 1.0], "label": [name, "other"]})
    assert f">1 {name}<" in plot_map(points, by="label", title=name) or f">2 {name}<" in plot_map(
        points, by="label", title=name
    )
    assert plot_confusion(np.eye(2), [name, "b"], title=name).count(f">{name}<") == 3


def test_numbers_of_a_logarithmic_axis_are_written_out():
    drawing = as_svg(draw_cost(pd.Series({"probe": 0.05, "scvi": 12_000.0})), "cost")
    assert ">10,000<" in drawing and ">0.1<" in drawing and "mathdefault" not in drawing
