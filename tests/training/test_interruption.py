"""Training that was cut off within an epoch: the cells not yet seen, and then bit for bit the same weights."""

import os
import random
import re
import runpy
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from selfcell.training.module import ObjectiveModule
from selfcell.training.run_folder import read_manifest
from selfcell.training.safe_checkpoint import SafetensorsCheckpointIO

WORKER = Path(__file__).parent / "recorded_training.py"
recording = SimpleNamespace(**runpy.run_path(str(WORKER)))
EVERY_STEP = {"checkpoint_minutes": 1e-9, "minibatch_size": 40, "max_epochs": 3}
STEPS = 6
"""Of an epoch: 234 training cells."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same kind of cells in memory, in a file and in an atlas."""
    folder = tmp_path_factory.mktemp("sources")
    recording.write_sources(folder)
    return {"memory": folder / "cells.h5ad", "file": folder / "cells.h5ad", "atlas": folder / "atlas"}


def settings_for(source, **sections):
    sections["training"] = EVERY_STEP | sections.get("training", {})
    sections["network"] = {"dropout": 0.1} | sections.get("network", {})
    sections["data"] = ({"backed": True} if source == "file" else {}) | sections.get("data", {})
    pretext = sections.pop("pretext", {"name": "masked_autoencoder"})
    return {**recording.changed(**sections), "pretext": pretext}


def same(first, second):
    return first.parameters.keys() == second.parameters.keys() and all(
        torch.equal(first.parameters[name], second.parameters[name]) for name in first.parameters
    )


def log_of(run):
    return pd.read_csv(run / "log.csv").drop(columns=["seconds", "cells_per_second", "waiting"])


def check_goes_on(cells, settings, tmp_path, *, at):
    """Train with and without a break, and compare everything."""
    whole = recording.train(cells, settings, tmp_path / "whole")
    broken = recording.break_off(cells, settings, tmp_path / "run", at=at)
    rest = recording.train(cells, settings, tmp_path / "run", resume=True)
    assert broken.cells + rest.cells == whole.cells
    assert same(rest, whole)
    found, expected = log_of(tmp_path / "run"), log_of(tmp_path / "whole")
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    fits = [{**read_manifest(tmp_path / name)["fit"], "seconds": 0} for name in ("whole", "run")]
    assert fits[0] == fits[1]


@pytest.mark.parametrize("at", [1, 5, 6, 9, 13, 17])
def test_a_run_goes_on_where_it_was_broken_off_and_says_where(sources, tmp_path, at, caplog):
    caplog.set_level("INFO", "selfcell")
    check_goes_on(sources["memory"], settings_for("memory"), tmp_path, at=at)
    within = f" at minibatch {at % STEPS + 1}" if at % STEPS else ""
    assert f"Going on in epoch {at // STEPS + 1}{within}." in caplog.messages


def test_a_run_without_a_checkpoint_begins_anew_and_says_so(sources, tmp_path, caplog):
    caplog.set_level("INFO", "selfcell")
    settings = settings_for("memory", training={"checkpoint_minutes": 0})
    whole = recording.train(sources["memory"], settings, tmp_path / "whole")
    recording.break_off(sources["memory"], settings, tmp_path / "run", at=STEPS - 1)
    assert same(recording.train(sources["memory"], settings, tmp_path / "run", resume=True), whole)
    assert "Nothing was saved yet: training begins anew." in caplog.messages


