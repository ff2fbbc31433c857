"""What stops a training, said so that it can be mended: numbers that are none, no memory, a full disk."""

import errno
import os
import pickle
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from selfcell.core.atomic import atomic_path
from selfcell.core.errors import InputError
from selfcell.pretext import PRETEXT_TASKS
from selfcell.training.faults import explained, is_disk_full, is_out_of_memory, without_mend
from selfcell.training.finite import FiniteWatch, NotFiniteError
from selfcell.training.module import ObjectiveModule
from selfcell.training.safe_checkpoint import SafetensorsCheckpointIO
from selfcell.training.settings import TrainingSettings

WORKER = Path(__file__).parent / "recorded_training.py"
recording = SimpleNamespace(**runpy.run_path(str(WORKER)))


def settings_for(**training):
    return recording.changed(training={"minibatch_size": 40, "checkpoint_minutes": 1e-9} | training)


def fail_at(monkeypatch, step, fault):
    """Have a training step go wrong: ``fault`` gives what is put in the place of its loss, or raises."""
    task = PRETEXT_TASKS["masked_autoencoder"]
    compute, training_step = task.compute_loss, ObjectiveModule.training_step

    def remembered(self, minibatch, batch_idx):
        self.objective.fails = self.global_step == step
        return training_step(self, minibatch, batch_idx)

    def compute_loss(self, minibatch, *, generator):
        loss = compute(self, minibatch, generator=generator)
        return fault(loss) if self.training and self.fails else loss

    monkeypatch.setattr(ObjectiveModule, "training_step", remembered)
    monkeypatch.setattr(task, "compute_loss", compute_loss)


def message_of(adata, settings, out, **options):
    with pytest.raises(InputError) as caught:
        recording.train(adata, settings, out, **options)
    return str(caught.value)


