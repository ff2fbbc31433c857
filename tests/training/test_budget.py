"""Training for a time: where it stops, what it keeps, and how it goes on with more."""

import logging
import re

import pandas as pd
import pytest
import torch

from selfcell.core.atomic import write_json
from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.downstream.cell_type import CellTypeSettings
from selfcell.training.checkpoints import Clock
from selfcell.training.pretrain import pretrain
from selfcell.training.run_folder import read_manifest
from selfcell.training.settings import PretrainSettings


def settings_for(**training):
    values = {
        "data": {"donor_key": "donor"},
        "network": {"hidden_sizes": [16], "n_latent": 8},
        "training": {"max_epochs": 3, "minibatch_size": 40, "device": "cpu"} | training,
    }
    return build(PretrainSettings, values)


def weights_of(model):
    return {**model.encoder.state_dict(), **model.head_state}


def same(first, second):
    return all(torch.equal(weights_of(second)[name], weight) for name, weight in weights_of(first).items())


@pytest.fixture
def a_second_a_step(monkeypatch):
    """Let each minibatch take a second by the clock of the budget, and all else no time."""
    on_train_batch_end = Clock.on_train_batch_end

    def count(self, *arguments):
        self.before += 1
        on_train_batch_end(self, *arguments)

    monkeypatch.setattr(Clock, "seconds", property(lambda self: self.before))
    monkeypatch.setattr(Clock, "on_train_batch_end", count)


@pytest.mark.usefixtures("a_second_a_step")
def test_a_budget_ends_a_run_within_an_epoch_with_its_loss_watched(adata, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="selfcell"):
        model = pretrain(adata, settings_for(budget="9s"), out=tmp_path / "run", show_progress=False)
    fit = model.manifest["fit"]
    assert (fit["epochs"], fit["steps"], fit["cells"], fit["stopped_by"]) == (1.5, 9, 351, "budget")
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert log["epoch"].tolist() == [1, 1.5] and log["validation_loss"].notna().all()
    assert fit["kept_epoch"] == 1.5 and fit["validation_loss"] == log["validation_loss"].iloc[-1]
    told = (
        r"The budget of 9s is spent: 1\.5 epochs, 351 cells, 9 steps\. Kept are the weights of epoch 1\.5: train loss "
    )
    assert any(re.match(told, message) for message in caplog.messages)
    assert read_manifest(tmp_path / "run")["status"] == "finished"


@pytest.mark.usefixtures("a_second_a_step")
@pytest.mark.parametrize("at", [6, 9, 13])
@pytest.mark.parametrize("training", [{}, {"patience": 0}, {"average_decay": 0.9}])
def test_a_run_with_more_budget_goes_on_as_if_it_had_never_stopped(adata, tmp_path, at, training):
    whole = pretrain(adata, settings_for(**training), out=tmp_path / "whole", show_progress=False)
    pretrain(adata, settings_for(budget=f"{at}s", **training), out=tmp_path / "run", show_progress=False)
    more = settings_for(budget="1000s", **training)
    resumed = pretrain(adata, more, out=tmp_path / "run", resume=True, show_progress=False)
    assert same(resumed, whole)
    clocks = ["seconds", "cells_per_second", "waiting"]
    logs = [pd.read_csv(tmp_path / name / "log.csv").drop(columns=clocks) for name in ("whole", "run")]
    pd.testing.assert_frame_equal(*logs, check_exact=True)
    assert {**resumed.manifest["fit"], "seconds": 0} == {**whole.manifest["fit"], "seconds": 0}


@pytest.mark.usefixtures("a_second_a_step")
def test_the_time_of_all_sessions_counts(adata, tmp_path):
    pretrain(adata, settings_for(budget="4s"), out=tmp_path / "run", show_progress=False)
    resumed = pretrain(adata, settings_for(budget="8s"), out=tmp_path / "run", resume=True, show_progress=False)
    assert resumed.manifest["fit"]["steps"] == 8
    whole = pretrain(adata, settings_for(budget="8s"), out=tmp_path / "whole", show_progress=False)
    assert same(resumed, whole)


@pytest.mark.usefixtures("a_second_a_step")
def test_a_step_of_several_minibatches_is_not_cut(adata, tmp_path):
    settings = settings_for(budget="3s", accumulate=2, checkpoint_minutes=0)
    model = pretrain(adata, settings, out=tmp_path / "run", show_progress=False)
    assert model.manifest["fit"]["steps"] == 2 and model.manifest["fit"]["epochs"] == pytest.approx(4 / 6, abs=1e-4)


