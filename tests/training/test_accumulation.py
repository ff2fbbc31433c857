"""Several minibatches to a step: the step of one that has all their cells, and counted as one step."""

import numpy as np
import pandas as pd
import pytest
import torch

from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.data.order import WholeOrder
from selfcell.data.schedule import Schedule
from selfcell.pretext import PRETEXT_TASKS
from selfcell.training.accumulation import share_of_step, steps_of_an_epoch
from selfcell.training.module import ObjectiveModule
from selfcell.training.pretrain import pretrain
from selfcell.training.run_folder import read_manifest
from selfcell.training.safe_checkpoint import SafetensorsCheckpointIO
from selfcell.training.settings import PretrainSettings

N_TRAIN = 234


def settings_for(pretext=None, **training):
    values = {
        "data": {"donor_key": "donor"},
        "network": {"hidden_sizes": [16], "n_latent": 8, "dropout": 0.0},
        "pretext": {"name": "masked_autoencoder", "mask": "none"} if pretext is None else {"name": pretext},
        "training": {"max_epochs": 2, "device": "cpu", "patience": 0, "exact": True, "learning_rate_decay": 0.5}
        | training,
    }
    return build(PretrainSettings, values)


def weights_of(model):
    return {**model.encoder.state_dict(), **model.head_state}


@pytest.mark.parametrize(("size", "accumulate"), [(20, 4), (40, 3), (8, 10), (1, 80)])
def test_a_step_of_several_minibatches_is_that_of_one_with_all_their_cells(adata, tmp_path, size, accumulate):
    """Of 234 cells the last step of an epoch has fewer minibatches, and its last minibatch fewer cells."""
    optimizer = {"optimizer": "lars", "learning_rate": 0.5, "weight_decay": 0.0}
    parts = settings_for(minibatch_size=size, accumulate=accumulate, **optimizer)
    whole = settings_for(minibatch_size=size * accumulate, **optimizer)
    first = pretrain(adata, parts, out=tmp_path / "parts", show_progress=False)
    second = pretrain(adata, whole, out=tmp_path / "whole", show_progress=False)
    for name, weight in weights_of(second).items():
        torch.testing.assert_close(weights_of(first)[name], weight, rtol=1e-4, atol=1e-6)
    logs = [pd.read_csv(tmp_path / name / "log.csv") for name in ("parts", "whole")]
    assert logs[0]["step"].tolist() == logs[1]["step"].tolist()
    assert logs[0]["learning_rate"].tolist() == logs[1]["learning_rate"].tolist()
    assert logs[0]["train_loss"].iloc[0] == pytest.approx(logs[1]["train_loss"].iloc[0], rel=1e-4)


@pytest.mark.parametrize(
    ("n_cells", "size", "min_cells", "accumulate"), [(100, 10, 1, 3), (101, 10, 2, 3), (97, 10, 1, 20)]
)
def test_the_gradients_of_a_step_weigh_its_cells_alike(n_cells, size, min_cells, accumulate):
    schedule = Schedule(WholeOrder(np.arange(n_cells), shuffle_seed=None), size, min_cells=min_cells)
    cells = np.array([schedule.size_of(place) for place in range(len(schedule))], dtype=np.float64)
    shares = np.array([share_of_step(place, schedule, accumulate=accumulate) for place in range(len(schedule))])
    assert cells.sum() == n_cells
    for first in range(0, len(schedule), accumulate):
        step = slice(first, first + accumulate)
        # The trainer divides each mean loss by the minibatches of a whole step.
        np.testing.assert_allclose(shares[step] / accumulate, cells[step] / cells[step].sum())
    assert len(range(0, len(schedule), accumulate)) == steps_of_an_epoch(len(schedule), accumulate=accumulate)


def test_one_minibatch_to_a_step_weighs_one(adata):
    schedule = Schedule(WholeOrder(np.arange(101), shuffle_seed=None), 10)
    assert {share_of_step(place, schedule, accumulate=1) for place in range(11)} == {1.0}


def test_targets_follow_once_a_step_and_know_how_far_it_is(adata, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(PRETEXT_TASKS["byol"], "update_target", lambda _, *, progress: told.append(progress))
    pretrain(adata, settings_for("byol", minibatch_size=40, accumulate=4), out=tmp_path / "run", show_progress=False)
    assert told == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert read_manifest(tmp_path / "run")["fit"]["steps"] == 4


def test_each_minibatch_of_a_step_draws_masks_of_its_own(adata, tmp_path, monkeypatch):
    streams, make = [], ObjectiveModule._generator

    def remembered(self, stream, place):
        streams.append((stream, place))
        return make(self, stream, place)

    monkeypatch.setattr(ObjectiveModule, "_generator", remembered)
    pretrain(adata, settings_for(minibatch_size=40, accumulate=4), out=tmp_path / "run", show_progress=False)
    assert [place for stream, place in streams if stream == "masks"] == list(range(12))


def test_a_run_goes_on_with_smaller_minibatches_and_steps_of_the_same_cells(adata, tmp_path, monkeypatch):
    """As after a lack of memory: cut within an epoch, after its second step."""
    options = {"checkpoint_minutes": 1e-9, "optimizer": "lars", "learning_rate": 0.5}
    large = settings_for(minibatch_size=60, accumulate=1, **options)
    small = settings_for(minibatch_size=20, accumulate=3, **options)
    whole = pretrain(adata, large, out=tmp_path / "whole", show_progress=False)
    step = ObjectiveModule.training_step

    def training_step(self, minibatch, batch_idx):
        if self.global_step == 6:
            raise KeyError("broken")
        return step(self, minibatch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(ObjectiveModule, "training_step", training_step)
        with pytest.raises(KeyError):
            pretrain(adata, large, out=tmp_path / "run", show_progress=False)
    resumed = pretrain(adata, small, out=tmp_path / "run", resume=True, show_progress=False)
    assert resumed.manifest["fit"]["steps"] == whole.manifest["fit"]["steps"] == 8
    for name, weight in weights_of(whole).items():
        torch.testing.assert_close(weights_of(resumed)[name], weight, rtol=1e-4, atol=1e-6)
    checkpoint = SafetensorsCheckpointIO().load_progress(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"] == 4 + 12
    with pytest.raises(InputError, match=r"its setting training\.minibatch_size was 20, but now 30 is given"):
        pretrain(adata, settings_for(minibatch_size=30, accumulate=3, **options), out=tmp_path / "run", resume=True)