def test_where_no_terminal_looks_on_lines_tell_how_far_the_epoch_is(sources, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", "selfcell")
    monkeypatch.setattr("selfcell.training.progress._SECONDS_BETWEEN_LINES", 0.0)
    settings = settings_for("memory", training={"max_epochs": 1, "minibatch_size": 100})
    recording.train(sources["memory"], settings, tmp_path / "run", show_progress=True)
    lines = [message for message in caplog.messages if "cells/s" in message]
    assert len(lines) == 3 and re.fullmatch(
        r"Pre-training: epoch 1, 100 of 234 cells, [\d,]+ cells/s, data \d+ %, \d+ s left in the epoch, "
        r"\d+ s in all epochs",
        lines[0],
    )


@pytest.mark.parametrize("source", ["file", "atlas"])
def test_a_stream_goes_on_where_it_was_broken_off(sources, tmp_path, source):
    check_goes_on(sources[source], settings_for(source, data={"loader_threads": 2}), tmp_path, at=9)


@pytest.mark.parametrize(
    "training",
    [
        {"schedule": "cosine", "warmup_epochs": 2},
        {"optimizer": "lars", "learning_rate": 0.2},
        {"learning_rate": 0.05, "learning_rate_decay": 1.0, "patience": 2, "max_epochs": 12},
        {"average_decay": 0.9, "patience": 2, "warmup_epochs": 0.5},
        {"accumulate": 2, "schedule": "cosine", "average_decay": 0.5},
    ],
)
def test_schedules_optimizers_averages_and_early_stopping_go_on(sources, tmp_path, training):
    check_goes_on(sources["memory"], settings_for("memory", training=training), tmp_path, at=8)


@pytest.mark.parametrize("name", ["byol", "moco", "dino", "nnclr", "barlow_twins"])
def test_targets_that_move_go_on(sources, tmp_path, name):
    settings = recording.of_task(name, 1)
    settings["training"] |= EVERY_STEP
    check_goes_on(sources["atlas"], settings, tmp_path, at=8)


def test_balanced_cells_go_on(sources, tmp_path):
    settings = settings_for("atlas", data={"balance_key": "cell_type"})
    check_goes_on(sources["atlas"], settings, tmp_path, at=10)


def test_a_run_broken_off_in_its_last_epoch_is_not_taken_for_whole(sources, tmp_path):
    settings = settings_for("memory", training={"patience": 5})
    recording.break_off(sources["memory"], settings, tmp_path / "run", at=15)
    checkpoint = SafetensorsCheckpointIO().load_checkpoint(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert checkpoint["global_step"] == 15 and checkpoint["epoch"] == 2
    (position,) = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert position == {"epoch": 2, "minibatch": 3, "group": 0, "offset": 120}
    rest = recording.train(sources["memory"], settings, tmp_path / "run", resume=True)
    assert len(rest.cells) == 234 - 120
    assert read_manifest(tmp_path / "run")["fit"]["steps"] == 18


def test_no_checkpoint_is_made_after_the_last_step_of_an_epoch_before_its_losses_are_known(sources, tmp_path):
    recording.break_off(sources["memory"], settings_for("memory"), tmp_path / "run", at=6)
    checkpoint = SafetensorsCheckpointIO().load_checkpoint(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == 1
    assert len(log_of(tmp_path / "run")) == 1


def test_checkpoints_within_epochs_can_be_left_out_and_come_back(sources, tmp_path):
    broken = recording.break_off(sources["memory"], settings_for("memory"), tmp_path / "run", at=9)
    without = settings_for("memory", training={"checkpoint_minutes": 0.0})
    rest = recording.train(sources["memory"], without, tmp_path / "run", resume=True)
    assert same(rest, recording.train(sources["memory"], without, tmp_path / "whole"))
    assert len(broken.cells) == 234 + 120
    recording.break_off(sources["memory"], without, tmp_path / "early", at=3)
    assert not list((tmp_path / "early" / "checkpoints").glob("*"))


KILLED = """
    import os, runpy, signal, sys
    worker = runpy.run_path({worker!r})
    from selfcell.training.module import ObjectiveModule
    step = ObjectiveModule.training_step
    def training_step(self, minibatch, batch_idx):
        if self.global_step == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, minibatch, batch_idx)
    ObjectiveModule.training_step = training_step
    worker["pretrain"]({cells!r}, {settings!r}, out={out!r}, show_progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("source", ["memory", "atlas"])
def test_a_run_killed_within_an_epoch_goes_on_with_the_cells_not_yet_seen(sources, tmp_path, source):
    settings, out = settings_for(source), tmp_path / "run"
    values = {"worker": str(WORKER), "cells": str(sources[source]), "settings": settings, "out": str(out)}
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED.format(**values))],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert killed.returncode == -9, killed.stderr
    whole = recording.train(sources[source], settings, tmp_path / "whole")
    rest = recording.train(sources[source], settings, out, resume=True)
    assert rest.cells == whole.cells[234 + 3 * 40 :]
    assert same(rest, whole)
    losses = [log_of(tmp_path / name)["validation_loss"].tolist() for name in ("whole", "run")]
    assert losses[0] == losses[1]


RUN = """
    import runpy
    worker = runpy.run_path({worker!r})
    worker["pretrain"]({cells!r}, {settings!r}, out={out!r}, resume={resume!r}, show_progress=False)
"""


def kill_at_a_random_moment(values, *, after):
    """Run a training, and kill it up to half a second after it has saved something new; tell whether it was cut."""
    checkpoint = Path(values["out"]) / "checkpoints" / "last.safetensors"
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RUN.format(**values))], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    while process.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before):
        time.sleep(0.005)
    time.sleep(after)
    process.kill()
    return process.wait(timeout=120) == -9


@pytest.mark.slow
def test_a_run_killed_at_random_moments_comes_to_the_same_weights_and_log(sources, tmp_path):
    """With all that a checkpoint has to hold: two minibatches to a step, schedule, average, early stopping."""
    training = {
        "max_epochs": 40,
        "accumulate": 2,
        "schedule": "cosine",
        "warmup_epochs": 0.5,
        "average_decay": 0.9,
        "patience": 30,
    }
    settings, out = settings_for("atlas", training=training), tmp_path / "run"
    values = {"worker": str(WORKER), "cells": str(sources["atlas"]), "settings": settings, "out": str(out)}
    cut = [kill_at_a_random_moment({**values, "resume": turn > 0}, after=random.random() / 2) for turn in range(3)]
    assert any(cut)
    recording.train(sources["atlas"], settings, tmp_path / "whole")
    recording.train(sources["atlas"], settings, out, resume=True)
    names = ("whole", "run")
    pd.testing.assert_frame_equal(*(log_of(tmp_path / name) for name in names), check_exact=True)
    for name in ("best", "last"):
        first, second = (
            SafetensorsCheckpointIO().load_checkpoint(tmp_path / run / "checkpoints" / f"{name}.safetensors")
            for run in names
        )
        assert all(torch.equal(first["state_dict"][it], weight) for it, weight in second["state_dict"].items())
        for part in ("optimizer_states", "lr_schedulers"):
            assert flat(first[part]) == flat(second[part])
        assert flat(first["callbacks"]["WeightAverage"]) == flat(second["callbacks"]["WeightAverage"])
    fits = [{**read_manifest(tmp_path / name)["fit"], "seconds": 0} for name in names]
    assert fits[0] == fits[1]


def flat(value):
    """Give nested state with tensors as numbers, to compare."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: flat(item) for key, item in value.items()}
    return [flat(item) for item in value] if isinstance(value, list | tuple) else value


def test_a_run_broken_off_between_the_minibatches_of_a_step_makes_the_step_again(sources, tmp_path, monkeypatch):
    settings, step = settings_for("memory", training={"accumulate": 3}), ObjectiveModule.training_step
    whole = recording.train(sources["memory"], settings, tmp_path / "whole")

    def training_step(self, minibatch, batch_idx):
        if (self.current_epoch, batch_idx) == (1, 5):
            raise KeyboardInterrupt
        return step(self, minibatch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(ObjectiveModule, "training_step", training_step)
        with pytest.raises(KeyboardInterrupt):
            recording.train(sources["memory"], settings, tmp_path / "run")
    rest = recording.train(sources["memory"], settings, tmp_path / "run", resume=True)
    assert rest.cells == whole.cells[234 + 3 * 40 :]
    assert same(rest, whole)
    pd.testing.assert_frame_equal(log_of(tmp_path / "run"), log_of(tmp_path / "whole"), check_exact=True)
