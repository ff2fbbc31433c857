"""A file in CELLxGENE's schema through the commands, without a word about where things are in it."""

import json
import tomllib

import anndata
import numpy as np
import pandas as pd
import pytest

QUICK = ["--set", "training.max_epochs=2", "--set", "training.device=cpu"]


@pytest.fixture
def census(adata, tmp_path):
    made = anndata.AnnData(
        adata.X.copy(),
        obs=pd.DataFrame(
            {
                "cell_type": adata.obs["cell_type"].astype("category"),
                "cell_type_ontology_term_id": pd.Categorical(["CL:0000236"] * 300),
                "donor_id": adata.obs["donor"].astype("category"),
                "is_primary_data": np.arange(300) >= 60,
                "assay": pd.Categorical(["10x 3' v3"] * 300),
            }
        ),
        var=pd.DataFrame({"feature_name": list(adata.var_names)}, index=[f"ENSG{number:011d}" for number in range(60)]),
    )
    made.raw = made.copy()
    made.X = made.X.copy()
    made.X.data = np.log1p(made.X.data * 3.5)
    made.write_h5ad(tmp_path / "census.h5ad")
    return tmp_path / "census.h5ad"


def test_pretrain_embed_and_evaluate_need_no_options(run, census, tmp_path):
    small = ["--set", "network.hidden_sizes=[32]", "--set", "network.n_latent=8"]
    code, _, errors = run("pretrain", census, "--out", tmp_path / "run", *QUICK, *small)
    assert code == 0 and "Donors are those of obs['donor_id']" in errors and "raw.X" in errors
    assert "Warning: 60 of 300 cells are not primary data" in errors
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["composition"] == {"assay": {"10x 3' v3": 300}}
    code, _, errors = run("embed", tmp_path / "run", census, "--out", tmp_path / "embedded.h5ad")
    assert code == 0 and anndata.read_h5ad(tmp_path / "embedded.h5ad").obsm["X_selfcell"].shape == (300, 8)
    code, _, errors = run(
        "evaluate", tmp_path / "run", census, "--out", tmp_path / "judged", "--regime",
        "zero_shot", "--baseline", "pca_knn", "--seeds", "1", "--jobs", "1", *QUICK,
    )  # fmt: skip
    assert code == 0 and "Donors are those of obs['donor_id']" in errors
    assert "Types are those of obs['cell_type'], as no column is named. Another: --label COLUMN" in errors
    about = json.loads((tmp_path / "judged" / "study.json").read_text())
    assert about["donor_key"] == "donor_id" and about["label_key"] == "cell_type"
    code, _, errors = run("benchmark", "init", census, "--out", tmp_path / "plan.toml")
    assert code == 0 and "Donors are those of obs['donor_id']" in errors and "Types are those of" in errors
    plan = tomllib.loads((tmp_path / "plan.toml").read_text())
    assert plan["cells"]["mine"] == {"source": "census.h5ad", "label": "cell_type", "donor": "donor_id"}


def test_copies_and_donors_can_be_left_out(run, census, tmp_path):
    small = ["--set", "network.hidden_sizes=[32]", "--set", "network.n_latent=8"]
    code, _, errors = run(
        "pretrain", census, "--out", tmp_path / "run", "--where", "is_primary_data", "--donor", "", *QUICK, *small
    )
    assert code == 0 and "240 of 300 cells are used" in errors and "not primary data" not in errors
    assert "No donor column is named" in errors
    code, _, errors = run(
        "finetune", tmp_path / "run", census, "--validation-fraction", "0.2", "--out",
        tmp_path / "typed", *QUICK,
    )  # fmt: skip
    assert code == 0 and "Donors are those of obs['donor_id']" in errors and "not primary data" in errors
    assert json.loads((tmp_path / "typed" / "split.json").read_text())["unit"] == "donor_id"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_scvi_trains_on_a_file_that_embed_wrote(run, adata, model, tmp_path):
    scvi = pytest.importorskip("scvi")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    assert run("embed", model.path, tmp_path / "cells.h5ad", "--out", tmp_path / "embedded.h5ad")[0] == 0
    read = anndata.read_h5ad(tmp_path / "embedded.h5ad")
    assert (adata.X != read.X).nnz == 0 and "X_selfcell" in read.obsm
    scvi.model.SCVI.setup_anndata(read, batch_key="batch")
    trained = scvi.model.SCVI(read, n_hidden=8, n_latent=4)
    trained.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False, logger=False)
    assert trained.get_latent_representation().shape == (read.n_obs, 4)
