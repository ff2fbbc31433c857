"""Pre-training from disk: what comes of it, whatever the threads, and by whom the parts are split."""

import logging
import runpy
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.data.atlas.build import append_to_atlas, build_atlas
from selfcell.data.simulate import simulate_cells
from selfcell.training.module import ObjectiveModule
from selfcell.training.pretrain import pretrain
from selfcell.training.run_folder import read_manifest
from selfcell.training.settings import PretrainSettings

recording = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "recorded_training.py")))


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """Cells of two batches, in memory, in a file and in an atlas."""
    folder = tmp_path_factory.mktemp("disk")
    adata = simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, seed=0)
    adata.obs["assay"] = pd.Categorical([f"assay {place % 2}" for place in range(300)])
    adata.obs["n_counts"] = np.asarray(adata.X.sum(axis=1)).ravel()
    adata.obs["rare"] = pd.Categorical(["rare" if place % 10 == 0 else "common" for place in range(300)])
    adata.write_h5ad(folder / "cells.h5ad")
    build_atlas([folder / "cells.h5ad"], folder / "atlas", shard_cells=70)
    return SimpleNamespace(adata=adata, file=folder / "cells.h5ad", atlas=folder / "atlas")


def checksums_of(adata):
    """Give the checksum of each cell as the records of a training have them."""
    counts = adata.X.tocsr().astype(np.float32)
    counts.sort_indices()
    parts = (torch.from_numpy(it) for it in (counts.data, counts.indices.astype(np.int32), counts.indptr.astype(int)))
    values, genes, offsets = parts
    return np.array(recording.checksums(SimpleNamespace(values=values, gene_index=genes, cell_offsets=offsets)))


def donors_of(run):
    return {part: set(donors) for part, donors in read_split(run)["donors"].items()}


def read_split(run):
    return recording.json.loads((run / "split.json").read_text())


def test_training_from_an_atlas_sees_the_cells_that_training_in_memory_sees(disk, tmp_path):
    settings = recording.changed(data={"test_fraction": 0.2})
    in_memory = recording.train(disk.adata, settings, tmp_path / "memory")
    streamed = recording.train(disk.atlas, settings, tmp_path / "atlas")
    assert donors_of(tmp_path / "atlas") == donors_of(tmp_path / "memory")
    assert Counter(streamed.cells) == Counter(in_memory.cells)
    assert streamed.cells != in_memory.cells
    manifest = read_manifest(tmp_path / "atlas")
    assert manifest["status"] == "finished" and manifest["data"]["origin"] == "atlas"
    assert {name: manifest["data"][name] for name in ("n_train", "n_validation", "n_test", "n_genes")} == {
        name: read_manifest(tmp_path / "memory")["data"][name]
        for name in ("n_train", "n_validation", "n_test", "n_genes")
    }


def test_every_cell_of_a_stream_is_a_cell_of_the_file(disk, tmp_path):
    record = recording.train(disk.atlas, recording.SETTINGS, tmp_path / "run")
    donors = donors_of(tmp_path / "run")["train"]
    expected = checksums_of(disk.adata[disk.adata.obs["donor"].isin(donors)])
    for epoch in range(3):
        assert Counter(cell for at, cell in record.cells if at == epoch) == Counter(expected)


@pytest.mark.parametrize("n_threads", [2, 3])
@pytest.mark.parametrize("source", ["atlas", "file"])
def test_threads_change_no_number(disk, tmp_path, n_threads, source):
    def train(n):
        data = {"loader_threads": n, "backed": source == "file", "balance_key": "rare"}
        return recording.train(getattr(disk, source), recording.changed(data=data), tmp_path / f"{n}")

    one, several = train(1), train(n_threads)
    assert one.cells == several.cells
    assert all(torch.equal(one.parameters[name], several.parameters[name]) for name in one.parameters)


def test_a_file_can_be_streamed_as_it_is(disk, tmp_path, caplog):
    in_memory = recording.train(disk.adata, recording.SETTINGS, tmp_path / "memory")
    with caplog.at_level(logging.INFO):
        backed = recording.train(disk.file, recording.changed(data={"backed": True}), tmp_path / "run")
    assert Counter(backed.cells) == Counter(in_memory.cells)
    assert read_split(tmp_path / "run")["donors"] == read_split(tmp_path / "memory")["donors"]
    assert "cells.h5ad is read from disk" in caplog.text


def test_without_a_donor_an_atlas_is_split_by_a_rule(disk, tmp_path, caplog):
    settings = recording.changed(data={"donor_key": None, "validation_fraction": 0.25})
    record = recording.train(disk.atlas, settings, tmp_path / "run")
    assert read_split(tmp_path / "run") == {
        "unit": "cell",
        "rule": {"seed": 0, "validation_fraction": 0.25, "test_fraction": 0.0},
    }
    n_train = read_manifest(tmp_path / "run")["data"]["n_train"]
    assert 200 < n_train < 250 and len(set(record.cells)) == 3 * n_train
    assert "No donor column is named" in caplog.text


