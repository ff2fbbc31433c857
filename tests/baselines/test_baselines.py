import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from selfcell.baselines import BASELINES, ON_REQUEST, SEEDLESS, SHARED, base, scvi_models, usual_baselines
from selfcell.baselines.base import ComparedCells, Problem
from selfcell.baselines.expression_knn import most_similar
from selfcell.baselines.find import find_baseline
from selfcell.baselines.linear import GENE_INVERSE_PENALTY, VARIABLE_GENE_INVERSE_PENALTY
from selfcell.core.errors import InputError
from selfcell.data.counts import log_normalize
from selfcell.data.highly_variable import highly_variable_genes
from selfcell.data.source import encode
from selfcell.data.splits import Split
from selfcell.downstream.cell_type import CellTypeSettings, CellTypeTask
from selfcell.downstream.logistic_regression import fit_logistic_regression
from selfcell.network.encoder import EncoderSettings

TASK_BASELINES = BASELINES["cell_type"]


def problem_of(compared, label_code, *, n_neighbors=5, seed=0):
    settings = CellTypeSettings(n_neighbors=n_neighbors)
    task = CellTypeTask(settings, label_code=label_code, classes=("type 0", "type 1", "type 2"))
    split = Split(np.arange(100), np.array([], dtype=np.int64), np.arange(220, 300), unit="cell")
    return Problem(task, compared, split, seed)


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch):
    monkeypatch.setattr(scvi_models, "MAX_EPOCHS", 15)


@pytest.fixture
def problem(cells):
    compared = ComparedCells(cells, unlabelled=np.arange(220), network=EncoderSettings(hidden_sizes=(64,), n_latent=10))
    return problem_of(compared, encode(cells.obs["cell_type"].astype(str), ("type 0", "type 1", "type 2")))


@pytest.mark.parametrize("name", list(TASK_BASELINES))
def test_every_baseline_does_better_than_the_commonest_label(name, problem):
    predicted = TASK_BASELINES[name](problem)
    truth = problem.task.label_code[problem.split.test]
    assert predicted.shape == truth.shape
    assert (predicted == truth).mean() > np.bincount(truth).max() / len(truth)


@pytest.mark.parametrize("name", list(TASK_BASELINES))
def test_a_baseline_is_a_function_of_its_problem_and_blind_to_test_labels(name, problem, cells):
    first = TASK_BASELINES[name](problem)
    spoiled = problem.task.label_code.copy()
    spoiled[220:] = 0
    fresh = ComparedCells(cells, unlabelled=problem.compared.unlabelled, network=problem.compared.network)
    assert (TASK_BASELINES[name](problem_of(fresh, spoiled)) == first).all()


@pytest.mark.parametrize("name", sorted(SEEDLESS & set(TASK_BASELINES)))
def test_seedless_baselines_ignore_the_seed(name, problem):
    other = problem_of(problem.compared, problem.task.label_code, seed=9)
    assert (TASK_BASELINES[name](problem) == TASK_BASELINES[name](other)).all()


@pytest.mark.parametrize("name", list(TASK_BASELINES))
def test_where_one_type_is_labelled_it_is_the_answer(name, problem):
    labelled = np.flatnonzero(problem.task.label_code[:220] == 2)
    one = dataclasses.replace(problem, split=dataclasses.replace(problem.split, train=labelled))
    assert (TASK_BASELINES[name](one) == 2).all()


@pytest.mark.parametrize("name", list(TASK_BASELINES))
def test_a_type_with_one_labelled_cell_does_no_harm(name, problem):
    code = problem.task.label_code
    others = np.flatnonzero(code[:100] != 1)
    few = np.append(others, np.flatnonzero(code[:100] == 1)[0])
    predicted = TASK_BASELINES[name](dataclasses.replace(problem, split=dataclasses.replace(problem.split, train=few)))
    right = predicted == code[problem.split.test]
    assert right[code[problem.split.test] != 1].mean() > 0.6


def test_names_of_baselines_in_other_tables_are_known():
    everywhere = {name for registry in BASELINES.values() for name in registry}
    assert ON_REQUEST | SEEDLESS | set(SHARED) <= everywhere
    assert set(usual_baselines("cell_type")).isdisjoint(ON_REQUEST)


@pytest.mark.parametrize("name", sorted(set(SHARED) & set(TASK_BASELINES)))
def test_what_is_shared_is_what_the_baseline_takes(name, problem):
    TASK_BASELINES[name](problem)
    assert SHARED[name] in vars(problem.compared)


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


