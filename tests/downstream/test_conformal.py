import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from selfcell.core.errors import InputError
from selfcell.downstream.conformal import fit_prediction_sets


def drawn_cells(n_cells, *, seed, n_classes=6):
    """Cells of classes of unequal size, with probabilities that are far too sure."""
    rng = np.random.default_rng(seed)
    share = np.arange(1, n_classes + 1) / np.arange(1, n_classes + 1).sum()
    label_code = rng.choice(n_classes, size=n_cells, p=share)
    logits = rng.normal(size=(n_cells, n_classes))
    logits[np.arange(n_cells), label_code] += 0.5 + 0.4 * label_code
    return scipy.special.softmax(3 * logits, axis=1), label_code


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_sets_cover_exchangeable_cells_as_promised(alpha):
    covered = []
    for seed in range(40):
        probability, label_code = drawn_cells(1_400, seed=seed)
        rule = fit_prediction_sets(probability[:400], label_code[:400], alpha=alpha)
        covered.append(rule.predict(probability[400:])[np.arange(1_000), label_code[400:]].mean())
    assert np.mean(covered) >= 1 - alpha - 0.005
    assert np.mean(covered) <= 1 - alpha + 0.01


@given(st.integers(1, 40), st.integers(2, 6), st.sampled_from([0.05, 0.1, 0.3]), st.integers(0, 10_000))
def test_a_set_is_what_the_sorted_strangeness_says(n_cells, n_classes, alpha, seed):
    rng = np.random.default_rng(seed)
    probability, label_code = rng.dirichlet(np.ones(n_classes), size=n_cells), rng.integers(n_classes, size=n_cells)
    rule = fit_prediction_sets(probability, label_code, alpha=alpha)
    strangeness = sorted(1 - probability[np.arange(n_cells), label_code])
    rank = int(np.ceil(round((n_cells + 1) * (1 - alpha), 6)))
    expected = strangeness[rank - 1] if rank <= n_cells else np.inf
    assert rule.threshold == expected
    assert (rule.predict(probability) == (1 - probability <= expected)).all()


def test_a_cell_like_none_has_an_empty_set():
    rng = np.random.default_rng(0)
    sure = np.where(np.eye(3, dtype=bool)[rng.integers(3, size=300)], 0.98, 0.01)
    rule = fit_prediction_sets(sure, sure.argmax(axis=1), alpha=0.1)
    assert rule.predict(np.array([[0.4, 0.3, 0.3], [0.98, 0.01, 0.01]])).sum(axis=1).tolist() == [0, 1]


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_a_share_out_of_range_is_refused(alpha):
    with pytest.raises(InputError, match="alpha must lie between 0 and 1, both excluded"):
        fit_prediction_sets(np.array([[0.5, 0.5]]), np.array([0]), alpha=alpha)


def test_labels_that_are_no_classes_and_rows_that_are_no_probabilities_are_refused():
    with pytest.raises(InputError, match="none of the 2 classes"):
        fit_prediction_sets(np.array([[0.5, 0.5]]), np.array([2]), alpha=0.1)
    with pytest.raises(InputError, match="must add up to one"):
        fit_prediction_sets(np.array([[0.5, 0.9]]), np.array([0]), alpha=0.1)
    with pytest.raises(InputError, match="There are no held-out cells"):
        fit_prediction_sets(np.zeros((0, 2)), np.zeros(0, dtype=int), alpha=0.1)
