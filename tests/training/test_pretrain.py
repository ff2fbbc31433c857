import importlib.metadata
import json
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from selfcell.core.atomic import write_json
from selfcell.core.errors import InputError
from selfcell.data.splits import split_from_json
from selfcell.training.fit import seeded
from selfcell.training.out_folder import check_folder, claim_folder, drop_replaced, prepare_folder
from selfcell.training.pretrain import make_task, pretrain
from selfcell.training.run_folder import load, read_manifest
from selfcell.training.safe_checkpoint import SafetensorsCheckpointIO


def weights_of(model):
    return {**model.encoder.state_dict(), **model.head_state}


def same_weights(first, second):
    first, second = weights_of(first), weights_of(second)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def with_training(settings, **update):
    return settings.model_copy(update={"training": settings.training.model_copy(update=update)})


def test_a_run_folder_holds_what_is_needed_to_repeat_and_judge_it(model, adata):
    files = {path.name for path in model.path.iterdir()}
    assert files >= {
        "config.toml", "encoder.safetensors", "heads.safetensors", "genes.csv", "manifest.json", "split.json",
        "log.csv", "checkpoints", "tensorboard",
    }  # fmt: skip
    manifest = read_manifest(model.path)
    assert manifest["status"] == "finished" and manifest["seed"] == 0 and manifest["kind"] == "pretrained"
    assert manifest["data"]["n_cells"] == 300 and manifest["versions"]["torch"] == importlib.metadata.version("torch")
    assert list(model.genes.ids) == list(adata.var_names)
    assert any(path.name.startswith("events.out.tfevents") for path in (model.path / "tensorboard").iterdir())


def test_nothing_in_a_run_folder_is_a_pickle(model):
    for path in model.path.rglob("*"):
        if path.is_file():
            head = path.read_bytes()[:2]
            assert head != b"PK" and head[:1] != b"\x80", path


def test_the_log_has_a_row_an_epoch(model):
    log = pd.read_csv(model.path / "log.csv")
    assert log["epoch"].tolist() == list(range(1, model.manifest["fit"]["epochs"] + 1))
    assert {"train_loss", "validation_loss", "train_masked_fraction", "learning_rate", "cells_per_second"} <= set(log)
    assert log["train_loss"].iloc[-1] < log["train_loss"].iloc[0]
    assert log["train_masked_fraction"].between(0.45, 0.55).all()


def test_training_validation_and_test_share_no_donor(model, adata):
    split = split_from_json(model.split, 300, adata.obs["donor"].astype(str))
    parts = [set(adata.obs["donor"].iloc[part]) for part in (split.train, split.validation, split.test)]
    assert all(parts) and not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before(adata, small_settings, tmp_path):
    first = pretrain(adata, small_settings, out=tmp_path / "a", show_progress=False)
    torch.rand(100)
    np.random.default_rng().random(5)
    again = pretrain(adata, small_settings, out=tmp_path / "b", show_progress=False)
    other = pretrain(adata, with_training(small_settings, seed=1), out=tmp_path / "c", show_progress=False)
    assert same_weights(first, again) and not same_weights(first, other)


