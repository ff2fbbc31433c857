import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from selfcell.baselines import BASELINES, SEEDLESS
from selfcell.baselines.base import ComparedCells, LabelProblem
from selfcell.baselines.linear import GENE_INVERSE_PENALTY
from selfcell.data.counts import log_normalize
from selfcell.data.source import encode
from selfcell.network.encoder import EncoderSettings


@pytest.fixture
def problem(cells):
    compared = ComparedCells(cells, unlabelled=np.arange(220), network=EncoderSettings(hidden_sizes=(64,), n_latent=10))
    code = encode(cells.obs["cell_type"].astype(str), ("type 0", "type 1", "type 2"))
    return LabelProblem(
        compared, label_code=code, labelled=np.arange(100), test=np.arange(220, 300), n_neighbors=5, seed=0
    )


@pytest.mark.parametrize("name", list(BASELINES))
def test_every_baseline_does_better_than_the_commonest_label(name, problem):
    predicted = BASELINES[name](problem)
    truth = problem.label_code[problem.test]
    assert predicted.shape == truth.shape
    assert (predicted == truth).mean() > np.bincount(truth).max() / len(truth)


@pytest.mark.parametrize("name", list(BASELINES))
def test_a_baseline_is_a_function_of_its_problem_and_blind_to_test_labels(name, problem, cells):
    first = BASELINES[name](problem)
    problem.label_code[220:] = 0
    fresh = ComparedCells(cells, unlabelled=problem.compared.unlabelled, network=problem.compared.network)
    again = LabelProblem(fresh, problem.label_code, problem.labelled, problem.test, problem.n_neighbors, problem.seed)
    assert (BASELINES[name](again) == first).all()


@pytest.mark.parametrize("name", sorted(SEEDLESS))
def test_seedless_baselines_ignore_the_seed(name, problem):
    other = LabelProblem(
        problem.compared, problem.label_code, problem.labelled, problem.test, problem.n_neighbors, seed=9
    )
    assert (BASELINES[name](problem) == BASELINES[name](other)).all()


def test_principal_components_agree_with_a_dense_fit_on_the_training_cells(problem, cells):
    dense = log_normalize(cells.counts).toarray().astype(np.float64)
    expected = PCA(10, svd_solver="full").fit(dense[:220]).transform(dense)
    found = problem.compared.principal_components
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-3)


def test_test_cells_do_not_move_the_principal_components(problem, cells):
    before = problem.compared.principal_components[:220]
    changed = sp.csr_matrix(sp.vstack([cells.counts[:220], cells.counts[220:][::-1] * 2]))
    other_cells = dataclasses.replace(cells, counts=changed)
    other = ComparedCells(other_cells, unlabelled=np.arange(220), network=problem.compared.network)
    np.testing.assert_allclose(other.principal_components[:220], before, atol=1e-4)


def test_pca_knn_agrees_with_scikit_learn(problem):
    space = problem.compared.principal_components
    knn = KNeighborsClassifier(1).fit(space[problem.labelled], problem.label_code[problem.labelled])
    one = LabelProblem(problem.compared, problem.label_code, problem.labelled, problem.test, n_neighbors=1, seed=0)
    assert (BASELINES["pca_knn"](one) == knn.predict(space[problem.test])).all()


def test_logistic_regression_agrees_with_scikit_learn_on_dense_data(problem):
    dense = problem.compared.expression.toarray()
    scaled = dense / np.where(dense[problem.labelled].std(axis=0) > 0, dense[problem.labelled].std(axis=0), 1)
    model = LogisticRegression(C=GENE_INVERSE_PENALTY, class_weight="balanced", max_iter=3000, tol=1e-6)
    expected = model.fit(scaled[problem.labelled], problem.label_code[problem.labelled]).predict(scaled[problem.test])
    assert (BASELINES["logistic_regression"](problem) == expected).mean() > 0.97
