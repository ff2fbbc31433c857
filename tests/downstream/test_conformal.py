import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from selfcell.core.errors import InputError
from selfcell.downstream.conformal import coverage, fit_prediction_sets

SCORES = ["least_ambiguous", "adaptive"]


def drawn_cells(n_cells, *, seed, n_classes=6):
    """Cells of classes of unequal size, with probabilities that are far too sure."""
    rng = np.random.default_rng(seed)
    share = np.arange(1, n_classes + 1) / np.arange(1, n_classes + 1).sum()
    label_code = rng.choice(n_classes, size=n_cells, p=share)
    logits = rng.normal(size=(n_cells, n_classes))
    logits[np.arange(n_cells), label_code] += 0.5 + 0.4 * label_code
    return scipy.special.softmax(3 * logits, axis=1), label_code


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_sets_cover_exchangeable_cells_as_promised(score, by_class, alpha):
    covered = []
    for seed in range(40):
        probability, label_code = drawn_cells(1_400, seed=seed)
        rule = fit_prediction_sets(probability[:400], label_code[:400], alpha=alpha, score=score, by_class=by_class)
        covered.append(coverage(rule.predict(probability[400:]), label_code[400:]))
    assert np.mean(covered) >= 1 - alpha - 0.005
    # By class the promise costs up to one cell in those that were held out of each class.
    assert np.mean(covered) <= 1 - alpha + (0.04 if by_class else 0.01)


def test_by_class_every_class_is_covered_and_without_only_all_together():
    probability, label_code = drawn_cells(60_000, seed=1)
    known, other = slice(None, 30_000), slice(30_000, None)
    by_class = []
    for apart in (True, False):
        rule = fit_prediction_sets(probability[known], label_code[known], alpha=0.1, by_class=apart)
        sets = rule.predict(probability[other])
        by_class.append(
            [
                coverage(sets[label_code[other] == code], label_code[other][label_code[other] == code])
                for code in range(6)
            ]
        )
    assert np.allclose(by_class[0], 0.9, atol=0.025)
    assert min(by_class[1]) < 0.8


@given(st.integers(1, 40), st.integers(2, 6), st.sampled_from([0.05, 0.1, 0.3]), st.integers(0, 10_000))
def test_a_set_is_what_the_sorted_strangeness_says(n_cells, n_classes, alpha, seed):
    rng = np.random.default_rng(seed)
    probability, label_code = rng.dirichlet(np.ones(n_classes), size=n_cells), rng.integers(n_classes, size=n_cells)
    rule = fit_prediction_sets(probability, label_code, alpha=alpha)
    strangeness = sorted(1 - probability[np.arange(n_cells), label_code])
    rank = int(np.ceil(round((n_cells + 1) * (1 - alpha), 6)))
    expected = strangeness[rank - 1] if rank <= n_cells else np.inf
    assert (rule.threshold == expected).all()
    assert (rule.predict(probability) == (1 - probability <= expected)).all()


def test_the_adaptive_strangeness_is_the_probability_of_what_is_more_probable():
    probability = np.array([[0.125, 0.5, 0.25, 0.125]])
    thresholds = {}
    for code in range(4):
        thresholds[code] = fit_prediction_sets(
            np.repeat(probability, 20, axis=0), np.full(20, code), alpha=0.1, score="adaptive"
        ).threshold[0]
    assert thresholds == {0: 0.75, 1: 0.0, 2: 0.5, 3: 0.75}


@given(st.integers(1, 50), st.integers(0, 10_000))
def test_an_adaptive_set_always_has_the_most_probable_label(n_cells, seed):
    rng = np.random.default_rng(seed)
    probability, label_code = rng.dirichlet(np.ones(4), size=n_cells), rng.integers(4, size=n_cells)
    sets = fit_prediction_sets(probability, label_code, alpha=0.5, score="adaptive").predict(probability)
    assert sets[np.arange(n_cells), probability.argmax(axis=1)].all()


def test_a_cell_like_none_has_an_empty_set():
    rng = np.random.default_rng(0)
    sure = np.where(np.eye(3, dtype=bool)[rng.integers(3, size=300)], 0.98, 0.01)
    rule = fit_prediction_sets(sure, sure.argmax(axis=1), alpha=0.1)
    assert rule.predict(np.array([[0.4, 0.3, 0.3], [0.98, 0.01, 0.01]])).sum(axis=1).tolist() == [0, 1]


def test_a_class_with_too_few_held_out_cells_is_in_every_set():
    probability, label_code = drawn_cells(200, seed=0)
    of_two_classes = np.flatnonzero(label_code >= 4)
    rule = fit_prediction_sets(probability[of_two_classes], label_code[of_two_classes], alpha=0.1, by_class=True)
    assert np.isinf(rule.threshold[:4]).all() and np.isfinite(rule.threshold[4:]).all()
    assert rule.predict(probability)[:, :4].all()


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
