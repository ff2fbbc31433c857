"""The moving average of the weights: against the written-out one, and in the place of the weights."""

from unittest import mock

import lightning.pytorch as pl
import pytest
import torch

from selfcell.core.config import build
from selfcell.pretext import PRETEXT_TASKS
from selfcell.training.average import WeightAverage, averaged_weights, trained_weights
from selfcell.training.module import ObjectiveModule
from selfcell.training.pretrain import make_task, pretrain
from selfcell.training.safe_checkpoint import SafetensorsCheckpointIO
from selfcell.training.settings import PretrainSettings

SMALL = {
    "data": {"donor_key": "donor"},
    "network": {"hidden_sizes": [16], "n_latent": 8},
    "training": {"max_epochs": 2, "minibatch_size": 64, "device": "cpu", "average_decay": 0.9},
}


def settings_for(pretext="masked_autoencoder", **training):
    return build(PretrainSettings, {**SMALL, "pretext": {"name": pretext}, "training": SMALL["training"] | training})


@pytest.fixture
def module(cells):
    settings = settings_for()
    return ObjectiveModule(make_task(settings, cells.genes), settings.training)


def trainer_at(step):
    return mock.Mock(spec=pl.Trainer, global_step=step)


def follow(average, module, *, n_steps):
    """Move the weights at random, and give what they were after each step."""
    generator, seen = torch.Generator().manual_seed(0), []
    for step in range(average.n_steps + 1, average.n_steps + n_steps + 1):
        with torch.no_grad():
            for weight in module.parameters():
                weight.add_(torch.randn(weight.shape, generator=generator))
        seen.append({name: weight.detach().clone() for name, weight in module.named_parameters()})
        average.on_train_batch_end(trainer_at(step), module)
    return seen


def test_the_average_is_the_written_out_one(module):
    average = WeightAverage(0.9)
    average.on_train_start(trainer_at(0), module)
    expected = {name: weight.detach().double() for name, weight in module.named_parameters()}
    for place, weights in enumerate(follow(average, module, n_steps=100)):
        decay = min(0.9, (1 + place) / (10 + place))
        expected = {name: decay * mean + (1 - decay) * weights[name] for name, mean in expected.items()}
    assert average.average.keys() == expected.keys()
    for name, mean in expected.items():
        torch.testing.assert_close(average.average[name].double(), mean, rtol=1e-5, atol=1e-5)


def test_minibatches_without_a_step_leave_the_average_alone(module):
    average = WeightAverage(0.9)
    average.on_train_start(trainer_at(0), module)
    follow(average, module, n_steps=3)
    before = {name: mean.clone() for name, mean in average.average.items()}
    average.on_train_batch_end(trainer_at(3), module)
    assert all(torch.equal(mean, before[name]) for name, mean in average.average.items())


def test_weights_stay_laid_by_gene_in_the_average_and_through_a_checkpoint(module, tmp_path):
    average = WeightAverage(0.9)
    average.on_train_start(trainer_at(0), module)
    name = "objective.encoder.layers.0.weight"
    strides = dict(module.named_parameters())[name].stride()
    assert strides[0] == 1 and average.average[name].stride() == strides
    path = tmp_path / "c.safetensors"
    rest = {"state_dict": {}, "optimizer_states": [], "lr_schedulers": [], "loops": {}, "epoch": 0, "global_step": 0}
    whole = {**rest, "pytorch-lightning_version": "2.6.6", "callbacks": {"average": average.state_dict()}}
    SafetensorsCheckpointIO().save_checkpoint(whole, path)
    again = WeightAverage(0.9)
    again.load_state_dict(SafetensorsCheckpointIO().load_checkpoint(path)["callbacks"]["average"])
    again.on_train_start(trainer_at(0), module)
    assert again.average[name].stride() == strides
    assert torch.equal(again.average[name], average.average[name])


def test_the_loss_is_watched_on_the_average_and_training_goes_on_from_the_weights(module):
    average = WeightAverage(0.9)
    average.on_train_start(trainer_at(0), module)
    weights = follow(average, module, n_steps=5)[-1]
    means = {name: mean.clone() for name, mean in average.average.items()}
    average.on_validation_epoch_start(trainer_at(0), module)
    assert all(torch.equal(weight, means[name]) for name, weight in module.named_parameters())
    average.on_validation_epoch_end(trainer_at(0), module)
    assert all(torch.equal(weight, weights[name]) for name, weight in module.named_parameters())
    assert all(torch.equal(mean, means[name]) for name, mean in average.average.items())


@pytest.mark.parametrize("name", list(PRETEXT_TASKS))
def test_targets_queues_and_centers_are_not_averaged_a_second_time(name, cells):
    fields = PRETEXT_TASKS[name].Settings.model_fields
    settings = build(
        PretrainSettings, {**SMALL, "pretext": {"name": name, **({"queue_size": 64} if "queue_size" in fields else {})}}
    )
    task = make_task(settings, cells.genes)
    averaged = trained_weights(task)
    assert {it for it, weight in task.named_parameters() if weight.requires_grad} <= averaged.keys()
    others = averaged.keys() - dict(task.named_parameters()).keys()
    assert all(it.endswith(("running_mean", "running_var")) for it in others)
    assert not any("target_network" in it for it in averaged)


@pytest.mark.parametrize("patience", [0, 5])
def test_a_run_keeps_the_average(adata, tmp_path, patience):
    model = pretrain(adata, settings_for(patience=patience), out=tmp_path / "run", show_progress=False)
    name = "best" if patience else "last"
    checkpoint = SafetensorsCheckpointIO().load_checkpoint(tmp_path / "run" / "checkpoints" / f"{name}.safetensors")
    averaged, weights = averaged_weights(checkpoint), checkpoint["state_dict"]
    for name, weight in model.encoder.state_dict().items():
        assert torch.equal(weight, averaged[f"objective.encoder.{name}"])
        assert not torch.equal(weight, weights[f"objective.encoder.{name}"])


def test_averaging_changes_no_weight_that_is_trained(adata, tmp_path):
    states = []
    for decay in (0.0, 0.9):
        pretrain(adata, settings_for(average_decay=decay, patience=0), out=tmp_path / f"{decay}", show_progress=False)
        path = tmp_path / f"{decay}" / "checkpoints" / "last.safetensors"
        states.append(SafetensorsCheckpointIO().load_checkpoint(path)["state_dict"])
    assert all(torch.equal(states[1][name], weight) for name, weight in states[0].items())


@pytest.mark.parametrize("name", ["byol", "moco", "dino", "barlow_twins"])
def test_tasks_with_targets_and_batch_norm_train_with_an_average(adata, tmp_path, name):
    model = pretrain(adata, settings_for(name), out=tmp_path / "run", show_progress=False)
    assert all(weight.isfinite().all() for weight in model.encoder.state_dict().values())
