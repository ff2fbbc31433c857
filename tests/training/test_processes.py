"""One training in several processes: the numbers of one, every cell once, and no process left waiting."""

import contextlib
import json
import logging
import os
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from selfcell.core.errors import InputError
from selfcell.data.loader import cell_loader
from selfcell.data.splits import split_from_json
from selfcell.downstream.finetune import finetune
from selfcell.pretext import PRETEXT_TASKS
from selfcell.training.pretrain import pretrain
from selfcell.training.processes import (
    SharedLoaders,
    check_processes,
    is_first_process,
    mute_others,
    refuse_several,
    slurm_plugins,
    wait_for_all,
)
from selfcell.training.run_folder import load, read_manifest
from selfcell.training.settings import TrainingSettings

WORKER = Path(__file__).parent / "recorded_training.py"
recording = SimpleNamespace(**runpy.run_path(str(WORKER)))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
BREAK_AT = 7


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same trainings by two processes that torchrun starts, and by one."""
    folder = tmp_path_factory.mktemp("processes")
    adata = recording.write_sources(folder)
    one = {
        "plain": recording.train(adata, recording.SETTINGS, folder / "one" / "plain"),
        "atlas": recording.train(folder / "atlas", recording.SETTINGS, folder / "one" / "atlas"),
        "parts": recording.train(
            folder / "atlas", recording.changed(training=recording.IN_PARTS), folder / "one" / "parts"
        ),
    }
    every_step = recording.changed(training={"checkpoint_minutes": 1e-9})
    broken = recording.break_off(folder / "cells.h5ad", every_step, folder / "broken", at=BREAK_AT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(WORKER), str(folder)], capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )
    assert done.returncode == 0, done.stderr
    weights = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    cells = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    return SimpleNamespace(folder=folder, one=one, broken=broken, weights=weights, cells=cells, adata=adata)


def losses(run):
    return pd.read_csv(run / "log.csv").filter(regex="_loss|^epoch|^step|learning_rate")


def seen(runs, name):
    """Count how often each cell was seen in each epoch, by both processes."""
    return Counter(tuple(cell) for rank in (0, 1) for cell in runs.cells[rank][name])


@pytest.mark.slow
@pytest.mark.parametrize("source", ["plain", "atlas", "parts"])
def test_two_processes_come_to_the_losses_and_weights_of_one(runs, source):
    pd.testing.assert_frame_equal(
        losses(runs.folder / "two" / source), losses(runs.folder / "one" / source), rtol=1e-5, atol=1e-6
    )
    for name, expected in runs.one[source].parameters.items():
        for rank in (0, 1):
            torch.testing.assert_close(runs.weights[rank][source][name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "atlas", "resumed", *recording.TASKS])
def test_both_processes_hold_the_same_weights(runs, name):
    first, second = (weights[name] for weights in runs.weights)
    assert first.keys() == second.keys() and first
    assert all(torch.equal(first[key], second[key]) for key in first)
    run = runs.folder / "broken" if name == "resumed" else runs.folder / "two" / name
    assert read_manifest(run)["status"] == "finished"
    kept = load(run).encoder.state_dict()
    assert all(torch.equal(kept[key], first[f"encoder.{key}"]) for key in kept)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["plain", "atlas"])
def test_every_training_cell_is_seen_once_an_epoch_by_one_process_or_the_other(runs, source):
    assert seen(runs, source) == Counter(runs.one[source].cells)
    n_train = load(runs.folder / "two" / source).manifest["data"]["n_train"]
    assert n_train % 50, "the last minibatch is to be an uneven one"
    assert len(seen(runs, source)) == 3 * n_train and set(seen(runs, source).values()) == {1}
    shares = [len(cells[source]) for cells in runs.cells]
    assert abs(shares[0] - shares[1]) <= 3 * 5


@pytest.mark.slow
@pytest.mark.parametrize("name", recording.TASKS)
def test_tasks_that_compare_cells_get_equal_shares(runs, name):
    shares = [len(cells[name]) for cells in runs.cells]
    n_train = load(runs.folder / "two" / name).manifest["data"]["n_train"]
    assert shares[0] == shares[1] or not PRETEXT_TASKS[name].compares_cells
    assert n_train - 1 <= sum(shares) <= n_train
    assert set(seen(runs, name).values()) == {1}
    assert np.isfinite(losses(runs.folder / "two" / name)).all(axis=None)


@pytest.mark.slow
def test_a_run_goes_on_in_another_number_of_processes_with_the_cells_not_yet_seen(runs):
    assert Counter(runs.broken.cells) + seen(runs, "resumed") == Counter(runs.one["plain"].cells)
    for name, expected in runs.one["plain"].parameters.items():
        torch.testing.assert_close(runs.weights[0]["resumed"][name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_program_starts_the_processes_itself_and_only_the_first_one_speaks(runs, tmp_path):
    out = tmp_path / "run"
    options = {"training.max_epochs": 3, "training.minibatch_size": 50, "training.device": "cpu"}
    options |= {"training.patience": 0, "training.gradient_clip": 0.5, "pretext.mask": "none"}
    options |= {"training.precision": "float32"}
    options |= {"network.hidden_sizes": [32], "network.n_latent": 8, "network.dropout": 0.0}
    settings = [text for name, value in options.items() for text in ("--set", f"{name}={value}")]
    cells = runs.folder / "cells.h5ad"
    command = [sys.executable, "-m", "selfcell", "pretrain", cells, "--out", out, "--donor", "donor", "--devices", "2"]
    done = subprocess.run([*map(str, command), *settings], capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Done: 3 epochs") == 1 and done.stdout.count("Next: ") == 1
    for said in ("Training masked_autoencoder (mask=none) on", "epoch 2, validation loss"):
        assert done.stderr.count(said) == 1
    assert done.stderr.count("Warning: ") == done.stderr.count("Warning: The embedding has collapsed") <= 1
    pd.testing.assert_frame_equal(losses(out), losses(runs.folder / "one" / "plain"), rtol=1e-5, atol=1e-6)
    assert len(list((out / "tensorboard").glob("events*"))) == 1


def test_each_process_gets_its_share_of_training_and_validation_cells(cells):
    counts, codes = cells.counts, {"position": np.arange(len(cells))}
    train = cell_loader(counts, minibatch_size=64, codes=codes, shuffle_seed=3)
    validation = cell_loader(counts, minibatch_size=32, codes=codes)
    for part, size in (("train", 64), ("val", 32)):
        shares = []
        for rank in range(3):
            loaders = SharedLoaders(train, validation)
            loaders.trainer = SimpleNamespace(world_size=3, global_rank=rank)
            shares.append([it.codes["position"] for it in getattr(loaders, f"{part}_dataloader")()])
        assert {len(share) for share in shares} == {-(-300 // size)}
        positions = torch.cat([it for share in shares for it in share])
        assert sorted(positions.tolist()) == list(range(300))


def clear(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in {
            "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
        }:  # fmt: skip
            monkeypatch.delenv(name)


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}
SLURM = {"SLURM_JOB_NAME": "job", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.mark.filterwarnings("ignore:The `srun` command is available")
@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"NODE_RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"NODE_RANK": "0", "LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False),
        ({"GROUP_RANK": "1"}, False),
        (TORCHRUN, True),
        ({**TORCHRUN, "RANK": "2", "GROUP_RANK": "1"}, False),
        (SLURM, True),
        ({**SLURM, "SLURM_PROCID": "2"}, False),
        ({**SLURM, **TORCHRUN, "RANK": "1", "LOCAL_RANK": "1"}, False),
        ({**SLURM, "SLURM_JOB_NAME": "interactive", "SLURM_PROCID": "2"}, True),
    ],
)
def test_the_first_process_is_known_from_the_environment(monkeypatch, variables, first):
    clear(monkeypatch)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is first


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "message"),
    [
        ({}, 8, 4, None),
        ({**TORCHRUN, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, 2, 1, None),
        ({**TORCHRUN, "WORLD_SIZE": "2"}, 1, 1, r"torchrun has started 2 processes, but .* is 1 x 1: .*--devices"),
        ({**TORCHRUN, "WORLD_SIZE": "1"}, 2, 1, "torchrun has started 1 process, but .* is 2 x 1"),
        ({**TORCHRUN, "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, 2, 2, None),
        ({**TORCHRUN, "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}, 2, 2, "4 processes on this machine, but .* is 2"),
        (SLURM, 2, 2, None),
        (SLURM, 1, 1, "SLURM has started 4 processes, but .* is 1 x 1"),
        ({**SLURM, "SLURM_NTASKS_PER_NODE": "4"}, 2, 2, "SLURM has started 4 processes on this machine"),
        ({**SLURM, "SLURM_JOB_NAME": "bash"}, 1, 1, None),
        ({**SLURM, **TORCHRUN, "SLURM_NTASKS": "1", "WORLD_SIZE": "2"}, 2, 1, None),
    ],
)
def test_another_number_of_processes_than_was_set_is_refused(monkeypatch, variables, devices, nodes, message):
    clear(monkeypatch)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = TrainingSettings(devices=devices, nodes=nodes)
    refused = contextlib.nullcontext() if message is None else pytest.raises(InputError, match=message)
    with refused:
        check_processes(settings)


@pytest.mark.filterwarnings("ignore:The `srun` command is available")
def test_under_slurm_a_training_begins_from_its_own_run_alone(adata, tmp_path, monkeypatch):
    clear(monkeypatch)
    for name, value in {**SLURM, "SLURM_NTASKS": "1", "SLURM_NODEID": "0", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpc_ckpt_1.ckpt").write_text("what another training has left, told by SLURM to stop")
    settings = recording.changed(training={"max_epochs": 1})
    run = pretrain(adata, settings, out=tmp_path / "run", show_progress=False)
    assert run.manifest["fit"]["epochs"] == 1
    (environment,) = slurm_plugins()
    assert not environment.auto_requeue, "Lightning would put a checkpoint of its own into the working directory"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert slurm_plugins() == []


def test_others_than_the_first_process_log_errors_only(monkeypatch):
    clear(monkeypatch)
    logger, level = logging.getLogger("selfcell.training"), logging.getLogger("selfcell").level
    monkeypatch.setenv("LOCAL_RANK", "1")
    try:
        mute_others()
        assert not logger.isEnabledFor(logging.WARNING) and logger.isEnabledFor(logging.ERROR)
    finally:
        logging.getLogger("selfcell").setLevel(level)


def test_a_process_that_met_no_other_waits_for_the_first_to_finish(monkeypatch):
    clear(monkeypatch)
    asked = []
    wait_for_all(lambda: bool(asked.append(1)))
    assert not asked, "the first process waits for nobody"
    monkeypatch.setenv("LOCAL_RANK", "1")
    wait_for_all(lambda: len(asked) == 3 or bool(asked.append(1)))
    assert len(asked) == 3
    wait_for_all(lambda: False, seconds=0.0)


def test_fine_tuning_in_several_processes_is_refused(model, adata, tmp_path):
    with pytest.raises(InputError, match=r"Fine-tuning runs in one process, but .* is 2 x 1: leave both at 1"):
        finetune(model, adata, label_key="cell_type", out=tmp_path / "run", settings={"training": {"devices": 2}})
    assert not (tmp_path / "run").exists()
    refuse_several(TrainingSettings(), "Anything")


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"devices": 3, "minibatch_size": 50}, r"50 cells in a minibatch .* equally by 3 processes\. Take 48"),
        ({"devices": 40, "minibatch_size": 40}, "cells in a minibatch are too few: 40 processes need at least 2 each"),
    ],
)
def test_minibatches_that_cannot_be_shared_are_refused_before_the_folder_is_touched(adata, tmp_path, training, message):
    settings = recording.changed(training=training) | {"pretext": {"name": "barlow_twins"}}
    with pytest.raises(InputError, match=message):
        recording.pretrain(adata, settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_parts_have_the_same_cells_whatever_the_processes(runs):
    splits = [json.loads((runs.folder / name / "plain" / "split.json").read_text()) for name in ("one", "two")]
    assert splits[0] == splits[1]
    assert split_from_json(splits[0], 300, runs.adata.obs["donor"].astype(str)).train.size
