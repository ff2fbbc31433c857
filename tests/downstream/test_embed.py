import anndata
import numpy as np
import pytest
import torch

import selfcell
from selfcell.core.errors import InputError
from selfcell.downstream import embed as module
from selfcell.downstream.embed import embed, embed_counts


def test_only_the_key_asked_for_and_provenance_are_written(adata, model, tmp_path):
    before = adata.copy()
    embed(adata, model, key_added="X_mine")
    assert list(adata.obsm) == ["X_mine"] and adata.obsm["X_mine"].shape == (300, 16)
    assert list(adata.uns) == ["selfcell"] and list(adata.uns["selfcell"]) == ["X_mine"]
    assert (adata.X != before.X).nnz == 0 and adata.obs.equals(before.obs) and adata.var.equals(before.var)
    record = adata.uns["selfcell"]["X_mine"]
    assert record["share_of_genes"] == 1.0 and record["counts_from"] == "X"
    adata.write_h5ad(tmp_path / "embedded.h5ad")
    again = anndata.read_h5ad(tmp_path / "embedded.h5ad")
    assert (again.obsm["X_mine"] == adata.obsm["X_mine"]).all()
    assert again.uns["selfcell"]["X_mine"]["model"] == str(model.path)


def test_an_embedding_does_not_depend_on_the_other_cells(adata, model, cells, monkeypatch):
    whole = embed_counts(model.encoder, cells.counts)
    monkeypatch.setattr(module, "CELLS_AT_ONCE", 7)
    np.testing.assert_allclose(embed_counts(model.encoder, cells.counts), whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(embed_counts(model.encoder, cells.counts[[17]]), whole[[17]], rtol=1e-4, atol=1e-5)


def test_an_embedding_does_not_depend_on_the_order_of_genes_or_on_depth(adata, model):
    embed(adata, model)
    shuffled = adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    shuffled.X = shuffled.X * 3
    embed(shuffled, model)
    np.testing.assert_allclose(shuffled.obsm["X_selfcell"], adata.obsm["X_selfcell"], rtol=1e-4, atol=1e-5)


def test_log_normalized_cells_embed_as_their_counts_when_told(adata, model):
    embed(adata, model)
    logged = adata.copy()
    dense = logged.X.toarray()
    logged.X = np.log1p(dense / dense.sum(axis=1, keepdims=True) * 10_000)
    with pytest.raises(InputError, match="--scale log1p"):
        embed(logged, model)
    embed(logged, model, scale="log1p")
    np.testing.assert_allclose(logged.obsm["X_selfcell"], adata.obsm["X_selfcell"], rtol=1e-3, atol=1e-4)


def test_an_embedding_agrees_with_the_encoder_on_dense_input(adata, model):
    embed(adata, model)
    dense = torch.tensor(adata.X.toarray())
    expression = torch.log1p(dense / dense.sum(dim=1, keepdim=True) * 10_000)
    expected = model.encoder(expression).numpy()
    np.testing.assert_allclose(adata.obsm["X_selfcell"], expected, rtol=1e-4, atol=1e-5)


def test_a_run_folder_does_for_a_model(adata, model):
    selfcell.embed(adata, str(model.path))
    assert "X_selfcell" in adata.obsm


def test_foreign_provenance_is_not_overwritten(adata, model):
    adata.uns["selfcell"] = "mine"
    with pytest.raises(InputError, match=r"adata\.uns\['selfcell'\] holds something else"):
        embed(adata, model)


def test_weights_that_give_nan_are_refused(adata, model, encoder, cells):
    with torch.no_grad():
        encoder.layers[0].weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        embed_counts(encoder, cells.counts)


def test_cells_that_lost_all_their_genes_are_refused(adata, model):
    part = adata[:, :35].copy()
    part.X = part.X.toarray()
    part.X[4] = 0
    with pytest.raises(
        InputError, match=r"1 of 300 cells in adata have no counts in the genes used \(the first is 'cell4'\)"
    ):
        embed(part, model)