@pytest.mark.parametrize("source", ["atlas", "file", "adata"])
def test_only_the_cells_of_a_query_are_trained_on(disk, tmp_path, source):
    query = "assay == 'assay 1' and n_counts > 20"
    settings = recording.changed(data={"where": query, "backed": source == "file"})
    record = recording.train(getattr(disk, source), settings, tmp_path / "run")
    kept = disk.adata[disk.adata.obs.query(query).index]
    kept = kept[kept.obs["donor"].isin(donors_of(tmp_path / "run")["train"])]
    assert {cell for _, cell in record.cells} == set(checksums_of(kept))
    assert len(record.cells) == 3 * kept.n_obs


def test_a_rare_kind_comes_as_often_as_a_common_one(disk, tmp_path):
    settings = recording.changed(data={"balance_key": "rare"}, training={"max_epochs": 12})
    record = recording.train(disk.atlas, settings, tmp_path / "run")
    rare = set(checksums_of(disk.adata[disk.adata.obs["rare"] == "rare"]))
    share = np.mean([cell in rare for _, cell in record.cells])
    assert 0.4 < share < 0.6
    assert len(record.cells) == 12 * read_manifest(tmp_path / "run")["data"]["n_train"]


def test_views_that_mix_batches_get_the_batch_of_each_cell(disk, tmp_path, monkeypatch):
    assay = dict(zip(checksums_of(disk.adata), disk.adata.obs["assay"].cat.codes, strict=True))
    step, seen = ObjectiveModule.training_step, []

    def training_step(self, minibatch, batch_idx):
        codes = minibatch.codes["batch"].tolist()
        seen.extend(zip(codes, [assay[cell] for cell in recording.checksums(minibatch)], strict=True))
        return step(self, minibatch, batch_idx)

    monkeypatch.setattr(ObjectiveModule, "training_step", training_step)
    settings = {
        **recording.changed(data={"batch_key": "assay"}),
        "pretext": {"name": "barlow_twins", "views": [{"name": "mix_neighbors", "among": "bbknn"}]},
    }
    settings["pretext"]["projector_sizes"] = [10, 6]
    pretrain(disk.atlas, build(PretrainSettings, settings), out=tmp_path / "run", show_progress=False)
    assert len(seen) == 3 * 234 and all(given == true for given, true in seen)
    assert {given for given, _ in seen} == {0, 1}


def test_what_is_appended_meanwhile_changes_nothing(disk, tmp_path, monkeypatch):
    other = simulate_cells(n_cells=80, n_genes=60, n_types=3, n_donors=5, seed=9)
    other.obs = other.obs.assign(assay="assay 0", n_counts=1.0, rare="common")
    other.write_h5ad(tmp_path / "other.h5ad")
    build_atlas([disk.file], tmp_path / "atlas", shard_cells=70)
    expected = recording.train(tmp_path / "atlas", recording.SETTINGS, tmp_path / "plain")
    step, appended = ObjectiveModule.training_step, []

    def training_step(self, minibatch, batch_idx):
        if self.global_step == 2:
            appended.append(append_to_atlas(tmp_path / "atlas", [tmp_path / "other.h5ad"]).n_cells)
        return step(self, minibatch, batch_idx)

    monkeypatch.setattr(ObjectiveModule, "training_step", training_step)
    record = recording.train(tmp_path / "atlas", recording.SETTINGS, tmp_path / "run")
    assert appended == [380]
    assert record.cells == expected.cells
    assert all(torch.equal(record.parameters[name], value) for name, value in expected.parameters.items())
    with pytest.raises(InputError, match="cannot be resumed: its data's fingerprint was"):
        pretrain(tmp_path / "atlas", out=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"layer": "counts"}, r"leave layer \(--layer\) out"),
        ({"gene_column": "symbol"}, r"leave gene_column \(--gene-column\) out"),
        ({"scale": "log1p"}, r"leave scale \(data\.scale, --scale\) out"),
        ({"donor_key": "doner"}, r"no column 'doner' in obs to use as donor\. Did you mean 'donor'"),
        ({"donor_key": "n_counts"}, "holds a number for each cell, not one of a few names"),
        ({"where": "assay == 'none'"}, "selects none of the 300 cells"),
        ({"where": "tissue == 'lung'"}, "no such column in obs"),
        ({"where": "assay ="}, "sets a value"),
        ({"balance_key": "kind"}, "no column 'kind' in obs to use as balance_key"),
    ],
)
def test_what_an_atlas_cannot_do_is_said(disk, tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        pretrain(disk.atlas, build(PretrainSettings, recording.changed(data=data)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_cells_in_memory_cannot_be_streamed(disk, tmp_path):
    settings = build(PretrainSettings, recording.changed(data={"backed": True}))
    with pytest.raises(InputError, match="Only a file can be read from disk while it is streamed: give its path"):
        pretrain(disk.adata, settings, out=tmp_path / "run")


def test_a_file_without_counts_in_some_cells_is_not_streamed(disk, tmp_path):
    adata = anndata.read_h5ad(disk.file)
    adata.X = sp.csr_matrix(sp.diags((np.arange(300) != 7).astype(np.float32)) @ adata.X)
    adata.X.eliminate_zeros()
    adata.write_h5ad(tmp_path / "empty.h5ad")
    settings = build(PretrainSettings, recording.changed(data={"backed": True}))
    with pytest.raises(InputError, match=r"has no counts\. Remove such cells first, or build an atlas"):
        pretrain(tmp_path / "empty.h5ad", settings, out=tmp_path / "run")
