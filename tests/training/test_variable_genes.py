import json

import numpy as np
import pandas as pd
import pytest

from selfcell.benchmark.evaluate import evaluate
from selfcell.core.errors import InputError
from selfcell.data.highly_variable import highly_variable_genes
from selfcell.data.simulate import simulate_cells
from selfcell.data.source import open_cells
from selfcell.downstream.embed import embed
from selfcell.training.pretrain import pretrain

SETTINGS = {
    "data": {"n_top_genes": 20, "test_fraction": 0.2},
    "network": {"hidden_sizes": [16], "n_latent": 8},
    "training": {"max_epochs": 2, "minibatch_size": 64, "device": "cpu"},
}


@pytest.fixture(scope="module")
def adata():
    return simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, seed=0)


@pytest.fixture(scope="module")
def trained(adata, tmp_path_factory):
    return pretrain(adata, SETTINGS, out=tmp_path_factory.mktemp("run") / "mae", show_progress=False)


def test_the_genes_are_those_that_vary_most_among_the_training_cells(trained, adata):
    train = json.loads((trained.path / "split.json").read_text())["positions"]["train"]
    cells = open_cells(adata)
    expected = [cells.genes.ids[k] for k in highly_variable_genes(cells.counts[train], n_genes=20)]
    assert list(trained.genes.ids) == expected == list(pd.read_csv(trained.path / "genes.csv")["id"])
    assert trained.manifest["data"]["n_genes"] == 20


def test_cells_of_all_genes_are_embedded_and_judged_on_what_was_set_aside(trained, adata):
    embed(adata, trained)
    assert adata.obsm["X_selfcell"].shape == (300, 8) and np.isfinite(adata.obsm["X_selfcell"]).all()
    scores = evaluate(
        trained, adata, label_key="cell_type", regimes=("zero_shot",), baselines=("pca_knn",), n_seeds=1, jobs=1,
        show_progress=False,
    )  # fmt: skip
    assert set(scores["n_cells"]) == {trained.manifest["data"]["n_test"]}


def test_a_run_goes_on_with_the_same_genes(trained, adata, tmp_path):
    out = tmp_path / "mae"
    pretrain(adata, {**SETTINGS, "training": {**SETTINGS["training"], "max_epochs": 1}}, out=out, show_progress=False)
    again = pretrain(adata, SETTINGS, out=out, resume=True, show_progress=False)
    assert again.genes == trained.genes and again.manifest["fit"]["epochs"] == 2


def test_more_genes_than_there_are_keep_all(adata, tmp_path):
    settings = {**SETTINGS, "data": {"n_top_genes": 100}}
    assert len(pretrain(adata, settings, out=tmp_path / "mae", show_progress=False).genes) == 60


def test_few_cells_of_many_genes_are_told_of_the_setting(adata, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    settings = {**SETTINGS, "data": {}}
    pretrain(adata, settings, out=tmp_path / "silent", show_progress=False)
    assert "--n-top-genes" not in caplog.text
    monkeypatch.setattr("selfcell.training.variable_genes.MANY_GENES", 60)
    pretrain(adata, settings, out=tmp_path / "told", show_progress=False)
    assert "270 cells are few for 60 genes" in caplog.text and "--n-top-genes 2000" in caplog.text


def test_cells_on_disk_are_refused_before_work(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    settings = {**SETTINGS, "data": {"n_top_genes": 20, "backed": True}}
    with pytest.raises(InputError, match=r"n_top_genes .* must be in memory"):
        pretrain(tmp_path / "cells.h5ad", settings, out=tmp_path / "mae", show_progress=False)
    assert not (tmp_path / "mae").exists()
