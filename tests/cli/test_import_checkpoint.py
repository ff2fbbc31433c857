"""A checkpoint of the paper's authors, from the command line."""

import anndata
import pandas as pd
import pytest
import torch
from torch import nn

SIZES = {"encoder.0": (60, 12), "encoder.3": (12, 8), "decoder.0.0": (8, 12), "decoder.0.3": (12, 60)}


@pytest.fixture
def checkpoint(tmp_path, adata):
    torch.manual_seed(0)
    linears = {name: nn.Linear(*sizes).state_dict() for name, sizes in SIZES.items()}
    state = {f"{name}.{part}": weight for name, linear in linears.items() for part, weight in linear.items()}
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    pd.DataFrame({"feature_name": adata.var_names}).to_parquet(tmp_path / "var.parquet")
    return tmp_path / "a.ckpt"


def test_a_checkpoint_becomes_a_model_that_embeds(run, file, checkpoint, tmp_path):
    command = ["import-checkpoint", checkpoint, "--genes", tmp_path / "var.parquet", "--out", tmp_path / "model"]
    code, out, errors = run(*command)
    assert code == 0 and "Imported: masked autoencoder, 60 genes to 8 dimensions, selu. The model is in" in out
    assert f"Next: selfcell embed {tmp_path / 'model'}" in out and "with layers 60-12-8" in errors
    assert run("embed", tmp_path / "model", file, "--out", tmp_path / "embedded.h5ad")[0] == 0
    assert anndata.read_h5ad(tmp_path / "embedded.h5ad").obsm["X_selfcell"].shape == (300, 8)

    code, out, errors = run(*command, "--overwrite", "--as-evaluated-in-paper")
    assert code == 0 and "8 dimensions, relu" in out and "Left out: decoder.*" in errors
    code, _, errors = run(*command)
    assert code == 1 and "exists already. Name another folder" in errors


def test_labels_without_a_classifier_are_refused(run, checkpoint, tmp_path):
    command = ["import-checkpoint", checkpoint, "--genes", tmp_path / "var.parquet", "--out", tmp_path / "model"]
    code, _, errors = run(*command, "--labels", tmp_path / "types.txt")
    assert code == 1 and "names the types of a classifier, but the checkpoint is of kind masked autoencoder" in errors
