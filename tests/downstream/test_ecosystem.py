"""Files as others make them, without options, and what others do with what we write: scanpy, MuData, CELLxGENE."""

import logging
from pathlib import Path

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import selfcell
from selfcell.core.errors import InputError
from selfcell.data.cellxgene import donor_column, warn_of_copies
from selfcell.data.simulate import simulate_cells
from selfcell.data.source import open_cells, read_adata
from selfcell.data.stream import open_any
from selfcell.training.pretrain import pretrain

QUICK = {
    "network": {"hidden_sizes": [32], "n_latent": 8},
    "training": {"max_epochs": 2, "minibatch_size": 64, "device": "cpu"},
}


@pytest.fixture
def census():
    """Cells as CELLxGENE keeps them: counts in raw, normalized X, Ensembl ids, its columns of obs."""
    cells = simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, seed=0)
    counts = cells.X.copy()
    symbols = cells.var_names
    made = anndata.AnnData(
        counts,
        obs=pd.DataFrame(
            {
                "cell_type": cells.obs["cell_type"].to_numpy(),
                "cell_type_ontology_term_id": "CL:0000236",
                "donor_id": cells.obs["donor"].to_numpy(),
                "is_primary_data": np.arange(300) >= 60,
                "assay": "10x 3' v3",
                "tissue": "blood",
                "disease": "normal",
            },
            index=cells.obs_names,
        ).astype({"cell_type": "category", "donor_id": "category", "assay": "category"}),
        var=pd.DataFrame(
            {"feature_name": symbols.to_numpy(), "feature_is_filtered": False},
            index=[f"ENSG{number:011d}" for number in range(60)],
        ),
    )
    made.raw = made.copy()
    sc.pp.normalize_total(made, target_sum=1e4)
    sc.pp.log1p(made)
    return made


@pytest.fixture
def file(census, tmp_path):
    census.write_h5ad(tmp_path / "census.h5ad")
    return tmp_path / "census.h5ad"


def test_scanpy_works_on_what_embed_writes(adata, model, tmp_path):
    selfcell.embed(adata, model)
    adata.write_h5ad(tmp_path / "embedded.h5ad")
    read = sc.read_h5ad(tmp_path / "embedded.h5ad")
    sc.pp.neighbors(read, use_rep="X_selfcell", n_neighbors=10)
    assert read.obsp["connectivities"].shape == (300, 300)
    assert read.uns["neighbors"]["params"]["use_rep"] == "X_selfcell"
    neighbors = read.obsp["distances"].tocoo()
    types = read.obs["cell_type"].to_numpy()
    assert (types[neighbors.row] == types[neighbors.col]).mean() > 0.8
    sc.tl.diffmap(read, n_comps=4)
    read.write_h5ad(tmp_path / "again.h5ad")


def test_a_mudata_is_embedded_in_place_and_written_as_one(adata, model, rng, tmp_path):
    proteins = anndata.AnnData(rng.poisson(3, (300, 4)).astype(np.float32), obs=pd.DataFrame(index=adata.obs_names))
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData({"rna": adata, "prot": proteins})
        selfcell.embed(mdata["rna"], model)
        mdata.write(tmp_path / "cells.h5mu")
        again = mudata.read_h5mu(tmp_path / "cells.h5mu")
    assert again["rna"].obsm["X_selfcell"].shape == (300, 16)
    assert again["rna"].uns["selfcell"]["X_selfcell"]["counts_from"] == "X"


@pytest.mark.parametrize("call", ["embed", "annotate", "impute", "predict_modality"])
def test_nothing_is_written_into_a_mudata_whose_cells_are_in_another_order(adata, model, rng, call):
    proteins = anndata.AnnData(
        rng.poisson(3, (300, 4)).astype(np.float32), obs=pd.DataFrame(index=adata.obs_names[::-1])
    )
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData({"prot": proteins, "rna": adata})
    with pytest.raises(InputError, match=rf"written into an AnnData, .*MuData.*selfcell\.{call}\(mdata\['rna'\]"):
        getattr(selfcell, call)(mdata, model)


@pytest.mark.parametrize("call", ["embed", "annotate", "impute", "predict_modality"])
@pytest.mark.parametrize(
    ("path", "reader"),
    [
        ("cells.h5ad", r"anndata\.read_h5ad\('cells\.h5ad'\)\."),
        (Path("cells.zarr"), r"anndata\.read_zarr\('cells\.zarr'\)\."),
        ("cells.h5mu", r"mudata\.read_h5mu\('cells\.h5mu'\)\['rna'\]\."),
    ],
)
def test_a_path_is_to_be_read_first_or_given_to_the_command(model, call, path, reader):
    command = {"predict_modality": "predict"}.get(call, call)
    with pytest.raises(
        InputError, match=rf"but this is a path, '{path}'\. Read it first: adata = {reader}.*selfcell {command} MODEL"
    ) as raised:
        getattr(selfcell, call)(path, model)
    assert "MuData" not in str(raised.value)


