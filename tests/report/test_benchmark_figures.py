import pandas as pd

from selfcell.reporting.benchmark_figures import draw_differences


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
