import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from selfcell.core.errors import InputError
from selfcell.downstream.reliability import (
    expected_calibration_error,
    reliability_table,
    wilson_interval,
)


def drawn_cells(n_cells, *, seed=0):
    """Confidence that is exactly right: cells are correct with the probability that it says."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.2, 1, size=n_cells)
    return confidence, rng.random(n_cells) < confidence


def test_the_error_of_perfect_calibration_is_near_zero():
    assert expected_calibration_error(*drawn_cells(100_000)) < 0.01


def test_the_error_of_overconfidence_is_how_much_it_is_over():
    confidence, correct = drawn_cells(100_000)
    shifted = confidence / 2 + 0.5
    expected = float((shifted - confidence).mean())
    assert expected_calibration_error(shifted, correct) == pytest.approx(expected, abs=0.01)


@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 10_000))
def test_a_table_takes_in_every_cell_once(n_cells, n_bins, seed):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.integers(0, 11, size=n_cells) / 10, rng.random(n_cells) < 0.5
    table = reliability_table(confidence, correct, n_bins=n_bins)
    assert table["n_cells"].sum() == n_cells and (table["n_cells"] > 0).all()
    assert (table["mean_confidence"] * table["n_cells"]).sum() == pytest.approx(confidence.sum())
    assert (table["accuracy"] * table["n_cells"]).sum() == pytest.approx(correct.sum())
    assert table["bin"].between(0, n_bins - 1).all() and table["bin"].is_unique
    assert table["mean_confidence"].is_monotonic_increasing
    assert (table["low"] <= table["accuracy"] + 1e-12).all() and (table["accuracy"] <= table["high"] + 1e-12).all()


def test_bins_are_those_of_scikit_learn():
    confidence, correct = drawn_cells(1_000)
    accuracy, mean_confidence = calibration_curve(correct, confidence, n_bins=10, strategy="uniform")
    table = reliability_table(confidence, correct, n_bins=10)
    np.testing.assert_allclose(table["accuracy"], accuracy)
    np.testing.assert_allclose(table["mean_confidence"], mean_confidence)


def test_a_bin_takes_in_its_upper_end():
    table = reliability_table(np.array([0.0, 0.5, 0.51, 1.0]), np.array([True] * 4), n_bins=2)
    assert table["n_cells"].tolist() == [2, 2]


@pytest.mark.parametrize(("n_correct", "n_cells"), [(0, 3), (7, 9), (50, 50)])
def test_the_interval_is_wilsons(n_correct, n_cells):
    expected = scipy.stats.binomtest(n_correct, n_cells).proportion_ci(method="wilson")
    low, high = wilson_interval(np.array([float(n_correct)]), np.array([n_cells]))
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high))


def test_no_cells_are_refused():
    with pytest.raises(InputError, match="There are no cells to judge confidence on"):
        reliability_table(np.zeros(0), np.zeros(0, dtype=bool))


@pytest.mark.parametrize("wrong", [1.5, -0.1, np.nan])
def test_confidence_that_is_no_probability_is_refused(wrong):
    with pytest.raises(InputError, match=rf"between 0 and 1, but 1 of 2 cells have another \(the first is {wrong:g}\)"):
        expected_calibration_error(np.array([0.5, wrong]), np.array([True, False]))
