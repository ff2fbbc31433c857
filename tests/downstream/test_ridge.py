import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, KFold
from sklearn.preprocessing import StandardScaler

from selfcell.core.errors import InputError
from selfcell.downstream import ridge
from selfcell.downstream.ridge import PENALTIES, fit_ridge


def cells_of(n_cells, n_inputs, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.poisson(1.0, size=(n_cells, n_inputs)).astype(np.float32)
    inputs[:, 3] = 2.0  # a constant
    targets = inputs[:, :4] - inputs[:, 4:8] + rng.normal(size=(n_cells, 4)) + 5.0
    return inputs, targets.astype(np.float32)


@pytest.mark.parametrize("shape", [(200, 30), (50, 120)])
@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_it_is_scikit_learns_ridge_on_standardized_inputs(shape, penalty):
    inputs, targets = cells_of(*shape)
    new, _ = cells_of(20, shape[1], seed=1)
    scaler = StandardScaler().fit(inputs.astype(np.float64))
    reference = Ridge(alpha=penalty * len(inputs)).fit(scaler.transform(inputs), targets.astype(np.float64))
    expected = reference.predict(scaler.transform(new))
    for kind in (np.asarray, sp.csr_matrix):
        fitted = fit_ridge(kind(inputs), targets, penalties=(penalty,))
        np.testing.assert_allclose(fitted.predict(kind(new)), expected, atol=2e-4)


@pytest.mark.parametrize("shape", [(120, 20), (40, 70)])
@pytest.mark.parametrize("grouped", [True, False])
def test_the_penalty_is_the_one_that_predicts_held_out_parts_best(shape, grouped):
    inputs, targets = cells_of(*shape)
    groups = np.random.default_rng(2).integers(7, size=shape[0]) if grouped else None
    folds = GroupKFold(5) if grouped else KFold(5, shuffle=True, random_state=0)
    scaled = StandardScaler().fit_transform(inputs.astype(np.float64))
    errors = np.zeros(len(PENALTIES))
    for others, part in folds.split(scaled, groups=groups):
        for place, penalty in enumerate(PENALTIES):
            reference = Ridge(alpha=penalty * len(others)).fit(scaled[others], targets[others].astype(np.float64))
            errors[place] += ((reference.predict(scaled[part]) - targets[part]) ** 2).sum()
    assert fit_ridge(inputs, targets, group_code=groups).penalty == PENALTIES[int(np.argmin(errors))]


def test_large_systems_are_solved_in_their_first_directions(monkeypatch):
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(150, 5))
    inputs = (factors @ rng.normal(size=(5, 90))).astype(np.float32)
    targets = (factors @ rng.normal(size=(5, 3))).astype(np.float32)
    exact = fit_ridge(inputs, targets, penalties=(0.01,)).predict(inputs)
    monkeypatch.setattr(ridge, "LARGEST_SYSTEM", 50)
    monkeypatch.setattr(ridge, "N_DIRECTIONS", 5)
    found = fit_ridge(inputs, targets, penalties=(0.01,)).predict(inputs)
    np.testing.assert_allclose(found, exact, atol=2e-3)


def test_cells_of_one_donor_are_held_out_cell_by_cell():
    inputs, targets = cells_of(30, 12)
    one_donor = fit_ridge(inputs, targets, group_code=np.zeros(30, dtype=np.int64))
    assert one_donor.penalty == fit_ridge(inputs, targets).penalty


def test_constant_inputs_and_targets_give_the_mean():
    targets = np.tile(np.array([1.0, 2.0], dtype=np.float32), (6, 1))
    fitted = fit_ridge(np.ones((6, 3), dtype=np.float32), targets)
    np.testing.assert_allclose(fitted.predict(np.full((2, 3), 9.0, dtype=np.float32)), targets[:2])


def test_a_single_cell_is_too_few():
    with pytest.raises(InputError, match="needs at least 2 cells to learn from, but there are 1"):
        fit_ridge(np.ones((1, 3), dtype=np.float32), np.ones((1, 2), dtype=np.float32))
