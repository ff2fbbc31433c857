import importlib.util

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsRegressor

from selfcell.baselines import BASELINES, ON_REQUEST, SEEDLESS, totalvi, usual_baselines
from selfcell.baselines.base import ComparedCells, Problem
from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.data.simulate import simulate_cells
from selfcell.data.source import open_cells
from selfcell.data.splits import Split
from selfcell.downstream.base import Columns
from selfcell.downstream.cross_modality import CrossModalitySettings, CrossModalityTask
from selfcell.downstream.resampling import TestUnits
from selfcell.downstream.ridge import fit_ridge
from selfcell.network.encoder import EncoderSettings

TASK_BASELINES = BASELINES["cross_modality"]
USUAL = usual_baselines("cross_modality")
SPLIT = Split(np.arange(200), np.array([], dtype=np.int64), np.arange(220, 300), unit="cell")


def make_problem(adata, *, seed=0, **settings):
    cells = open_cells(adata)
    settings = build(CrossModalitySettings, {"target": "protein_counts", **settings})
    task = CrossModalityTask.of(settings, cells, Columns(donor="donor"))
    network = EncoderSettings(hidden_sizes=(64,), n_latent=10)
    return Problem(task, ComparedCells(cells, unlabelled=np.arange(220), network=network), SPLIT, seed)


@pytest.fixture(scope="module")
def measured():
    return simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, n_proteins=12, n_peaks=40, seed=0)


@pytest.fixture
def problem(measured):
    return make_problem(measured)


@pytest.mark.parametrize("name", USUAL)
def test_every_baseline_but_means_tells_cells_apart(name, problem):
    predicted = TASK_BASELINES[name](problem)
    assert predicted.shape == (80, 12)
    scores = problem.task.score(predicted, SPLIT, TestUnits.of_cells(80, n_draws=5)).values
    assert scores["pearson_per_cell"] > 0.4
    assert scores["pearson_per_feature"] > 0.1 if name != "means" else abs(scores["pearson_per_feature"]) < 1e-6


@pytest.mark.parametrize("name", USUAL)
def test_a_baseline_is_blind_to_the_targets_of_test_cells(name, problem, measured):
    spoiled = measured.copy()
    spoiled.obsm["protein_counts"][220:] = 9.0
    honest, cheated = (TASK_BASELINES[name](one).dense() for one in (problem, make_problem(spoiled)))
    assert (honest == cheated).all()


@pytest.mark.parametrize("name", sorted(SEEDLESS & set(TASK_BASELINES)))
def test_seedless_baselines_ignore_the_seed(name, problem, measured):
    other = make_problem(measured, seed=9)
    assert (TASK_BASELINES[name](problem).dense() == TASK_BASELINES[name](other).dense()).all()


def test_gene_ridge_is_a_ridge_regression_on_log1p_expression(problem):
    expression, values = problem.compared.expression.toarray(), np.log1p(problem.task.targets.matrix)
    fitted = fit_ridge(expression[:200], values[:200], group_code=problem.task.donor_code[:200])
    np.testing.assert_allclose(
        TASK_BASELINES["gene_ridge"](problem).dense(), fitted.predict(expression[220:]), atol=1e-3
    )


def test_pca_knn_agrees_with_scikit_learn(problem):
    expression, values = problem.compared.expression.toarray(), np.log1p(problem.task.targets.matrix)
    space = PCA(10, svd_solver="full").fit(expression[:220].astype(np.float64)).transform(expression)
    reference = KNeighborsRegressor(30).fit(space[:200], values[:200])
    np.testing.assert_allclose(TASK_BASELINES["pca_knn"](problem).dense(), reference.predict(space[220:]), atol=0.02)


def test_means_are_those_of_the_training_cells(problem):
    expected = np.log1p(problem.task.targets.matrix[:200]).mean(axis=0)
    np.testing.assert_allclose(TASK_BASELINES["means"](problem).dense(), np.tile(expected, (80, 1)), rtol=1e-5)


def test_totalvi_is_given_no_protein_of_a_test_cell(problem, measured):
    spoiled = measured.copy()
    spoiled.obsm["protein_counts"][220:] = 9.0
    for one in (problem, make_problem(spoiled)):
        given = totalvi._two_batches(one)
        assert (given.obsm["proteins"].iloc[:200].to_numpy() == measured.obsm["protein_counts"][:200]).all()
        assert (given.obsm["proteins"].iloc[200:] == 0).to_numpy().all() and given.n_obs == 280
        assert list(given.obs["part"].value_counts()[["training", "test"]]) == [200, 80]


def test_totalvi_is_run_on_request_alone_and_says_what_it_needs(problem, measured, monkeypatch):
    assert "totalvi" in ON_REQUEST and "totalvi" not in USUAL
    with pytest.raises(InputError, match="totalVI is a model of protein counts"):
        TASK_BASELINES["totalvi"](make_problem(measured, target="atac_counts"))
    if importlib.util.find_spec("scvi") is None:
        with pytest.raises(InputError, match=r"needs scvi-tools: in a clone of selfcell, pip install '\.\[scvi\]'"):
            TASK_BASELINES["totalvi"](problem)


@pytest.mark.skipif(importlib.util.find_spec("scvi") is None, reason="needs scvi-tools, of the extra scvi")
def test_totalvi_follows_proteins(problem, monkeypatch):
    monkeypatch.setattr(totalvi, "MAX_EPOCHS", 40)
    predicted = TASK_BASELINES["totalvi"](problem)
    scores = problem.task.score(predicted, SPLIT, TestUnits.of_cells(80, n_draws=5)).values
    assert scores["pearson_per_feature"] > 0.1
