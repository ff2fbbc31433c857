import logging

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from selfcell.core.errors import InputError
from selfcell.downstream.calibration import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    calibrated_probability,
    check_probability,
    fit_temperature,
    logits_of_shares,
)
from selfcell.downstream.reliability import expected_calibration_error


def overconfident_cells(temperature, *, n_cells=20_000, n_classes=5, seed=0):
    """Logits that are right once they are divided by the temperature, and labels drawn accordingly."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n_cells, n_classes)) * 2
    probability = scipy.special.softmax(logits, axis=1)
    label = (rng.random((n_cells, 1)) > probability.cumsum(axis=1)).sum(axis=1)
    return logits * temperature, np.minimum(label, n_classes - 1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_cells_were_drawn_with_is_recovered(temperature):
    logits, label_code = overconfident_cells(temperature)
    assert fit_temperature(logits, label_code) == pytest.approx(temperature, rel=0.03)


@given(st.integers(2, 6), st.integers(20, 80), st.integers(0, 10_000))
def test_the_temperature_has_the_smallest_loss_of_a_plain_search(n_classes, n_cells, seed):
    rng = np.random.default_rng(seed)
    logits, label_code = rng.normal(size=(n_cells, n_classes)), rng.integers(n_classes, size=n_cells)
    label_code[: n_cells // 2] = logits[: n_cells // 2].argmax(axis=1)

    def loss(log_temperature):
        probability = calibrated_probability(logits, temperature=np.exp(log_temperature))
        return log_loss(label_code, probability, labels=np.arange(n_classes))

    found = scipy.optimize.minimize_scalar(
        loss, bounds=(np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE)), method="bounded"
    )
    assert loss(np.log(fit_temperature(logits, label_code))) <= found.fun + 1e-9


def test_calibration_lowers_the_error_on_other_cells_and_changes_no_prediction():
    logits, label_code = overconfident_cells(3.0)
    temperature = fit_temperature(logits, label_code)
    other_logits, other_code = overconfident_cells(3.0, seed=1)
    before, after = (calibrated_probability(other_logits, temperature=t) for t in (1.0, temperature))
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()
    correct = after.argmax(axis=1) == other_code
    assert expected_calibration_error(before.max(axis=1), correct) > 0.1
    assert expected_calibration_error(after.max(axis=1), correct) < 0.02


def test_with_donors_each_donor_counts_equally():
    (well, well_code), (over, over_code) = (
        overconfident_cells(1.0, n_cells=9_000),
        overconfident_cells(4.0, n_cells=900),
    )
    logits, label_code = np.r_[well, over], np.r_[well_code, over_code]
    donor_code = np.r_[np.zeros(9_000, int), np.full(900, 7)]
    repeated = np.r_[np.arange(9_000), np.repeat(np.arange(9_000, 9_900), 10)]
    by_donor = fit_temperature(logits, label_code, donor_code=donor_code)
    assert by_donor == pytest.approx(fit_temperature(logits[repeated], label_code[repeated]), rel=1e-6)
    assert by_donor > fit_temperature(logits, label_code) + 0.1


def test_a_common_shift_and_single_precision_change_nothing():
    logits, label_code = overconfident_cells(2.0, n_cells=500)
    temperature = fit_temperature(logits, label_code)
    assert fit_temperature(logits + 1e4, label_code) == pytest.approx(temperature)
    assert fit_temperature(logits.astype(np.float32), label_code) == pytest.approx(temperature, rel=1e-5)


def test_logits_that_are_always_right_stay_at_the_lowest_temperature(caplog):
    with caplog.at_level(logging.WARNING):
        assert fit_temperature(np.eye(4) * 5, np.arange(4)) == LOWEST_TEMPERATURE
    assert "right nearly always" in caplog.text


def test_logits_that_are_worse_than_chance_stay_at_the_highest_temperature(caplog):
    with caplog.at_level(logging.WARNING):
        assert fit_temperature(np.eye(4) * 5, (np.arange(4) + 1) % 4) == HIGHEST_TEMPERATURE
    assert "no better than chance" in caplog.text


@given(st.integers(1, 30), st.integers(2, 8), st.integers(0, 10_000))
def test_shares_with_zeros_become_finite_logits_in_the_same_order(n_votes, n_classes, seed):
    votes = np.random.default_rng(seed).multinomial(n_votes, np.full(n_classes, 1 / n_classes), size=20)
    logits = logits_of_shares(votes / n_votes, n_votes=n_votes)
    np.testing.assert_allclose(np.exp(logits), (votes + 1 / n_classes) / (n_votes + 1))
    np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1)
    assert (np.argsort(logits, axis=1, kind="stable") == np.argsort(votes, axis=1, kind="stable")).all()


def test_logits_without_bounds_are_refused_and_the_mend_is_named():
    with pytest.raises(InputError, match=r"Logits must be finite.*go through logits_of_shares first"):
        fit_temperature(np.array([[0.0, -np.inf]]), np.array([0]))


def test_no_held_out_cells_are_refused():
    with pytest.raises(InputError, match="There are no held-out cells to calibrate on"):
        fit_temperature(np.zeros((0, 2)), np.zeros(0, dtype=int))


@pytest.mark.parametrize("wrong", [-1, 3])
def test_labels_that_are_no_classes_are_refused(wrong):
    with pytest.raises(InputError, match=rf"1 of 2 held-out cells .* none of the 3 classes \(the first is {wrong}\)"):
        fit_temperature(np.zeros((2, 3)), np.array([0, wrong]))


@pytest.mark.parametrize("row", [[0.5, 0.6], [-0.5, 1.5], [np.nan, 1.0]])
def test_rows_that_are_no_probabilities_are_refused(row):
    with pytest.raises(InputError, match=r"must add up to one in each cell, but 1 of 2 .*\(the first is cell 1\)"):
        check_probability(np.array([[0.5, 0.5], row]))
