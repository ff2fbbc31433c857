import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score

from selfcell.downstream.metrics import classification_scores, confusion_matrix, macro_f1, per_class


@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 10_000))
def test_scores_agree_with_scikit_learn(n_classes, n_cells, seed):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(n_classes, size=n_cells), rng.integers(n_classes, size=n_cells)
    scores = classification_scores(confusion_matrix(truth, predicted, n_classes=n_classes))
    present = np.unique(truth)
    assert scores["macro_f1"] == pytest.approx(
        f1_score(truth, predicted, labels=present, average="macro", zero_division=0)
    )
    assert scores["macro_f1_union"] == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0))
    assert scores["micro_f1"] == pytest.approx(f1_score(truth, predicted, average="micro"))
    assert scores["balanced_accuracy"] == pytest.approx(recall_score(truth, predicted, labels=present, average="macro"))


def test_balanced_accuracy_is_scikit_learns():
    truth, predicted = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 2])
    scores = classification_scores(confusion_matrix(truth, predicted, n_classes=3))
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted))


def test_a_stray_prediction_lowers_the_union_variant_only_by_its_class():
    truth, predicted = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 2, 1, 1])
    scores = classification_scores(confusion_matrix(truth, predicted, n_classes=3))
    assert scores["macro_f1"] == pytest.approx((0.8 + 1.0) / 2)
    assert scores["macro_f1_union"] == pytest.approx((0.8 + 1.0 + 0.0) / 3)


def test_truth_and_prediction_have_their_roles():
    truth, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0])
    matrix = confusion_matrix(truth, predicted, n_classes=2)
    assert matrix.tolist() == [[3, 0], [1, 0]]
    assert classification_scores(matrix)["balanced_accuracy"] == 0.5
    assert classification_scores(matrix.T)["balanced_accuracy"] == 0.75


def test_a_stack_of_matrices_is_scored_matrix_by_matrix():
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 9, size=(4, 3, 3)).astype(float)
    assert macro_f1(stack) == pytest.approx([float(macro_f1(matrix)) for matrix in stack])
    assert per_class(stack).f1.shape == (4, 3)
