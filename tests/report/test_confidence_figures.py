import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from selfcell.downstream.rejection import risk_coverage
from selfcell.downstream.reliability import reliability_table
from selfcell.reporting.confidence_figures import plot_reliability, plot_risk_coverage


@pytest.fixture
def confidence(rng):
    confidence = rng.uniform(0.2, 1, size=5_000)
    return confidence, rng.random(5_000) < confidence**2


def test_a_reliability_plot_is_one_svg_that_says_what_it_shows(confidence):
    table = reliability_table(*confidence)
    drawing = plot_reliability({"votes": table, 'calibrated "T <cell>"': table})
    root = ET.fromstring(drawing)
    assert root.tag.endswith("svg") and root.get("role") == "img"
    assert root.get("aria-label") == 'Accuracy against confidence: votes, calibrated "T <cell>"'
    assert "mean confidence" in drawing and "share of cells that are right" in drawing


def test_a_curve_of_risk_does_not_grow_with_the_cells(confidence):
    curve = risk_coverage(*confidence)
    drawing = plot_risk_coverage({"votes": curve, "distance": curve.iloc[::7]})
    assert ET.fromstring(drawing).get("aria-label").endswith("votes, distance")
    many = risk_coverage(np.linspace(0, 1, 200_000), np.arange(200_000) % 3 > 0)
    assert len(plot_risk_coverage({"votes": many})) < 100_000


def test_the_same_tables_give_the_same_bytes(confidence):
    tables = {"votes": reliability_table(*confidence)}
    assert plot_reliability(tables) == plot_reliability(tables)


def test_the_figures_need_no_torch():
    program = "import sys, selfcell.reporting.confidence_figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
