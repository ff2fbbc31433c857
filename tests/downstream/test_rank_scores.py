import logging

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from selfcell.downstream import rank_scores as rank_scores_module
from selfcell.downstream.rank_scores import rank_scores


def predictions(seed=0, *, n_cells=40, n_features=6):
    """Counts with ties, and predictions of them; one feature constant in truth, one in prediction."""
    rng = np.random.default_rng(seed)
    truth = rng.poisson(1.5, size=(n_cells, n_features)).astype(float)
    predicted = np.round(0.6 * truth + rng.normal(size=truth.shape), 1)
    truth[:2, 1:] = [[0] * (n_features - 1), [1] * (n_features - 1)]
    truth[:, 0], predicted[:, 1] = 2.0, 0.5
    return truth, predicted, rng.integers(3, size=n_cells)


def spearman(truth, predicted):
    return scipy.stats.spearmanr(truth, predicted).statistic if np.ptp(predicted) else 0.0


def mean_over_features(truth, predicted, mask):
    columns = zip(truth.T, predicted.T, mask.T, strict=True)
    return np.mean([spearman(x[m], y[m]) for x, y, m in columns if m.any() and np.ptp(x[m])])


@given(st.integers(0, 10_000), st.booleans())
def test_both_agree_with_scipy(seed, masked):
    truth, predicted, unit_code = predictions(seed)
    mask = np.random.default_rng(seed).random(truth.shape) < 0.5 if masked else np.ones(truth.shape, dtype=bool)
    mask[:2] = True
    found = rank_scores(truth, np.where(mask, predicted, np.nan), unit_code, mask=mask if masked else None)
    assert found["spearman_per_feature"] == pytest.approx(mean_over_features(truth, predicted, mask))
    assert found["spearman_flattened"] == pytest.approx(spearman(truth[mask], predicted[mask]))


def test_sparse_truth_gives_what_dense_truth_gives():
    truth, predicted, unit_code = predictions()
    of_sparse, of_dense = (rank_scores(kind(truth), predicted, unit_code) for kind in (sp.csr_matrix, np.asarray))
    assert of_sparse == of_dense


def test_draws_of_units_correlate_the_ranks_among_all_cells():
    truth, predicted, unit_code = predictions()
    weight = np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 3.0]])
    found = rank_scores(truth, predicted, unit_code, weight=weight)
    rows = np.repeat(np.arange(40), weight[1].astype(int)[unit_code])
    ranks = [scipy.stats.rankdata(values, axis=0)[rows] for values in (truth, predicted)]
    drawn = [
        scipy.stats.pearsonr(x, y).statistic if np.ptp(y) else 0.0
        for x, y in zip(*(r.T for r in ranks), strict=True)
        if np.ptp(x)
    ]
    assert found["spearman_per_feature"] == pytest.approx(
        [mean_over_features(truth, predicted, truth == truth), np.mean(drawn)]
    )
    flat = [scipy.stats.rankdata(values).reshape(values.shape)[rows].ravel() for values in (truth, predicted)]
    assert found["spearman_flattened"][1] == pytest.approx(scipy.stats.pearsonr(*flat).statistic)


def test_too_many_entries_are_not_ranked_at_once(monkeypatch, caplog):
    monkeypatch.setattr(rank_scores_module, "MAX_FLATTENED", 239)
    truth, predicted, unit_code = predictions()
    with caplog.at_level(logging.INFO, logger="selfcell"):
        found = rank_scores(truth, predicted, unit_code)
    assert np.isnan(found["spearman_flattened"]).all() and np.isfinite(found["spearman_per_feature"]).all()
    assert "all 240 entries at once is left out: ranking more than 239" in caplog.text