@pytest.mark.usefixtures("a_second_a_step")
def test_a_budget_that_ends_with_an_epoch_leaves_whole_epochs(adata, tmp_path):
    model = pretrain(adata, settings_for(budget="12s"), out=tmp_path / "run", show_progress=False)
    assert model.manifest["fit"]["epochs"] == 2 and model.manifest["fit"]["stopped_by"] == "budget"
    assert (tmp_path / "run" / "log.csv").read_text().splitlines()[-1].startswith("2,")


@pytest.mark.usefixtures("a_second_a_step")
def test_the_best_epoch_is_kept_where_the_end_of_the_budget_is_worse(adata, tmp_path):
    """With a rate that destroys what the first epochs have learned."""
    training = {"learning_rate": 0.03, "learning_rate_decay": 1.0, "max_epochs": 9, "patience": 9, "minibatch_size": 40}
    kept = []
    for seconds in range(7, 40, 4):
        out = tmp_path / f"{seconds}"
        model = pretrain(adata, settings_for(budget=f"{seconds}s", **training), out=out, show_progress=False)
        log = pd.read_csv(out / "log.csv")
        best = log.loc[log["validation_loss"].idxmin()]
        assert model.manifest["fit"]["kept_epoch"] == best["epoch"]
        assert model.manifest["fit"]["validation_loss"] == best["validation_loss"]
        kept.append(model.manifest["fit"]["kept_epoch"] % 1 == 0)
    assert len(set(kept)) == 2


@pytest.mark.usefixtures("a_second_a_step")
def test_a_run_whose_budget_is_spent_is_finished_already(adata, tmp_path, caplog):
    first = pretrain(adata, settings_for(budget="9s"), out=tmp_path / "run", show_progress=False)
    with caplog.at_level(logging.INFO, logger="selfcell"):
        again = pretrain(adata, out=tmp_path / "run", resume=True, show_progress=False)
    assert same(first, again)
    assert "finished already; raise training.max_epochs or training.budget to train longer" in caplog.text


@pytest.mark.usefixtures("a_second_a_step")
def test_a_run_broken_off_after_its_budget_is_finished_without_training(adata, tmp_path):
    first = pretrain(adata, settings_for(budget="9s"), out=tmp_path / "run", show_progress=False)
    write_json(tmp_path / "run" / "manifest.json", {**first.manifest, "status": "training"})
    again = pretrain(adata, out=tmp_path / "run", resume=True, show_progress=False)
    assert same(first, again)
    assert {**again.manifest["fit"], "seconds": 0} == {**first.manifest["fit"], "seconds": 0}


def test_the_clock_is_that_on_the_wall(adata, tmp_path):
    settings = settings_for(budget="1s", max_epochs=100_000, patience=0)
    model = pretrain(adata, settings, out=tmp_path / "run", show_progress=False)
    assert model.manifest["fit"]["stopped_by"] == "budget"
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert log["waiting"].between(0, 1).all() and log["seconds"].sum() == pytest.approx(1, abs=0.5)


def test_epochs_may_end_before_the_budget(adata, tmp_path):
    model = pretrain(adata, settings_for(budget="1h", max_epochs=1), out=tmp_path / "run", show_progress=False)
    assert model.manifest["fit"]["stopped_by"] == "max_epochs" and model.manifest["fit"]["epochs"] == 1


def test_a_run_that_patience_ended_is_not_prolonged_and_says_so(adata, tmp_path, caplog):
    settings = {"learning_rate": 1e-12, "patience": 1, "max_epochs": 9}
    first = pretrain(adata, settings_for(**settings), out=tmp_path / "run", show_progress=False)
    assert first.manifest["fit"]["stopped_by"] == "patience"
    with caplog.at_level(logging.INFO, logger="selfcell"):
        again = pretrain(
            adata, settings_for(**settings | {"max_epochs": 20}), out=tmp_path / "run", resume=True, show_progress=False
        )
    assert "cannot be prolonged. Begin anew (--overwrite) with a larger training.patience" in caplog.text
    assert same(first, again) and read_manifest(tmp_path / "run")["fit"]["epochs"] == first.manifest["fit"]["epochs"]


def test_the_seconds_of_all_sessions_are_told(adata, tmp_path, a_second_a_step):
    pretrain(adata, settings_for(budget="3s"), out=tmp_path / "run", show_progress=False)
    pretrain(adata, settings_for(budget="5s"), out=tmp_path / "run", resume=True, show_progress=False)
    assert read_manifest(tmp_path / "run")["fit"]["seconds"] == pytest.approx(5, abs=0.5)


@pytest.mark.parametrize("size", [0, "big", 2.5, True])
def test_a_minibatch_size_is_a_whole_number_or_auto(size):
    with pytest.raises(InputError, match="minibatch_size: it takes a whole number from 1, or auto, but is"):
        settings_for(minibatch_size=size)
    with pytest.raises(InputError, match="auto is for pre-training alone"):
        build(CellTypeSettings, {"training": {"minibatch_size": "auto"}})
