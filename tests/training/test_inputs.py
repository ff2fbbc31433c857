"""What is refused before training starts, and what a task is given."""

import logging

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

import selfcell
from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.data.source import open_cells
from selfcell.data.splits import split_cells
from selfcell.pretext import PRETEXT_TASKS
from selfcell.pretext.byol import Byol
from selfcell.training.adamw import AdamW
from selfcell.training.inputs import task_loaders
from selfcell.training.progress import EpochLog
from selfcell.training.settings import PretrainSettings


def run(adata, out, pretext, *, resume=False, **sections):
    sections.setdefault("training", {})
    settings = {
        "data": {"donor_key": "donor", **sections.get("data", {})},
        "network": {"hidden_sizes": [16], "n_latent": 8},
        "pretext": pretext,
        "training": {"max_epochs": 2, "minibatch_size": 64, "device": "cpu", **sections["training"]},
    }
    return selfcell.pretrain(adata, settings, out=out, resume=resume, show_progress=False)


@pytest.fixture
def gmt(tmp_path):
    """Ten programmes of six genes each."""
    path = tmp_path / "sets.gmt"
    lines = [
        "\t".join([f"SET{place}", "", *(f"GENE{gene}" for gene in range(place * 6, place * 6 + 6))])
        for place in range(10)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def regulons(tmp_path):
    """Two factors among the genes, one that is not."""
    pairs = [(factor, f"GENE{gene}") for factor in ("GENE0", "GENE1", "ABSENT1") for gene in range(10, 20)]
    path = tmp_path / "factors.csv"
    pd.DataFrame(pairs, columns=["source", "target"]).to_csv(path, index=False)
    return str(path)


@pytest.mark.parametrize("mask", ["programs", "isolated_program"])
def test_programmes_travel_from_the_file_to_the_run_folder_and_back(adata, tmp_path, gmt, mask):
    model = run(adata, tmp_path / "run", {"mask": mask, "programs": gmt})
    stored = pd.read_csv(model.path / "programs.csv")
    assert len(stored) == 60 and stored["program"].nunique() == 10
    assert model.manifest["programs"]["n_programs"] == 10
    again = run(adata, tmp_path / "again", {"mask": mask, "programs": str(model.path / "programs.csv")})
    log, log_again = (pd.read_csv(folder.path / "log.csv") for folder in (model, again))
    assert (log["validation_loss"] == log_again["validation_loss"]).all(), "the stored file repeats the run"


def test_a_run_is_resumed_without_its_file_of_programmes(adata, tmp_path, gmt):
    pretext = {"mask": "programs", "programs": gmt}
    run(adata, tmp_path / "run", pretext)
    (tmp_path / "sets.gmt").unlink()
    settings = {"training": {"max_epochs": 3}}
    config = build(PretrainSettings, settings)
    assert config.training.max_epochs == 3
    resumed = selfcell.pretrain(
        adata,
        {
            "data": {"donor_key": "donor"},
            "network": {"hidden_sizes": [16], "n_latent": 8},
            "pretext": pretext,
            "training": {"max_epochs": 3, "minibatch_size": 64, "device": "cpu"},
        },
        out=tmp_path / "run",
        resume=True,
        show_progress=False,
    )
    assert resumed.manifest["fit"]["epochs"] == 3


def test_factors_and_their_targets_are_stored(adata, tmp_path, regulons):
    model = run(adata, tmp_path / "run", {"mask": "program_to_tf", "programs": regulons})
    stored = pd.read_csv(model.path / "programs.csv")
    assert set(stored["regulator"]) == {"GENE0", "GENE1"}


def test_bad_input_is_refused_before_anything_is_written(adata, tmp_path, gmt, regulons):
    fractional = adata.copy()
    fractional.X = fractional.X * 0.5
    unknown = tmp_path / "unknown.gmt"
    unknown.write_text("A\t\tNONE1\tNONE2\tNONE3\tNONE4\tNONE5\tNONE6\n", encoding="utf-8")
    absent = tmp_path / "absent.csv"
    absent.write_text("source,target\n" + "".join(f"ABSENT1,GENE{gene}\n" for gene in range(9)), encoding="utf-8")
    refused = [
        (adata, {"mask": "programs"}, {}, r"need gene programmes: pretext\.programs=msigdb-c8"),
        (adata, {"mask": "program_to_tf"}, {}, r"pretext\.programs=trrust"),
        (adata, {"programs": gmt}, {}, "nothing in these settings of masked_autoencoder uses gene programmes"),
        (adata, {"program_min_genes": 7}, {}, r"pretext\.program_min_genes is given, but these settings"),
        (adata, {"mask": "programs", "programs": str(unknown)}, {}, "unknown.gmt"),
        (adata, {"mask": "program_to_tf", "programs": str(absent)}, {}, "ABSENT1"),
        (adata, {"mask": "programs", "programs": "msigdb-c88"}, {}, "Did you mean 'msigdb-c8'"),
        (fractional, {"likelihood": "negative_binomial"}, {"data": {"scale": "counts"}}, "needs raw whole counts"),
        (adata, {"name": "byol"}, {"training": {"minibatch_size": 1}}, "two at least are needed.*minibatch_size is 1"),
        (
            adata,
            {"name": "simclr", "views": [{"name": "mix_neighbors", "among": "bbknn"}]},
            {},
            r"a batch column is needed: data\.batch_key",
        ),
    ]
    for cells, pretext, sections, message in refused:
        with pytest.raises(InputError, match=message):
            run(cells, tmp_path / "refused", pretext, **sections)
        assert not (tmp_path / "refused").exists()


def test_log_normalized_values_undone_are_no_counts(adata, tmp_path):
    adata.X = adata.X.log1p()
    with pytest.raises(InputError, match="log-normalized ones, undone"):
        run(adata, tmp_path / "run", {"likelihood": "poisson"}, data={"scale": "log1p"})


def test_a_last_cell_alone_joins_the_minibatch_before_where_cells_are_compared(adata):
    cells = open_cells(adata)
    donors = cells.obs["donor"]
    split = split_cells(len(cells), donors, validation_fraction=0.2, test_fraction=0.0, seed=0)
    n_train = len(split.train)
    for name, sizes in (("byol", [n_train]), ("masked_autoencoder", [n_train - 1, 1])):
        settings = build(PretrainSettings, {"pretext": {"name": name}, "training": {"minibatch_size": n_train - 1}})
        seen = [minibatch.n_cells for minibatch in task_loaders(settings, cells, split)["train"]]
        assert seen == sizes


def test_views_that_mix_neighbors_are_given_the_batch_of_each_cell(adata, tmp_path):
    cells = open_cells(adata)
    split = split_cells(len(cells), None, validation_fraction=0.2, test_fraction=0.0, seed=0)
    pretext = {"name": "simclr", "views": [{"name": "mix_neighbors", "among": "bbknn"}]}
    settings = build(PretrainSettings, {"pretext": pretext, "data": {"batch_key": "batch"}})
    loaders = task_loaders(settings, cells, split)
    for part, rows in (("train", split.train), ("validation", split.validation)):
        codes = np.concatenate([minibatch.codes["batch"].numpy() for minibatch in loaders[part]])
        expected = cells.obs["batch"].iloc[rows].value_counts().sort_index().to_list()
        assert np.bincount(codes).tolist() == expected


def test_tasks_with_a_moving_target_train_all_epochs_unless_told_otherwise(adata, tmp_path, caplog):
    assert build(PretrainSettings, {"pretext": {"name": "byol"}}).training.patience == 0
    assert build(PretrainSettings, {"pretext": {"name": "simclr"}}).training.patience == 5
    with caplog.at_level(logging.WARNING, logger="selfcell"):
        run(adata, tmp_path / "run", {"name": "byol"}, training={"patience": 2})
    assert "The loss of byol is measured against something that training moves" in caplog.text


@pytest.mark.parametrize("name", PRETEXT_TASKS)
def test_every_task_resumes_to_the_same_weights(adata, tmp_path, name, monkeypatch):
    """Moving averages, queues and centers are part of what is resumed."""
    training = {"max_epochs": 3, "optimizer": "lars", "learning_rate": 0.1, "schedule": "cosine", "warmup_epochs": 1}
    whole = run(adata, tmp_path / "whole", {"name": name}, training=training)
    write_row = EpochLog.on_train_epoch_end

    def interrupt(self, trainer, module):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt
        write_row(self, trainer, module)

    monkeypatch.setattr(EpochLog, "on_train_epoch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(adata, tmp_path / "run", {"name": name}, training=training)
    monkeypatch.setattr(EpochLog, "on_train_epoch_end", write_row)
    resumed = selfcell.pretrain(adata, out=tmp_path / "run", resume=True, show_progress=False)
    for file in ("encoder.safetensors", "heads.safetensors"):
        weights, again = (safetensors.torch.load_file(model.path / file) for model in (whole, resumed))
        assert weights.keys() == again.keys()
        assert all(torch.equal(weights[key], again[key]) for key in weights)


def test_more_epochs_of_a_schedule_that_goes_by_their_share_are_warned_about(adata, tmp_path, caplog):
    run(adata, tmp_path / "run", {"name": "byol"})
    with caplog.at_level(logging.WARNING, logger="selfcell"):
        run(adata, tmp_path / "run", {"name": "byol"}, training={"max_epochs": 4}, resume=True)
    assert "it will not be what 4 epochs from the start would have been" in caplog.text


def test_the_target_is_updated_once_after_every_step(adata, tmp_path, monkeypatch):
    told, steps = [], []
    update, step = Byol.update_target, AdamW.step
    monkeypatch.setattr(
        Byol,
        "update_target",
        lambda self, *, progress: (told.append((progress, len(steps))), update(self, progress=progress)),
    )
    monkeypatch.setattr(AdamW, "step", lambda self, *given, **named: (steps.append(1), step(self, *given, **named))[1])
    model = run(adata, tmp_path / "run", {"name": "byol"})
    n_steps = model.manifest["fit"]["steps"]
    assert [progress for progress, _ in told] == pytest.approx([(place + 1) / n_steps for place in range(n_steps)])
    assert [n_before for _, n_before in told] == list(range(1, n_steps + 1)), "the optimizer goes first"
    heads = safetensors.torch.load_file(model.path / "heads.safetensors")
    encoder = safetensors.torch.load_file(model.path / "encoder.safetensors")
    targets = {
        key: value for key, value in heads.items() if key.startswith("target_network") and key.endswith("weight")
    }
    assert targets and not any(
        value.shape == other.shape and torch.equal(value, other)
        for value in targets.values()
        for other in encoder.values()
    )


def test_what_hardly_trains_or_says_little_is_warned_about(adata, tmp_path, caplog):
    few = tmp_path / "few.gmt"
    few.write_text("A\t\tGENE1\tGENE2\nB\t\tGENE1\tGENE2\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING, logger="selfcell"):
        pretext = {"mask": "programs", "programs": str(few), "program_min_genes": 2}
        run(adata, tmp_path / "run", pretext, training={"minibatch_size": 8192})
    assert "so an epoch is one step of the optimizer, 2 in all" in caplog.text
    assert "Only 3.3 % of the genes are in any programme" in caplog.text


def test_settings_of_another_task_are_told_from_unknown_ones():
    for pretext, message in (
        (
            {"views": ["mask_genes"]},
            r"masked_autoencoder has no setting 'views'; it is one of byol, .*pretext\.name=byol",
        ),
        ({"name": "simclr", "mask_fraction": 0.5}, "simclr has no setting 'mask_fraction'"),
        ({"name": "simclr", "views.mask_genes.fraction": 0.5}, "Steps of a view are written whole"),
        ({"mask_fractoin": 0.5}, "Unknown setting 'mask_fractoin'.*Did you mean 'mask_fraction'"),
    ):
        with pytest.raises(InputError, match=message):
            build(PretrainSettings, {"pretext": pretext})


def test_none_is_what_is_not_set():
    given = {"pretext": {"mask_fraction": "none", "programs": "none"}, "data": {"layer": "none"}}
    settings = build(PretrainSettings, given)
    assert (settings.pretext.mask_fraction, settings.pretext.programs, settings.data.layer) == (0.5, None, None)
    assert build(PretrainSettings, {"pretext": {"mask": "none"}}).pretext.mask == "none"
