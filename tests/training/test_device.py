"""Training on a device: cells held there, losses in blocks of genes, and no waiting for it at every step."""

import logging
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from selfcell.core.errors import InputError
from selfcell.data.atlas.build import build_atlas
from selfcell.data.simulate import simulate_cells
from selfcell.network.compute import Compute
from selfcell.pretext.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderSettings
from selfcell.training import fit
from selfcell.training.finite import FiniteWatch, NotFiniteError
from selfcell.training.module import ObjectiveModule
from selfcell.training.run_folder import read_manifest
from selfcell.training.settings import TrainingSettings

recording = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "recorded_training.py")))
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device")
    adata = simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, seed=0)
    adata.write_h5ad(folder / "cells.h5ad")
    build_atlas([folder / "cells.h5ad"], folder / "atlas", shard_cells=70)
    return SimpleNamespace(adata=adata, file=folder / "cells.h5ad", atlas=folder / "atlas")


def validation_loss(run):
    return read_manifest(run)["fit"]["validation_loss"]


@pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=needs_gpu)])
@pytest.mark.parametrize("data", [{}, {"balance_key": "cell_type"}], ids=["all", "balanced"])
@pytest.mark.parametrize("source", ["atlas", "adata"])
def test_cells_that_are_held_train_to_the_weights_of_a_stream(disk, tmp_path, source, data, device):
    training = {"device": device}
    streamed = recording.train(
        getattr(disk, source), recording.changed(data=data, training=training), tmp_path / "streamed"
    )
    held = recording.train(
        getattr(disk, source), recording.changed(data={**data, "resident": True}, training=training), tmp_path / "held"
    )
    assert held.cells == streamed.cells
    assert all(torch.equal(held.parameters[name], streamed.parameters[name]) for name in held.parameters)
    assert validation_loss(tmp_path / "held") == validation_loss(tmp_path / "streamed")


def test_a_run_on_held_cells_goes_on_within_an_epoch_also_as_a_stream(disk, tmp_path):
    def settings(*, resident):
        return recording.changed(data={"resident": resident}, training={"checkpoint_minutes": 1e-9})

    whole = recording.train(disk.atlas, settings(resident=True), tmp_path / "whole")
    for resident in (True, False):
        run = tmp_path / f"run {resident}"
        recording.break_off(disk.atlas, settings(resident=True), run, at=7)
        rest = recording.train(disk.atlas, settings(resident=resident), run, resume=True)
        assert rest.cells == whole.cells[-len(rest.cells) :] and len(rest.cells) % 50
        assert all(torch.equal(rest.parameters[name], whole.parameters[name]) for name in whole.parameters)


def test_several_processes_cannot_hold_the_cells(disk, tmp_path):
    settings = recording.changed(data={"resident": True}, training={"devices": 2})
    with pytest.raises(
        InputError, match=r"Training on cells held on the device \(data\.resident\) runs in one process"
    ):
        recording.train(disk.adata, settings, tmp_path / "run")


@pytest.mark.parametrize(
    "pretext",
    [{"mask": "none"}, {"mask": "random", "exact_share": True}, {"mask": "random", "score_zeros": "drawn"}],
    ids=["none", "exact share", "drawn"],
)
def test_training_in_blocks_comes_to_the_loss_of_plain_training(disk, tmp_path, monkeypatch, pretext):
    settings = recording.changed(pretext=pretext)
    exact = {**settings, "training": settings["training"] | {"exact": True}}
    recording.train(disk.atlas, exact, tmp_path / "plain")
    blocks = Compute(sparse=False, in_blocks=True)
    monkeypatch.setattr(fit, "how_to_compute", lambda *_: blocks)
    recording.train(disk.atlas, settings, tmp_path / "blocks")
    assert validation_loss(tmp_path / "blocks") == pytest.approx(validation_loss(tmp_path / "plain"), rel=1e-4)


@pytest.mark.parametrize(("fault", "said"), [(None, "by compiled kernels"), ("no gcc", r"kernels \(no gcc\)")])
def test_on_a_gpu_errors_are_taken_in_blocks_and_how_is_said(fault, said, monkeypatch, caplog):
    monkeypatch.setattr(fit, "compiler_fault", lambda _: fault)
    monkeypatch.setattr(fit, "best_dtype", lambda _: torch.bfloat16)
    with caplog.at_level(logging.INFO):
        compute = fit.how_to_compute(TrainingSettings(), "cuda")
    assert compute == Compute(dtype=torch.bfloat16, in_blocks=True, compiled=fault is None)
    assert caplog.text.count("Computed densely on cuda in bfloat16, errors in blocks of genes") == 1
    assert re.search(said, caplog.text)
    assert not fit.how_to_compute(TrainingSettings(exact=True), "cuda").in_blocks


def test_losses_of_a_gpu_are_looked_at_now_and_then_and_the_first_fault_is_told():
    losses = FiniteWatch("training loss")
    losses._values = torch.zeros(4)  # as on a GPU
    losses.watch(torch.tensor(1.0), step=0, epoch=0)
    losses.look()
    for step, loss in ((1, float("nan")), (2, float("inf")), (3, 1.0)):
        losses.watch(torch.tensor(loss), step=step, epoch=2)
    with pytest.raises(NotFiniteError, match=r"training loss is nan after 1 step \(epoch 3\)"):
        losses.watch(torch.tensor(1.0), step=4, epoch=2)


def test_what_was_put_off_is_looked_at_before_weights_are_written(encoder):
    task = MaskedAutoencoder(MaskedAutoencoderSettings(), encoder=encoder)
    module = ObjectiveModule(task, TrainingSettings())
    module.on_save_checkpoint({})
    module._losses._values = torch.zeros(100)  # as on a GPU
    module._losses.watch(torch.tensor(float("inf")), step=3, epoch=0)
    with pytest.raises(NotFiniteError, match="loss is inf after 3 steps"):
        module.on_save_checkpoint({})