@pytest.mark.parametrize("name", sorted(TASK_BASELINES.keys() - {"untrained_encoder", "scvi", "scanvi"}))
def test_of_genes_that_are_not_measured_everywhere_nothing_is_learned(name, problem, cells):
    measured = np.arange(cells.counts.shape[1]) % 3 > 0
    lacking = sp.csr_matrix(cells.counts.toarray() * (measured | (np.arange(len(cells)) < 220)[:, None]))
    zeroed = sp.csr_matrix(cells.counts.toarray() * measured)
    about = {"unlabelled": np.arange(220), "network": problem.compared.network}
    one, other = (
        TASK_BASELINES[name](dataclasses.replace(problem, compared=ComparedCells(joined, **about)))
        for joined in (
            dataclasses.replace(cells, counts=lacking, measured=measured),
            dataclasses.replace(cells, counts=zeroed),
        )
    )
    assert (one == other).mean() > 0.99


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_cells_alike_in_expression_vote_with_the_weights_of_zero_shot(problem, weights):
    code, train = problem.task.label_code, problem.split.train
    settings = CellTypeSettings(n_neighbors=9, weights=weights)
    task = CellTypeTask(settings, label_code=code, classes=problem.task.classes)
    expression = problem.compared.expression
    nearest = most_similar(expression[train], expression[problem.split.test], n_neighbors=9)
    votes = np.zeros((80, 3))
    shares = 1 / nearest.distances if weights == "distance" else np.ones((80, 9))
    np.add.at(votes, (np.arange(80)[:, None], code[train][nearest.indices]), shares)
    clear = np.diff(np.sort(votes, axis=1)[:, 1:], axis=1).ravel() > 1e-6
    found = TASK_BASELINES["expression_knn"](dataclasses.replace(problem, task=task))
    assert clear.sum() > 50 and (found == votes.argmax(axis=1))[clear].all()


def test_pca_knn_agrees_with_scikit_learn(problem):
    space, split, code = problem.compared.principal_components, problem.split, problem.task.label_code
    knn = KNeighborsClassifier(1).fit(space[split.train], code[split.train])
    one = problem_of(problem.compared, code, n_neighbors=1)
    assert (TASK_BASELINES["pca_knn"](one) == knn.predict(space[split.test])).all()


def test_logistic_regression_agrees_with_scikit_learn_on_dense_data(problem):
    dense, split, code = problem.compared.expression.toarray(), problem.split, problem.task.label_code
    scaled = dense / np.where(dense[split.train].std(axis=0) > 0, dense[split.train].std(axis=0), 1)
    model = LogisticRegression(C=GENE_INVERSE_PENALTY, class_weight="balanced", max_iter=3000, tol=1e-6)
    expected = model.fit(scaled[split.train], code[split.train]).predict(scaled[split.test])
    assert (TASK_BASELINES["logistic_regression"](problem) == expected).mean() > 0.97


def test_regression_on_variable_genes_is_regression_on_those_genes(problem, cells, monkeypatch):
    monkeypatch.setattr(base, "highly_variable_genes", lambda _: np.array([0, 3, 7, 20, 33, 41]))
    few = dataclasses.replace(
        problem, compared=ComparedCells(cells, unlabelled=np.arange(220), network=problem.compared.network)
    )
    expression, split, code = few.compared.expression[:, [0, 3, 7, 20, 33, 41]], few.split, few.task.label_code
    expected = fit_logistic_regression(
        expression[split.train],
        code[split.train],
        expression[split.test],
        class_weights="balanced",
        inverse_penalty=VARIABLE_GENE_INVERSE_PENALTY,
    )
    assert (TASK_BASELINES["hvg_logistic_regression"](few) == expected).all()


def test_variable_genes_are_chosen_on_the_unlabelled_cells(cells):
    other_cells = dataclasses.replace(
        cells, counts=sp.csr_matrix(sp.vstack([cells.counts[:220], cells.counts[220:] * 9]))
    )
    first, other = (
        ComparedCells(some, unlabelled=np.arange(220), network=EncoderSettings()) for some in (cells, other_cells)
    )
    assert (first.highly_variable == other.highly_variable).all()
    assert (first.highly_variable == highly_variable_genes(cells.counts[:220])).all()


def test_an_embedding_that_the_cells_bring_along_is_a_baseline(problem, cells):
    space = problem.compared.principal_components
    brought = ComparedCells(
        dataclasses.replace(cells, obsm={"X_other": space}), unlabelled=np.arange(220), network=problem.compared.network
    )
    other = problem_of(brought, problem.task.label_code)
    assert (find_baseline("cell_type", "obsm:X_other")(other) == TASK_BASELINES["pca_knn"](problem)).all()
    with pytest.raises(InputError, match=r"There is no obsm\['X_othr'\]. Did you mean 'X_other'"):
        find_baseline("cell_type", "obsm:X_othr")(other)
    with pytest.raises(InputError, match="Name the key of obsm with the embedding"):
        find_baseline("cell_type", "obsm:")


def test_a_brought_embedding_must_be_finite(problem, cells):
    space = np.full((300, 2), np.nan)
    brought = ComparedCells(
        dataclasses.replace(cells, obsm={"X_bad": space}), unlabelled=np.arange(220), network=problem.compared.network
    )
    with pytest.raises(InputError, match="must hold one vector of finite numbers for each cell"):
        find_baseline("cell_type", "obsm:X_bad")(problem_of(brought, problem.task.label_code))