def test_a_loss_that_is_not_finite_stops_training_and_names_step_checkpoint_and_causes(adata, tmp_path, monkeypatch):
    fail_at(monkeypatch, 8, lambda loss: type(loss)(total=loss.total * float("nan")))
    message = message_of(adata, settings_for(), tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.safetensors"
    assert message == (
        "The training loss is nan after 8 steps (epoch 2). Likely causes: a learning rate that is too high "
        f"(training.learning_rate=0.001), or cells with huge counts. The last good checkpoint is {last}. "
        "--resume would come to the same: change a setting and train anew (--overwrite, or another --out)."
    )
    assert SafetensorsCheckpointIO().load_progress(last)["global_step"] == 8


def test_causes_are_those_of_the_settings_and_it_is_said_where_nothing_is_kept(adata, tmp_path):
    settings = settings_for(learning_rate=1e30, gradient_clip=0, precision="auto", checkpoint_minutes=0)
    message = message_of(adata, settings, tmp_path / "run")
    assert "too high (training.learning_rate=1e+30)" in message
    assert "not clipped (training.gradient_clip=0)" in message
    assert "rounding (training.precision=auto; float32 rounds least)" in message
    assert "No checkpoint was made before." in message
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def test_a_gradient_that_is_not_finite_stops_training_before_it_moves_a_weight(adata, tmp_path, monkeypatch):
    # The root has an infinite slope at 0.
    fail_at(monkeypatch, 3, lambda loss: type(loss)(total=(loss.total * 0).sqrt()))
    message = message_of(adata, settings_for(), tmp_path / "run")
    assert message.startswith("The norm of the gradient is nan after 3 steps (epoch 1). Likely causes: ")


def test_a_validation_loss_that_is_not_finite_stops_training(adata, tmp_path, monkeypatch):
    task = PRETEXT_TASKS["masked_autoencoder"]
    compute = task.compute_loss

    def compute_loss(self, minibatch, *, generator):
        loss = compute(self, minibatch, generator=generator)
        return loss if self.training else type(loss)(total=loss.total * float("inf"))

    monkeypatch.setattr(task, "compute_loss", compute_loss)
    message = message_of(adata, settings_for(), tmp_path / "run")
    assert message.startswith("The validation loss is inf after 6 steps (epoch 1). Likely causes: ")


def test_on_a_gpu_the_first_step_that_went_wrong_is_named_although_it_is_seen_later():
    watch = FiniteWatch("training loss")
    watch._values = torch.zeros(64)  # as on a GPU
    for step in range(63):
        watch.watch(torch.tensor(float("nan") if step >= 20 else 1.0), step=step, epoch=step // 10)
    with pytest.raises(NotFiniteError, match=r"The training loss is nan after 20 steps \(epoch 3\)"):
        watch.watch(torch.tensor(1.0), step=63, epoch=6)
    watch.watch(torch.tensor(float("-inf")), step=64, epoch=6)
    with pytest.raises(NotFiniteError, match=r"is -inf after 64 steps \(epoch 7\)"):
        watch.look()
    watch.look()


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    path = tmp_path / "c.safetensors"
    state = {"global_step": 4, "epoch": 1, "state_dict": {"objective.w": torch.ones(3), "n": torch.tensor(1)}}
    SafetensorsCheckpointIO().save_checkpoint(state, path)
    before = path.read_bytes()
    state["state_dict"]["objective.w"][1] = float("inf")
    with pytest.raises(NotFiniteError, match=r"The weight w is inf after 4 steps \(epoch 2\)"):
        SafetensorsCheckpointIO().save_checkpoint(state, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_lack_of_memory_names_settings_that_take_less_and_make_the_same_steps(adata, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        fail_at(patched, 8, lambda _: torch.empty(2**50))
        message = message_of(adata, settings_for(), tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.safetensors"
    assert message.startswith("Out of memory with training.minibatch_size=40: ") and "allocate" in message
    assert message.endswith(
        f"Go on from {last} with --resume --set training.minibatch_size=20 --set training.accumulate=2: steps of as "
        "many cells in 1/2 of the memory."
    )
    smaller = settings_for(minibatch_size=20, accumulate=2)
    assert len(recording.train(adata, smaller, tmp_path / "run", resume=True).cells) == 3 * 234 - 234 - 2 * 40


@pytest.mark.parametrize(
    ("size", "end"),
    [
        (40, "No checkpoint was made before. Begin anew with --overwrite --set training.minibatch_size=20 --set "
         "training.accumulate=2: steps of as many cells in 1/2 of the memory."),
        (51, "training.minibatch_size=17 --set training.accumulate=3: steps of as many cells in 1/3 of the memory."),
        (53, "Begin anew (--overwrite) with --set training.minibatch_size=26."),
        (1, "Take a smaller network, such as network.hidden_sizes=[256]."),
    ],
)  # fmt: skip
def test_where_nothing_was_saved_training_begins_anew_with_less(tmp_path, size, end):
    with (
        pytest.raises(InputError) as caught,
        explained(TrainingSettings(minibatch_size=size), checkpoint=tmp_path / "none"),
    ):
        np.empty(2**50)
    assert str(caught.value).startswith(f"Out of memory with training.minibatch_size={size}: Unable to allocate")
    assert str(caught.value).endswith(end)


def test_what_is_no_lack_of_memory_or_space_keeps_its_traceback(tmp_path):
    for error in (
        RuntimeError("shapes do not fit"),
        OSError(errno.EACCES, "no"),
        safetensors.SafetensorError("header"),
    ):
        assert not is_out_of_memory(error) and not is_disk_full(error)
        with pytest.raises(type(error)), explained(TrainingSettings(), checkpoint=tmp_path / "none"):
            raise error
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."))


def test_a_full_disk_leaves_the_checkpoint_before_and_says_how_to_go_on(adata, tmp_path, monkeypatch):
    settings, save = settings_for(), safetensors.torch.save_file
    whole = recording.train(adata, settings, tmp_path / "whole")

    def full_after_eight(tensors, path, metadata):
        save(tensors, path, metadata)
        if ObjectiveModule.n_seen == 9:
            raise safetensors.SafetensorError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            )

    def training_step(self, minibatch, batch_idx):
        ObjectiveModule.n_seen = self.global_step + 1
        return step(self, minibatch, batch_idx)

    step = ObjectiveModule.training_step
    with monkeypatch.context() as patched:
        patched.setattr(ObjectiveModule, "n_seen", 0, raising=False)
        patched.setattr(ObjectiveModule, "training_step", training_step)
        patched.setattr(safetensors.torch, "save_file", full_after_eight)
        message = message_of(adata, settings, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    assert message == (
        "The disk is full: Error while serializing: I/O error: No space left on device (os error 28), while writing to "
        f"{tmp_path / 'run'}. The checkpoint before it, {folder / 'last.safetensors'}, is whole: make room and go on "
        "with --resume."
    )
    assert [path.name for path in folder.iterdir()] == ["last.safetensors"]
    rest = recording.train(adata, settings, tmp_path / "run", resume=True)
    assert all(torch.equal(rest.parameters[name], weight) for name, weight in whole.parameters.items())


FULL = """
    import resource, runpy
    worker = runpy.run_path({worker!r})
    from selfcell.core.errors import InputError
    from selfcell.training.module import ObjectiveModule
    step = ObjectiveModule.training_step
    def training_step(self, minibatch, batch_idx):
        if self.global_step == 9:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        return step(self, minibatch, batch_idx)
    ObjectiveModule.training_step = training_step
    try:
        worker["pretrain"]({cells!r}, {settings!r}, out={out!r}, show_progress=False)
    except InputError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_file_that_can_grow_no_further_is_told_by_the_system_itself(tmp_path):
    cells, settings, out = tmp_path / "cells.h5ad", settings_for(), tmp_path / "run"
    recording.write_sources(tmp_path)
    values = {"worker": str(WORKER), "cells": str(cells), "settings": settings, "out": str(out)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL.format(**values))],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.stdout.startswith("The disk is full: "), done.stderr
    assert "is whole: make room and go on with --resume." in done.stdout
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["last.safetensors"]
    whole = recording.train(cells, settings, tmp_path / "whole")
    rest = recording.train(cells, settings, out, resume=True)
    assert all(torch.equal(rest.parameters[name], weight) for name, weight in whole.parameters.items())


def test_a_checkpoint_is_on_the_disk_before_it_takes_the_place_of_the_old_one(tmp_path, monkeypatch):
    calls, flush, replace = [], os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("flush"), flush(file))[1])
    monkeypatch.setattr(Path, "replace", lambda *paths: (calls.append("replace"), replace(*paths))[1])
    with atomic_path(tmp_path / "plain.txt") as temporary:
        temporary.write_text("x")
    assert calls == ["replace"]
    SafetensorsCheckpointIO().save_checkpoint({"x": torch.ones(2)}, tmp_path / "c.safetensors")
    assert calls == ["replace", "flush", "replace", "flush"]


def test_what_stopped_a_training_goes_through_to_another_process_whole(tmp_path):
    for error, tells in ((MemoryError("no"), is_out_of_memory), (OSError(errno.ENOSPC, "full"), is_disk_full)):
        with (
            pytest.raises(InputError) as caught,
            explained(TrainingSettings(), checkpoint=tmp_path / "checkpoints" / "last.safetensors"),
        ):
            raise error
        again = pickle.loads(pickle.dumps(caught.value))
        assert tells(again) and str(again) == str(caught.value) and without_mend(again) in str(again)
        assert "--overwrite" in str(again) and "--overwrite" not in without_mend(again)