def test_a_modality_is_named_behind_the_file(adata, rng, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="selfcell")
    proteins = anndata.AnnData(rng.poisson(3, (300, 4)).astype(np.float32), obs=pd.DataFrame(index=adata.obs_names))
    with mudata.set_options(pull_on_update=False):
        mudata.MuData({"gex": adata, "prot": proteins}).write(tmp_path / "cells.h5mu")
    with pytest.raises(InputError, match=r"no modality 'rna' with the genes.*Known: gex, prot\..*cells\.h5mu/NAME"):
        read_adata(tmp_path / "cells.h5mu")
    cells = open_cells(tmp_path / "cells.h5mu" / "gex")
    assert cells.origin == "cells.h5mu/gex" and (cells.counts != adata.X).nnz == 0
    assert list(cells.obsm) == ["protein_counts"] and "Genes are those of modality 'gex' of gex, prot." in caplog.text
    with pytest.raises(InputError, match=r"no modality 'gez' with the genes\. Did you mean 'gex'"):
        read_adata(tmp_path / "cells.h5mu" / "gez")
    with pytest.raises(InputError, match="There is no file"):
        read_adata(tmp_path / "none.h5mu" / "gex")


def test_counts_symbols_and_donors_of_a_cellxgene_file_are_found(file, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="selfcell")
    model = pretrain(file, QUICK, out=tmp_path / "run", show_progress=False)
    assert "Counts are taken from raw.X, since X has fractional values" in caplog.text
    assert "Donors are those of obs['donor_id'], as no column is named" in caplog.text
    assert "60 of 300 cells are not primary data" in caplog.text and "--where is_primary_data" in caplog.text
    assert model.split["unit"] == "donor_id" and model.manifest["data"]["counts_from"] == "raw.X"
    assert model.genes.ids[1] == "ENSG00000000001" and model.genes.symbols[1]
    adata = anndata.read_h5ad(file)
    selfcell.embed(adata, model)
    assert adata.obsm["X_selfcell"].shape == (300, 8)


def test_cells_that_are_elsewhere_too_can_be_left_out(file, tmp_path, caplog):
    only = QUICK | {"data": {"where": "is_primary_data"}}
    model = pretrain(file, only, out=tmp_path / "run", show_progress=False)
    assert model.manifest["data"]["n_cells"] == 240 and "primary" not in caplog.text


def test_cells_are_warned_of_in_memory_and_on_disk_where_some_are_copies(census, file, caplog):
    streamed = open_any(file, backed=True)
    for cells in (open_cells(census), streamed):
        caplog.clear()
        warn_of_copies(cells)
        assert "60 of 300 cells are not primary data" in caplog.text
    caplog.clear()
    census.obs["is_primary_data"] = False
    warn_of_copies(open_cells(census))
    assert not caplog.text
    assert donor_column(streamed, None) == "donor_id"


@pytest.mark.parametrize(
    ("donors", "said"),
    [
        (["a", "b"], "it has 2 donors, and a split takes 3"),
        (["a", "b", "c", None], "75 cells have no value there"),
        ([f"d{number}" for number in range(300)], "it has 300 values for 300 cells"),
    ],
)
def test_donors_that_no_split_can_use_are_not_taken_and_it_is_said(census, donors, said, caplog):
    caplog.set_level(logging.INFO, logger="selfcell")
    census.obs["donor_id"] = pd.Categorical((donors * 300)[:300])
    assert donor_column(open_cells(census), None) is None
    assert f"obs['donor_id'] is not taken for the donors, as {said}" in caplog.text


def test_a_column_that_is_named_or_forbidden_is_not_replaced(census, cells):
    opened = open_cells(census)
    assert donor_column(opened, "tissue") == "tissue" and donor_column(opened, "") is None
    assert donor_column(cells, None) is None


def test_a_run_goes_on_with_the_donors_that_it_began_with(file, tmp_path):
    by_cell, by_donor = QUICK | {"data": {"donor_key": ""}}, QUICK
    more = {"training": {**QUICK["training"], "max_epochs": 3}}
    for name, settings in (("cell", by_cell), ("donor_id", by_donor)):
        out = tmp_path / name
        assert pretrain(file, settings, out=out, show_progress=False).split["unit"] == name
        model = pretrain(file, QUICK | more, out=out, resume=True, show_progress=False)
        assert model.split["unit"] == name and model.manifest["fit"]["epochs"] == 3


def test_what_was_set_aside_cell_by_cell_is_judged_on_though_there_are_donors(file, tmp_path, caplog):
    by_cell = QUICK | {"data": {"donor_key": "", "test_fraction": 0.3}}
    model = pretrain(file, by_cell, out=tmp_path / "run", show_progress=False)
    caplog.clear()
    scores = selfcell.evaluate(
        model, file, label_key="cell_type", regimes=["zero_shot"], baselines=[], n_seeds=1, jobs=1, show_progress=False
    )
    assert len(scores) and "Pre-training was given" not in caplog.text
