import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from selfcell.core.errors import InputError
from selfcell.downstream.rejection import area_under_risk_coverage, auroc_of_unseen, risk_coverage


@given(st.integers(1, 60), st.integers(0, 10_000))
def test_a_curve_is_what_thresholds_give(n_cells, seed):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.integers(0, 8, size=n_cells) / 7, rng.random(n_cells) < 0.7
    curve = risk_coverage(confidence, correct)
    assert len(curve) == len(np.unique(confidence)) and curve["coverage"].iloc[-1] == 1
    for threshold, coverage, risk in curve.itertuples(index=False):
        kept = confidence >= threshold
        assert (coverage, risk) == pytest.approx((kept.mean(), (~correct[kept]).mean()))


@given(st.integers(1, 7), st.integers(0, 10_000))
def test_the_area_is_the_mean_over_all_orders_of_equally_sure_cells(n_cells, seed):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.integers(0, 3, size=n_cells) / 2, rng.random(n_cells) < 0.5
    areas = []
    for order in itertools.permutations(range(n_cells)):
        if (np.diff(confidence[list(order)]) <= 0).all():
            errors = ~correct[list(order)]
            areas.append(np.mean(np.cumsum(errors) / np.arange(1, n_cells + 1)))
    assert area_under_risk_coverage(confidence, correct) == pytest.approx(np.mean(areas))


def test_a_confidence_that_says_nothing_has_the_share_of_errors_and_a_good_one_less():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=2_000)
    correct = rng.random(2_000) < confidence
    assert area_under_risk_coverage(np.full(2_000, 0.5), correct) == pytest.approx((~correct).mean())
    assert area_under_risk_coverage(confidence, correct) < 0.7 * (~correct).mean()
    assert area_under_risk_coverage(-confidence, correct) > (~correct).mean()


@given(st.integers(2, 60), st.integers(0, 10_000))
def test_the_score_of_unseen_cells_is_scikit_learns(n_cells, seed):
    rng = np.random.default_rng(seed)
    score, is_unseen = rng.integers(0, 9, size=n_cells).astype(float), rng.random(n_cells) < 0.4
    is_unseen[:2] = True, False
    assert auroc_of_unseen(score, is_unseen) == pytest.approx(roc_auc_score(is_unseen, score))


def test_cells_of_one_kind_alone_are_refused():
    with pytest.raises(InputError, match="but 0 are of known and 3 of unseen types"):
        auroc_of_unseen(np.arange(3.0), np.array([True] * 3))


def test_no_cells_are_refused():
    with pytest.raises(InputError, match="There are no cells to judge confidence on"):
        risk_coverage(np.zeros(0), np.zeros(0, dtype=bool))