def test_training_leaves_torchs_random_numbers_alone(adata, small_settings, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pretrain(adata, small_settings, out=tmp_path / "run", show_progress=False)
    assert torch.equal(torch.rand(3), expected)


def test_a_run_in_two_sessions_comes_to_the_same_weights(adata, small_settings, tmp_path):
    whole = pretrain(adata, with_training(small_settings, max_epochs=5), out=tmp_path / "whole", show_progress=False)
    pretrain(adata, with_training(small_settings, max_epochs=2), out=tmp_path / "run", show_progress=False)
    resumed = pretrain(
        adata, with_training(small_settings, max_epochs=5), out=tmp_path / "run", resume=True, show_progress=False
    )
    assert same_weights(whole, resumed)
    logs = [
        pd.read_csv(tmp_path / name / "log.csv").drop(columns=["seconds", "cells_per_second", "waiting"])
        for name in ("whole", "run")
    ]
    pd.testing.assert_frame_equal(*logs)


INTERRUPTED = """
    import os, signal, sys
    # A shell that runs tests in the background has them ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import lightning.pytorch as pl
    from selfcell.core.config import build
    from selfcell.data.simulate import simulate_cells
    from selfcell.training import fit
    from selfcell.training.pretrain import pretrain
    from selfcell.training.settings import PretrainSettings

    settings = build(PretrainSettings, {settings!r})
    original = fit.EpochLog.on_train_batch_end
    def interrupt(self, trainer, *rest):
        if trainer.current_epoch == 2 and trainer.global_step % 2 == 0:
            os.kill(os.getpid(), signal.{signal})
    fit.EpochLog.on_train_batch_end = interrupt
    cells = simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, seed=0)
    try:
        pretrain(cells, settings, out={out!r}, show_progress=False)
    except KeyboardInterrupt:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        sys.exit(77)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 77), ("SIGKILL", -9)])
def test_a_run_that_was_interrupted_or_killed_within_an_epoch_resumes_to_the_same_weights(
    adata, small_settings, tmp_path, name, code
):
    settings = with_training(small_settings, max_epochs=4)
    whole = pretrain(adata, settings, out=tmp_path / "whole", show_progress=False)
    out = str(tmp_path / "run")
    program = textwrap.dedent(INTERRUPTED.format(settings=settings.model_dump(mode="json"), out=out, signal=name))
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert finished.returncode == code, finished.stderr
    assert read_manifest(tmp_path / "run")["status"] == "training"
    with pytest.raises(InputError, match=r"is not finished\. Go on with it by the command that began it"):
        load(out)
    resumed = pretrain(adata, out=out, resume=True, show_progress=False)
    assert same_weights(whole, resumed)


def test_a_run_broken_off_after_its_last_epoch_is_finished_without_training(adata, small_settings, tmp_path):
    for patience in (0, 2):
        settings = with_training(small_settings, patience=patience, learning_rate=0.05, max_epochs=30)
        out = tmp_path / f"run{patience}"
        first = pretrain(adata, settings, out=out, show_progress=False)
        write_json(out / "manifest.json", {**first.manifest, "status": "training"})
        again = pretrain(adata, out=out, resume=True, show_progress=False)
        assert same_weights(first, again)
        assert {**again.manifest["fit"], "seconds": 0} == {**first.manifest["fit"], "seconds": 0}


def test_the_best_weights_survive_an_interruption_and_a_move(adata, small_settings, tmp_path):
    """Cut right at the best epoch, with later epochs that are worse than it but better than the one before it."""
    settings = with_training(small_settings, learning_rate=0.05, learning_rate_decay=1.0, patience=12)
    whole = pretrain(adata, with_training(settings, max_epochs=14), out=tmp_path / "whole", show_progress=False)
    for cut in range(9, 13):
        pretrain(adata, with_training(settings, max_epochs=cut), out=tmp_path / f"{cut}", show_progress=False)
        (tmp_path / f"{cut}").rename(tmp_path / f"moved{cut}")
        resumed = pretrain(
            adata,
            with_training(settings, max_epochs=14),
            out=tmp_path / f"moved{cut}",
            resume=True,
            show_progress=False,
        )
        assert same_weights(whole, resumed)
        assert resumed.manifest["fit"]["kept_epoch"] == whole.manifest["fit"]["kept_epoch"]


def test_the_logged_learning_rate_is_the_one_that_was_used(adata, small_settings, tmp_path):
    pretrain(adata, small_settings, out=tmp_path / "run", show_progress=False)
    assert pd.read_csv(tmp_path / "run" / "log.csv")["learning_rate"].tolist() == pytest.approx([1e-3, 1e-3, 9e-4])


def test_resuming_a_finished_run_changes_nothing(adata, small_settings, tmp_path, caplog):
    first = pretrain(adata, small_settings, out=tmp_path / "run", show_progress=False)
    with caplog.at_level(logging.INFO):
        again = pretrain(adata, out=tmp_path / "run", resume=True, show_progress=False)
    assert same_weights(first, again) and "finished already" in caplog.text


def test_resuming_on_other_cells_or_settings_is_refused(adata, small_settings, tmp_path):
    pretrain(adata, small_settings, out=tmp_path / "run", show_progress=False)
    with pytest.raises(InputError, match="cannot be resumed: its data's fingerprint was"):
        pretrain(adata[:200].copy(), small_settings, out=tmp_path / "run", resume=True)
    with pytest.raises(InputError, match=r"cannot be resumed: its setting training\.seed was 0, but now 1 is given"):
        pretrain(adata, with_training(small_settings, seed=1), out=tmp_path / "run", resume=True)
    with pytest.raises(InputError, match=r"its setting training\.patience was 5, but now 0 is given"):
        pretrain(adata, with_training(small_settings, patience=0), out=tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="--resume and --overwrite contradict each other"):
        pretrain(adata, small_settings, out=tmp_path / "run", resume=True, overwrite=True)
    with pytest.raises(InputError, match="There is no run"):
        pretrain(adata, out=tmp_path / "none", resume=True)


def test_an_existing_folder_is_refused_unless_it_may_be_replaced(adata, small_settings, tmp_path):
    pretrain(adata, small_settings, out=tmp_path / "run", show_progress=False)
    with pytest.raises(InputError, match=r"run exists already\. .*--resume.*--overwrite"):
        pretrain(adata, small_settings, out=tmp_path / "run")
    pretrain(adata, small_settings, out=tmp_path / "run", overwrite=True, show_progress=False)


def test_a_folder_that_is_not_ours_is_never_replaced(adata, small_settings, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    with pytest.raises(InputError, match="does not look like a folder that selfcell made"):
        pretrain(adata, small_settings, out=tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.tex").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_hidden_files_is_not_ours_and_stays(adata, small_settings, tmp_path, overwrite):
    (tmp_path / "models" / ".git").mkdir(parents=True)
    (tmp_path / "models" / ".git" / "HEAD").touch()
    with pytest.raises(InputError, match=r"selfcell made: '\.git' is in it, .* Name another folder"):
        pretrain(adata, small_settings, out=tmp_path / "models", overwrite=overwrite)
    with pytest.raises(InputError, match=r"'\.git' is in it"):
        claim_folder(tmp_path / "models", overwrite=overwrite)
    assert [file.name for file in (tmp_path / "models").rglob("*")] == [".git", "HEAD"]


def test_leftovers_of_ours_and_of_the_system_do_not_fill_a_folder(tmp_path):
    for name in (".DS_Store", ".run.0123abcd.partial", ".scores.0123abcd.partial.csv"):
        (tmp_path / name).touch()
    check_folder(tmp_path)
    claim_folder(tmp_path, overwrite=False)
    (tmp_path / ".trials").mkdir()
    check_folder(tmp_path)
    (tmp_path / ".git").mkdir()
    with pytest.raises(InputError, match="exists already"):
        check_folder(tmp_path)


def test_a_folder_that_was_set_aside_while_it_was_replaced_is_content(tmp_path):
    (tmp_path / ".run.0123abcd.partial.old").mkdir()
    with pytest.raises(InputError, match=r"'\.run\.0123abcd\.partial\.old' is in it"):
        check_folder(tmp_path, overwrite=True)


@pytest.mark.parametrize("out", [".", "..", "run/..", "link"])
def test_the_current_folder_and_those_above_it_are_refused_at_once(tmp_path, monkeypatch, out):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match=r"the current folder, .*Name a folder in it, as in --out NAME"):
        check_folder(Path(out), overwrite=True)


def test_a_run_that_broke_off_early_can_be_replaced(adata, small_settings, tmp_path):
    prepare_folder(tmp_path / "run")
    pretrain(adata, small_settings, out=tmp_path / "run", overwrite=True, show_progress=False)


def test_a_gpu_that_is_not_there_is_refused(adata, small_settings, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(InputError, match=r"training\.device=gpu, but torch finds no GPU"):
        pretrain(adata, with_training(small_settings, device="gpu"), out=tmp_path / "run")


def test_bad_cells_are_refused_before_the_folder_is_touched(adata, small_settings, tmp_path):
    adata.X = np.log1p(adata.X.toarray() / 3)
    with pytest.raises(InputError, match="Raw counts are needed"):
        pretrain(adata, small_settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_donor_only_is_refused(adata, small_settings, tmp_path):
    one = adata[adata.obs["donor"] == "donor 1"].copy()
    with pytest.raises(InputError, match="only 1 \\(donor 1\\)"):
        pretrain(one, small_settings, out=tmp_path / "run")


def test_without_a_donor_it_is_said_that_cells_are_split_one_by_one(adata, small_settings, tmp_path, caplog):
    settings = small_settings.model_copy(update={"data": small_settings.data.model_copy(update={"donor_key": None})})
    pretrain(adata, settings, out=tmp_path / "run", show_progress=False)
    assert "No donor column is named" in caplog.text


def test_the_weights_of_the_best_validation_loss_are_kept(adata, small_settings, tmp_path):
    settings = with_training(small_settings, max_epochs=40, learning_rate=0.05, patience=3)
    model = pretrain(adata, settings, out=tmp_path / "run", show_progress=False)
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    fit = model.manifest["fit"]
    assert fit["epochs"] == len(log) < 40
    assert fit["kept_epoch"] == log["validation_loss"].idxmin() + 1 == len(log) - 3
    assert fit["validation_loss"] == pytest.approx(log["validation_loss"].min())


def test_without_patience_the_last_weights_are_kept(adata, small_settings, tmp_path):
    settings = with_training(small_settings, patience=0)
    model = pretrain(adata, settings, out=tmp_path / "run", show_progress=False)
    assert model.manifest["fit"]["kept_epoch"] == 3
    assert not (tmp_path / "run" / "checkpoints" / "best.safetensors").exists()


def test_a_run_of_a_newer_format_is_refused(model, tmp_path):
    manifest = json.loads((model.path / "manifest.json").read_text())
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(InputError, match=r"has run format 99, made with selfcell .*reads formats up to 2\. Upgrade it"):
        load(newer)


def test_what_is_no_run_folder_is_refused(tmp_path):
    (tmp_path / "runs" / "mae").mkdir(parents=True)
    with pytest.raises(InputError, match=r"There is no run folder '.*ma'\. Did you mean '.*mae'\?"):
        load(tmp_path / "runs" / "ma")
    with pytest.raises(InputError, match="There is no run folder"):
        load(tmp_path / "none")
    with pytest.raises(InputError, match=r"is not a run folder: it has no manifest\.json"):
        load(tmp_path)


def test_damaged_weights_are_named(adata, small_settings, tmp_path):
    pretrain(adata, small_settings, out=tmp_path / "run", show_progress=False)
    weights = tmp_path / "run" / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match=r"encoder\.safetensors is missing or damaged"):
        load(tmp_path / "run")


def test_a_loaded_model_is_ready_for_use(model):
    loaded = load(model.path)
    assert not loaded.encoder.training and not any(p.requires_grad for p in loaded.encoder.parameters())
    assert same_weights(model, loaded) and loaded.labels is None


def test_weights_are_drawn_from_the_seed(small_settings, cells):
    first, second = (make_task(small_settings, cells.genes) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    with seeded(0, "weights"):
        inside = torch.rand(2)
    assert not torch.equal(inside, torch.rand(2))


def test_checkpoints_survive_a_round_trip_through_safetensors(tmp_path):
    shared = torch.rand(3)
    state = {
        "epoch": 3,
        "global_step": 7,
        "loops": {},
        "lr_schedulers": [],
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {"a": shared, "b": shared},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(2.0), "exp_avg": torch.rand(2, 2)}}, "lr": 1e-3}],
        "callbacks": {"x": {"best": None, "path": "p", "pair": (1, "two"), "on": True}},
    }
    path = tmp_path / "c.safetensors"
    SafetensorsCheckpointIO().save_checkpoint(state, path)
    again = SafetensorsCheckpointIO().load_checkpoint(path)
    assert torch.equal(again["state_dict"]["b"], shared)
    assert again["optimizer_states"][0]["state"][0].keys() == {"step", "exp_avg"}
    assert again["callbacks"] == state["callbacks"]


def test_a_checkpoint_refuses_what_has_no_form_in_json(tmp_path):
    with pytest.raises(TypeError, match="holds a set"):
        SafetensorsCheckpointIO().save_checkpoint({"x": {1, 2}}, tmp_path / "c.safetensors")


def test_a_run_that_is_replaced_is_kept_until_the_new_one_is_finished(tmp_path):
    run, beside = tmp_path / "run", tmp_path / ".run.replaced"
    for status, is_kept in (("finished", False), ("training", True), ("finished", True)):
        prepare_folder(run, overwrite=True)
        assert [path.name for path in run.iterdir()] == [".selfcell"] and beside.exists() == is_kept
        (run / "manifest.json").write_text(json.dumps({"status": status}))
    assert json.loads((beside / "manifest.json").read_text())["status"] == "finished"
    drop_replaced(run)
    assert not beside.exists()
    beside.mkdir()
    (beside / "mine").touch()
    prepare_folder(run, overwrite=True)
    drop_replaced(run)
    assert (beside / "mine").exists() and [path.name for path in run.iterdir()] == [".selfcell"]
