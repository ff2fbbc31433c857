"""Scores from sums against scikit-learn, scipy and written-out formulas in float64."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import explained_variance_score, mean_squared_error

from selfcell.core.errors import InputError
from selfcell.downstream.regression_scores import REGRESSION_SCORES, RegressionTotals, correlation_of_rows


def predictions(seed=0, *, n_cells=40, n_features=9, n_units=4):
    """Counts with ties, and predictions of them; a feature and a cell without variance on either side."""
    rng = np.random.default_rng(seed)
    truth = rng.poisson(1.5, size=(n_cells, n_features)).astype(float)
    predicted = np.round(0.6 * truth + rng.normal(size=truth.shape), 1)
    truth[4, 1:4] = [0, 1, 2]
    truth[:, 0], truth[3] = 2.0, 2.0
    predicted[:, 1], predicted[4] = 0.5, 0.5
    return truth, predicted, rng.integers(n_units, size=n_cells)


def total(truth, predicted, unit_code, *, n_units=4, **given):
    totals = RegressionTotals(n_features=truth.shape[1], n_units=n_units)
    totals.add(truth, predicted, unit_code, **given)
    return totals


def correlations(truth, predicted, correlate):
    """Correlate row by row: rows of constant truth left out, those of constant prediction 0."""
    return [correlate(x, y).statistic if np.ptp(y) else 0.0 for x, y in zip(truth, predicted, strict=True) if np.ptp(x)]


def plain_scores(truth, predicted):
    """Compute every score with scikit-learn and scipy."""
    return {
        "explained_variance_weighted": explained_variance_score(truth, predicted, multioutput="variance_weighted"),
        "explained_variance_uniform": explained_variance_score(truth, predicted),
        "mse": mean_squared_error(truth, predicted),
        "pearson_per_cell": np.mean(correlations(truth, predicted, scipy.stats.pearsonr)),
        "pearson_per_feature": np.mean(correlations(truth.T, predicted.T, scipy.stats.pearsonr)),
        "pearson_flattened": scipy.stats.pearsonr(truth.ravel(), predicted.ravel()).statistic,
        "spearman_per_cell": np.mean(correlations(truth, predicted, scipy.stats.spearmanr)),
    }


@given(st.integers(0, 10_000), st.integers(6, 30), st.integers(5, 12))
def test_every_score_agrees_with_scikit_learn_and_scipy(seed, n_cells, n_features):
    truth, predicted, unit_code = predictions(seed, n_cells=n_cells, n_features=n_features)
    found = total(truth, predicted, unit_code).scores()
    assert tuple(found) == REGRESSION_SCORES
    assert {name: float(value[0]) for name, value in found.items()} == pytest.approx(plain_scores(truth, predicted))


@given(st.integers(0, 10_000), st.lists(st.integers(1, 39), max_size=5))
def test_cells_may_be_added_in_any_blocks(seed, cuts):
    truth, predicted, unit_code = predictions(seed)
    whole, parts = total(truth, predicted, unit_code), RegressionTotals(n_features=9, n_units=4)
    order = np.random.default_rng(seed).permutation(40)
    for rows in np.split(order, sorted(cuts)):
        parts.add(truth[rows], predicted[rows], unit_code[rows])
    for name, value in whole.scores().items():
        np.testing.assert_allclose(parts.scores()[name], value, rtol=1e-12, atol=1e-12, err_msg=name)


@given(st.integers(0, 10_000), st.lists(st.integers(0, 3), min_size=4, max_size=4).filter(any))
def test_a_weight_of_two_is_a_donor_that_is_there_twice(seed, times):
    truth, predicted, unit_code = predictions(seed)
    rows = np.repeat(np.arange(40), np.array(times)[unit_code])
    if not rows.size:
        return
    drawn = total(truth, predicted, unit_code).scores(np.array([times, [1, 1, 1, 1]], dtype=float))
    again = total(truth[rows], predicted[rows], unit_code[rows])
    for name, value in again.scores().items():
        np.testing.assert_allclose(drawn[name][0], value[0], rtol=1e-10, atol=1e-12, err_msg=name)
    for name, value in total(truth, predicted, unit_code).scores().items():
        np.testing.assert_allclose(drawn[name][1], value[0], rtol=1e-12, atol=1e-12, err_msg=name)


def test_many_draws_are_scored_as_one_by_one(rng):
    truth, predicted, unit_code = predictions(n_features=300)
    totals, weight = total(truth, predicted, unit_code), rng.integers(3, size=(2_000, 4)).astype(float)
    weight[:, 0] += 1
    together = totals.scores(weight)
    for draw in (0, 777, 1_999):
        alone = totals.scores(weight[[draw]])
        assert {name: value[draw] for name, value in together.items()} == pytest.approx(
            {name: value[0] for name, value in alone.items()}
        )


@pytest.mark.parametrize("offset", [1e6, -1e8])
def test_a_large_offset_costs_no_digits(offset):
    truth, predicted, unit_code = predictions()
    # Multiples of 1/8 stay as they are when a large number is added.
    predicted = np.round(predicted * 8) / 8
    plain, shifted = total(truth, predicted, unit_code), total(truth + offset, predicted + offset, unit_code)
    for name, value in plain.scores().items():
        np.testing.assert_allclose(shifted.scores()[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


def plain_scores_of_mask(truth, predicted, mask):
    """Score the entries that count, cell by cell and feature by feature."""
    rows = [(x[m], y[m]) for x, y, m in zip(truth, predicted, mask, strict=True) if m.any()]
    columns = [(x[m], y[m]) for x, y, m in zip(truth.T, predicted.T, mask.T, strict=True) if m.any()]
    by_cell, by_feature = list(zip(*rows, strict=True)), list(zip(*columns, strict=True))
    of_columns = [explained_variance_score(x, y) for x, y in columns]
    squares = [np.var(x) * len(x) for x, _ in columns]
    return {
        "explained_variance_weighted": np.average(of_columns, weights=squares),
        "explained_variance_uniform": np.mean(of_columns),
        "mse": mean_squared_error(truth[mask], predicted[mask]),
        "pearson_per_cell": np.mean(correlations(*by_cell, scipy.stats.pearsonr)),
        "pearson_per_feature": np.mean(correlations(*by_feature, scipy.stats.pearsonr)),
        "pearson_flattened": scipy.stats.pearsonr(truth[mask], predicted[mask]).statistic,
        "spearman_per_cell": np.mean(correlations(*by_cell, scipy.stats.spearmanr)),
    }


@given(st.integers(0, 10_000), st.floats(0.3, 0.9))
@pytest.mark.filterwarnings("ignore:R\\^2 score is not well-defined")
def test_with_a_mask_the_entries_that_count_are_scored_alone(seed, share):
    truth, predicted, unit_code = predictions(seed)
    mask = np.random.default_rng(seed).random(truth.shape) < share
    mask[7] = False
    mask[:5, 2:5] = True
    expected = plain_scores_of_mask(truth, predicted, mask)
    hidden = np.where(mask, predicted, np.nan)
    totals = RegressionTotals(n_features=9, n_units=4)
    for rows in (slice(0, 11), slice(11, 40)):
        totals.add(truth[rows], hidden[rows], unit_code[rows], mask=mask[rows])
    assert {name: float(value[0]) for name, value in totals.scores().items()} == pytest.approx(expected)


def test_cells_with_and_without_a_mask_go_together():
    truth, predicted, unit_code = predictions()
    totals = total(truth[:20], predicted[:20], unit_code[:20])
    totals.add(truth[20:], predicted[20:], unit_code[20:], mask=np.ones((20, 9), dtype=bool))
    expected = total(truth, predicted, unit_code).scores()
    for name, value in totals.scores().items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-12, atol=1e-12, err_msg=name)


def test_a_feature_of_which_no_entry_counts_is_left_out():
    truth, predicted, unit_code = predictions()
    mask = np.ones_like(truth, dtype=bool)
    mask[:, 5] = False
    others = np.arange(9) != 5
    found = total(truth, predicted, unit_code, mask=mask).scores()
    for name, value in total(truth[:, others], predicted[:, others], unit_code).scores().items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-12, err_msg=name)


def test_sparse_truth_gives_what_dense_truth_gives():
    truth, predicted, unit_code = predictions()
    of_sparse = total(sp.csr_matrix(truth.astype(np.float32)), predicted.astype(np.float32), unit_code)
    of_dense = total(truth, predicted.astype(np.float32), unit_code)
    for name, value in of_dense.scores().items():
        np.testing.assert_array_equal(of_sparse.scores()[name], value, err_msg=name)


def test_the_arrays_given_are_not_changed():
    truth, predicted, unit_code = predictions()
    before = truth.copy(), predicted.copy()
    total(truth, predicted, unit_code)
    assert (truth == before[0]).all() and (predicted == before[1]).all()


def test_a_constant_prediction_counts_as_no_correlation():
    truth, _, unit_code = predictions()
    found = total(truth, np.full_like(truth, 0.1), unit_code).scores()
    assert [found[name][0] for name in REGRESSION_SCORES if "pearson" in name or "spearman" in name] == [0.0] * 4
    assert found["explained_variance_weighted"][0] == pytest.approx(0.0, abs=1e-12)


def test_a_constant_prediction_is_found_whatever_the_units_and_blocks(rng):
    truth, predicted = rng.normal(size=(500, 3)) * 1e3, np.tile(rng.normal(size=3) * 1e4, (500, 1))
    totals = RegressionTotals(n_features=3, n_units=5)
    for rows in np.split(np.arange(500), 50):
        totals.add(truth[rows], predicted[rows], rows % 5)
    assert (totals.scores(rng.integers(4, size=(100, 5)) + 1.0)["pearson_per_feature"] == 0).all()


def test_a_perfect_prediction_has_no_error(rng):
    truth = rng.normal(size=(30, 6)) + 1e4
    found = total(truth, truth, np.zeros(30, dtype=int)).scores()
    assert found["mse"][0] == 0
    assert [found[name][0] for name in REGRESSION_SCORES if name != "mse"] == pytest.approx([1.0] * 6)


def test_where_nothing_varies_there_is_no_correlation():
    found = total(np.ones((4, 3)), np.arange(12.0).reshape(4, 3), np.zeros(4, dtype=int)).scores()
    assert all(np.isnan(found[name][0]) for name in REGRESSION_SCORES if "pearson" in name or "spearman" in name)
    assert found["explained_variance_weighted"] == found["explained_variance_uniform"] == 0.0


def test_without_cells_every_score_is_missing():
    found = RegressionTotals(n_features=3, n_units=2).scores(np.ones((2, 2)))
    assert all(np.isnan(value).all() and value.shape == (2,) for value in found.values())


def test_ranks_can_be_left_out():
    truth, predicted, unit_code = predictions()
    totals = RegressionTotals(n_features=9, n_units=4, ranks=False)
    totals.add(truth, predicted, unit_code)
    assert np.isnan(totals.scores()["spearman_per_cell"]).all()
    assert totals.scores()["pearson_per_cell"] == total(truth, predicted, unit_code).scores()["pearson_per_cell"]


@pytest.mark.parametrize(("which", "what"), [(0, "true"), (1, "predicted")])
def test_values_that_are_no_numbers_are_refused(which, what):
    arrays = [*predictions()]
    arrays[which][2, 3] = np.nan
    arrays[which][5, 1] = np.inf
    with pytest.raises(InputError, match=rf"2 {what} values are NaN or infinite, .*smaller learning rate"):
        total(*arrays)


def test_arrays_that_do_not_fit_are_refused():
    truth, predicted, unit_code = predictions()
    with pytest.raises(ValueError, match=r"\(40, 8\) true and \(40, 9\) predicted values of 8 features"):
        total(truth[:, 1:], predicted, unit_code)
    with pytest.raises(ValueError, match="Codes of units must lie between 0 and 3"):
        total(truth, predicted, unit_code - 1)


@given(st.integers(0, 10_000))
def test_correlation_of_rows_does_not_change_with_scale_and_place(seed):
    truth, predicted, _ = predictions(seed)
    np.testing.assert_allclose(
        correlation_of_rows(3 * truth + 7, 0.5 * predicted - 2), correlation_of_rows(truth, predicted), atol=1e-12
    )


def test_memory_is_that_of_the_sums_and_a_few_cells(rng):
    truth = sp.csr_matrix(rng.random((300, 20_000), dtype=np.float32) > 0.95)
    predicted, unit_code = rng.random((300, 20_000), dtype=np.float32), rng.integers(4, size=300)
    tracemalloc.start()
    totals = RegressionTotals(n_features=20_000, n_units=4, ranks=False)
    totals.add(truth, predicted, unit_code)
    totals.scores(np.ones((20, 4)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    of_all_entries, of_sums = 300 * 20_000 * 8, 5 * 4 * 20_000 * 8
    assert peak < of_sums * 3 + 2**24 < of_all_entries
