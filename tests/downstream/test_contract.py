"""What every downstream task promises, whatever it asks."""

import numpy as np
import pytest
import torch

from selfcell.core.config import build
from selfcell.data.simulate import simulate_cells
from selfcell.data.source import open_cells
from selfcell.data.splits import Split
from selfcell.downstream import DOWNSTREAM_TASKS, REGIMES
from selfcell.downstream.base import Columns, EncodedCells
from selfcell.downstream.resampling import TestUnits, draw_units
from selfcell.downstream.supervised import Start, TrainingPlace
from selfcell.training.fit import FitOutcome

TRAINING = {"max_epochs": 2, "minibatch_size": 64, "device": "cpu"}
SETTINGS = {"cell_type": {}, "reconstruction": {}, "cross_modality": {"target": "protein_counts"}, "integration": {}}
"""What a task must be told besides."""
SPLIT = Split(np.arange(200), np.array([], dtype=np.int64), np.arange(200, 300), unit="cell")


def make_task(name, adata):
    task_class = DOWNSTREAM_TASKS[name]
    settings = build(task_class.Settings, {**SETTINGS[name], "training": TRAINING})
    return task_class.of(settings, open_cells(adata), Columns("cell_type", "donor", "batch"))


def spoiled(adata):
    """The same cells with the truth of the test cells shuffled."""
    other = adata.copy()
    order = np.concatenate([np.arange(200), 200 + np.random.default_rng(0).permutation(100)])
    other.obs["cell_type"] = adata.obs["cell_type"].to_numpy()[order]
    for key in adata.obsm:
        other.obsm[key] = adata.obsm[key][order]
    return other


@pytest.fixture
def adata():
    return simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, n_proteins=12, seed=0)


@pytest.fixture(params=list(DOWNSTREAM_TASKS))
def name(request):
    return request.param


@pytest.fixture
def encoded(adata, model):
    return EncodedCells.of(model, open_cells(adata))


@pytest.fixture
def units():
    return TestUnits.of(np.repeat(["a", "b", "c", "d"], 25))


def scores_of(task, encoded, regime, units, seed=0):
    return task.score(task.predict(encoded, SPLIT, regime=regime, seed=seed), SPLIT, units)


@pytest.mark.parametrize("regime", list(REGIMES))
def test_the_headline_and_all_other_scores_are_numbers(name, regime, adata, encoded, units):
    task = make_task(name, adata)
    scores = scores_of(task, encoded, regime, units)
    assert task.headline in scores.values and np.isfinite(list(scores.values.values())).all()
    for metric, drawn in scores.resampled.items():
        assert metric in scores.values and drawn.shape == (len(units.draws),)


@pytest.mark.parametrize("regime", list(REGIMES))
def test_the_same_seed_gives_the_same_scores(name, regime, adata, encoded, units):
    task = make_task(name, adata)
    assert scores_of(task, encoded, regime, units).values == scores_of(task, encoded, regime, units).values


@pytest.mark.parametrize("regime", list(REGIMES))
def test_a_draw_of_every_unit_once_is_the_score_itself(name, regime, adata, encoded, units):
    task = make_task(name, adata)
    everyone = TestUnits(units.code, units.names, np.ones((1, 4)))
    scores = scores_of(task, encoded, regime, everyone)
    for metric, drawn in scores.resampled.items():
        assert drawn[0] == pytest.approx(scores.values[metric], rel=1e-5)


@pytest.mark.parametrize("regime", list(REGIMES))
def test_training_does_not_look_at_the_truth_of_test_cells(name, regime, adata, encoded, units):
    task, other = make_task(name, adata), make_task(name, spoiled(adata))
    honest = task.predict(encoded, SPLIT, regime=regime, seed=0)
    cheated = other.predict(encoded, SPLIT, regime=regime, seed=0)
    assert task.score(honest, SPLIT, units).values == task.score(cheated, SPLIT, units).values


def test_what_is_said_to_need_no_seed_needs_none(name, adata, encoded, units):
    task = make_task(name, adata)
    for regime in task.seedless:
        first, second = (scores_of(task, encoded, regime, units, seed=seed) for seed in (0, 1))
        assert first.values == second.values


def test_fine_tuning_and_training_from_scratch_differ_in_the_start_alone(name, adata, encoded, monkeypatch, tmp_path):
    begun = []

    def remember(objective, settings, **rest):
        begun.append(({key: value.clone() for key, value in objective.state_dict().items()}, settings))
        return FitOutcome(epochs=1, steps=1, kept_epoch=1, validation_loss=None, seconds=0.0)

    monkeypatch.setattr("selfcell.downstream.supervised.fit", remember)
    task = make_task(name, adata)
    for from_scratch in (False, True):
        task.train(Start(encoded.model, from_scratch, 3), encoded.cells, SPLIT, place=TrainingPlace(tmp_path))
    (tuned, settings), (scratch, same_settings) = begun
    assert settings == same_settings and tuned.keys() == scratch.keys()
    pretrained = encoded.encoder.state_dict()
    assert all(torch.equal(tuned[f"encoder.{key}"], weight) for key, weight in pretrained.items())
    assert not torch.equal(tuned["encoder.layers.0.weight"], scratch["encoder.layers.0.weight"])


def test_a_frozen_encoder_is_left_as_it_is(name, adata, encoded, tmp_path):
    before = {key: value.clone() for key, value in encoded.encoder.state_dict().items()}
    task = make_task(name, adata)
    task.trained(encoded, SPLIT, regime="fine_tuned", seed=0)
    assert all(torch.equal(before[key], weight) for key, weight in encoded.encoder.state_dict().items())


def test_draws_of_units_are_the_same_every_time_and_as_many_as_there_are():
    draws = draw_units(7, n_draws=50)
    assert (draws == draw_units(7, n_draws=50)).all() and (draws.sum(axis=1) == 7).all()
