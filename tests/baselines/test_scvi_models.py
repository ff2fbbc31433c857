import os
import random
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selfcell.baselines import scvi_models
from selfcell.baselines.base import ComparedCells, Problem
from selfcell.baselines.scvi_models import answer_by_scvi, predict_by_scanvi
from selfcell.baselines.scvi_session import minibatch_size, n_epochs, scvi_session
from selfcell.core.errors import InputError
from selfcell.data.source import encode
from selfcell.data.splits import Split
from selfcell.downstream.cell_type import CellTypeSettings, CellTypeTask
from selfcell.network.encoder import EncoderSettings

TYPES = ("type 0", "type 1", "type 2")
BASELINES = (answer_by_scvi, predict_by_scanvi)


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch):
    monkeypatch.setattr(scvi_models, "MAX_EPOCHS", 10)


@pytest.fixture
def make_problem(cells):
    def make(*, batch_key=None, n_unlabelled=220, seed=0, kept_in=None):
        code = encode(cells.obs["cell_type"].astype(str), TYPES)
        task = CellTypeTask(CellTypeSettings(), label_code=code, classes=TYPES)
        network = EncoderSettings(hidden_sizes=(64,), n_latent=6)
        compared = ComparedCells(
            cells, unlabelled=np.arange(n_unlabelled), network=network, batch_key=batch_key, kept_in=kept_in
        )
        split = Split(np.arange(100), np.array([], dtype=np.int64), np.arange(220, 300), unit="cell")
        return Problem(task, compared, split, seed)

    return make


def global_state():
    variables = {name: value for name, value in os.environ.items() if name.startswith(("PL_", "XLA"))}
    return np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), variables  # noqa: NPY002


@pytest.mark.parametrize("baseline", BASELINES)
def test_nothing_is_said_or_left_behind(baseline, make_problem, capfd, caplog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = global_state()
    baseline(make_problem())
    assert global_state() == before
    assert capfd.readouterr() == ("", "") and not caplog.records
    assert not list(tmp_path.iterdir())


def test_a_session_seeds_all_and_gives_python_its_random_numbers_back():
    before = random.getstate()
    draws = []
    for seed in (0, 0, 1):
        with scvi_session(seed, "test"):
            draws.append((random.random(), np.random.random(), torch.rand(1).item()))  # noqa: NPY002
    assert random.getstate() == before
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("baseline", [answer_by_scvi, predict_by_scanvi])
def test_a_batch_that_training_did_not_see_is_embedded_all_the_same(baseline, make_problem, cells):
    cells.obs["late"] = np.where(np.arange(300) < 220, np.where(np.arange(300) % 2, "a", "b"), "c")
    problem = make_problem(batch_key="late")
    truth = problem.task.label_code[problem.split.test]
    assert (baseline(problem) == truth).mean() > 0.8


def test_the_batch_is_told_to_the_network(make_problem, cells):
    cells.obs["half"] = np.where(np.arange(300) % 2, "a", "b")
    spaces = []
    for key in (None, "half"):
        problem = make_problem(batch_key=key)
        problem.task.answer_in_space = lambda space, _: spaces.append(space)
        answer_by_scvi(problem)
    assert spaces[0].shape == spaces[1].shape == (300, 30)
    assert np.isfinite(spaces).all() and not np.allclose(spaces[0], spaces[1])


def test_another_seed_is_another_network(make_problem):
    spaces = []
    for seed in (0, 1):
        problem = make_problem(seed=seed)
        problem.task.answer_in_space = lambda space, _: spaces.append(space)
        answer_by_scvi(problem)
    assert not np.allclose(spaces[0], spaces[1])


@pytest.mark.parametrize("baseline", BASELINES)
def test_scvi_is_trained_once_a_seed_and_what_follows_does_not_depend_on_who_was_first(baseline, make_problem):
    alone = baseline(make_problem())
    shared = make_problem()
    for other in BASELINES:
        other(shared)
    assert shared.compared.seconds_saved > 0
    np.testing.assert_array_equal(baseline(shared), alone)


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_kept_network_answers_as_the_trained_one_and_is_charged_for(baseline, make_problem, tmp_path, monkeypatch):
    first, second = make_problem(kept_in=tmp_path), make_problem(kept_in=tmp_path)
    expected = baseline(first)
    np.testing.assert_array_equal(expected, baseline(make_problem()))
    assert first.compared.seconds_saved == 0

    def never(*_args):
        raise AssertionError("trained again")

    monkeypatch.setattr(scvi_models, "_train_scvi", never)
    monkeypatch.setattr(scvi_models, "_train_scanvi", never)
    np.testing.assert_array_equal(baseline(second), expected)
    assert second.compared.seconds_saved > 0.1


def test_a_network_is_not_taken_for_one_of_another_seed_batch_label_or_cells(make_problem, cells, tmp_path):
    cells.obs["half"] = np.where(np.arange(300) % 2, "a", "b")
    n_kept = [0]
    for kwargs in ({}, {"seed": 1}, {"batch_key": "half"}, {"n_unlabelled": 210}):
        predict_by_scanvi(make_problem(kept_in=tmp_path, **kwargs))
        n_kept.append(len(list(tmp_path.glob("*.safetensors"))))
    problem = make_problem(kept_in=tmp_path)
    problem.task.label_code[:50] = np.roll(problem.task.label_code[:50], 1)
    predict_by_scanvi(problem)
    assert n_kept == [0, 2, 4, 6, 8]
    assert len(list(tmp_path.glob("*.safetensors"))) == 9
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("n_unlabelled", [143, 144])
def test_sizes_that_would_leave_one_cell_to_a_minibatch_train(n_unlabelled, make_problem):
    assert predict_by_scanvi(make_problem(n_unlabelled=n_unlabelled)).shape == (80,)


@given(st.lists(st.integers(2, 100_000), min_size=1, max_size=3))
def test_no_minibatch_has_one_cell(n_cells):
    size = minibatch_size(*n_cells)
    assert 3 <= size <= 128
    assert all(n % size != 1 for n in n_cells)


@pytest.mark.parametrize("baseline", BASELINES)
def test_without_the_package_the_extra_is_named(baseline, make_problem, monkeypatch):
    monkeypatch.setitem(sys.modules, "scvi", None)
    with pytest.raises(
        InputError, match=r"scvi, scanvi and totalvi needs scvi: in a clone of selfcell, pip install '\.\[scvi\]'"
    ):
        baseline(make_problem())


@pytest.mark.parametrize(("n_cells", "expected"), [(500, 400), (20_000, 100), (18_000_000, 1)])
def test_epochs_shrink_with_the_cells_and_one_is_the_least(n_cells, expected):
    assert n_epochs(n_cells, at_most=400, cells_seen=2_000_000) == expected
