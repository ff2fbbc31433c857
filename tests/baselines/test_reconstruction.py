import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsRegressor

from selfcell.baselines import BASELINES, SEEDLESS
from selfcell.baselines.base import ComparedCells, Problem
from selfcell.data.counts import log_normalize
from selfcell.data.splits import Split
from selfcell.downstream.hiding import hide_entries
from selfcell.downstream.reconstruction import ReconstructionSettings, ReconstructionTask
from selfcell.downstream.resampling import TestUnits
from selfcell.network.encoder import EncoderSettings

TASK_BASELINES = BASELINES["reconstruction"]
SPLIT = Split(np.arange(100), np.array([], dtype=np.int64), np.arange(220, 300), unit="cell")
UNITS = TestUnits.of(np.repeat(["a", "b"], 40))


def problem_of(cells):
    network = EncoderSettings(hidden_sizes=(64,), n_latent=10)
    compared = ComparedCells(cells, unlabelled=np.arange(220), network=network)
    return Problem(ReconstructionTask(ReconstructionSettings()), compared, SPLIT, 0)


def scores_of(name, problem):
    return problem.task.score(TASK_BASELINES[name](problem), SPLIT, UNITS).values


@pytest.mark.parametrize("name", list(TASK_BASELINES))
def test_every_baseline_answers_for_whole_cells_and_for_hidden_counts(name, cells):
    scores = scores_of(name, problem_of(cells))
    assert np.isfinite(list(scores.values())).all() and "hidden_mse" in scores
    if name != "gene_means":
        means = scores_of("gene_means", problem_of(cells))
        assert scores["explained_variance_weighted"] > means["explained_variance_weighted"] + 0.1
    assert name in SEEDLESS


@pytest.mark.parametrize("name", list(TASK_BASELINES))
def test_test_cells_and_their_hidden_counts_change_no_expectation(name, cells):
    hidden = hide_entries(cells.counts[220:], SPLIT.test, fraction=0.3, seed=0)
    honest = TASK_BASELINES[name](problem_of(cells)).forecast(hidden.visible).expression
    spoiled = sp.csr_matrix(sp.vstack([cells.counts[:220], cells.counts[220:][::-1] * 2]))
    other = TASK_BASELINES[name](problem_of(dataclasses.replace(cells, counts=spoiled)))
    np.testing.assert_allclose(other.forecast(hidden.visible).expression, honest, atol=1e-4)


def test_gene_means_are_those_of_the_training_cells(cells):
    expected = log_normalize(cells.counts[:100]).toarray().mean(axis=0)
    found = TASK_BASELINES["gene_means"](problem_of(cells)).forecast(cells.counts[220:]).expression
    np.testing.assert_allclose(found, np.tile(expected, (80, 1)), rtol=1e-5)
    assert scores_of("gene_means", problem_of(cells))["explained_variance_weighted"] == pytest.approx(0, abs=1e-6)


def test_pca_agrees_with_a_dense_fit_on_all_cells_that_pretraining_saw(cells):
    dense = log_normalize(cells.counts).toarray().astype(np.float64)
    pca = PCA(10, svd_solver="full").fit(dense[:220])
    found = TASK_BASELINES["pca"](problem_of(cells)).forecast(cells.counts[220:]).expression
    np.testing.assert_allclose(found, pca.inverse_transform(pca.transform(dense[220:])), atol=2e-3)


def test_the_mean_of_neighbors_agrees_with_scikit_learn(cells):
    problem = problem_of(cells)
    space, expression = problem.compared.principal_components, problem.compared.expression.toarray()
    regressor = KNeighborsRegressor(15).fit(space[:100], expression[:100])
    found = TASK_BASELINES["knn_smoothing"](problem).forecast(cells.counts[220:]).expression
    np.testing.assert_allclose(found, regressor.predict(space[220:]), atol=1e-4)


def test_more_neighbors_than_training_cells_are_all_of_them(cells):
    problem = problem_of(cells)
    many = dataclasses.replace(problem, task=ReconstructionTask(ReconstructionSettings(n_neighbors=1_000)))
    found = TASK_BASELINES["knn_smoothing"](many).forecast(cells.counts[220:]).expression
    means = TASK_BASELINES["gene_means"](problem).forecast(cells.counts[220:]).expression
    np.testing.assert_allclose(found, means, rtol=1e-4)
