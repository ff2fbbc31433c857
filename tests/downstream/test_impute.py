import logging

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

import selfcell
from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.data.counts import log_normalize
from selfcell.downstream.decoding import expected_counts, expected_expression, load_autoencoder
from selfcell.downstream.impute import impute, impute_to_file
from selfcell.training.pretrain import pretrain
from selfcell.training.settings import PretrainSettings


@pytest.fixture
def file(adata, tmp_path):
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    return path


def test_the_layer_holds_what_the_decoder_expects(adata, model, cells):
    before = adata.copy()
    selfcell.impute(adata, model)
    expected = expected_expression(load_autoencoder(model), cells.counts)
    assert adata.layers["imputed"].dtype == np.float32
    np.testing.assert_allclose(adata.layers["imputed"], expected, atol=1e-5)
    assert adata.uns["selfcell"]["imputed"]["values"] == "log1p"
    assert abs(adata.X - before.X).max() == 0 and list(adata.obs) == list(before.obs)


def test_counts_are_at_the_cells_own_depth(adata, model, cells):
    impute(adata, model, as_counts=True, layer_added="expected")
    np.testing.assert_allclose(
        adata.layers["expected"], expected_counts(load_autoencoder(model), cells.counts), rtol=1e-4, atol=1e-5
    )
    assert adata.uns["selfcell"]["expected"]["values"] == "counts"


def test_imputed_expression_is_nearer_to_the_truth_than_gene_means(adata, model, cells):
    impute(adata, model)
    truth = log_normalize(cells.counts).toarray()
    means = truth.mean(axis=0, keepdims=True)
    assert ((adata.layers["imputed"] - truth) ** 2).mean() < ((means - truth) ** 2).mean()


def test_cells_at_once_change_nothing(adata, model):
    impute(adata, model, cells_at_once=300)
    impute(adata, model, cells_at_once=7, layer_added="in_blocks")
    np.testing.assert_allclose(adata.layers["in_blocks"], adata.layers["imputed"], atol=1e-5)


def test_genes_stand_in_the_order_of_the_cells_and_unknown_ones_are_nan(adata, model):
    impute(adata, model)
    order = np.random.default_rng(0).permutation(60)
    shuffled = adata[:, order].copy()
    del shuffled.layers["imputed"]
    shuffled.var_names = [name if name != "GENE3" else "OTHER" for name in shuffled.var_names]
    lacking = adata.copy()
    lacking.X = sp.csr_matrix(lacking.X.multiply(np.arange(60) != 3))
    impute(lacking, model)
    impute(shuffled, model)
    other = list(shuffled.var_names).index("OTHER")
    assert np.isnan(shuffled.layers["imputed"][:, other]).all()
    known = np.arange(60) != other
    np.testing.assert_allclose(
        shuffled.layers["imputed"][:, known], lacking.layers["imputed"][:, order][:, known], atol=1e-4
    )


def test_a_file_holds_what_impute_gives_whatever_the_blocks(adata, model, file, tmp_path):
    out = tmp_path / "out.h5ad"
    assert impute_to_file(file, model, out, cells_at_once=7) == (300, 60)
    impute(adata, model)
    written = anndata.read_h5ad(out)
    np.testing.assert_allclose(written.layers["imputed"], adata.layers["imputed"], atol=1e-5)
    assert written.uns["selfcell"]["imputed"]["values"] == "log1p"
    assert abs(written.X - adata.X).max() == 0
    assert (anndata.read_h5ad(out, backed="r").layers["imputed"][:] == written.layers["imputed"]).all()
    assert not list(tmp_path.glob(".*partial*"))


def test_a_file_that_has_the_layer_from_us_gets_a_new_one(model, file, tmp_path):
    impute_to_file(file, model, tmp_path / "one.h5ad")
    impute_to_file(tmp_path / "one.h5ad", model, tmp_path / "two.h5ad", as_counts=True)
    assert anndata.read_h5ad(tmp_path / "two.h5ad").uns["selfcell"]["imputed"]["values"] == "counts"


def test_named_genes_alone_are_written_in_their_order(adata, model, file, tmp_path):
    impute(adata, model)
    impute_to_file(file, model, tmp_path / "some.h5ad", genes=["GENE7", "GENE2", "GENE7"])
    written = anndata.read_h5ad(tmp_path / "some.h5ad")
    assert list(written.var_names) == ["GENE7", "GENE2"]
    np.testing.assert_allclose(written.layers["imputed"], adata.layers["imputed"][:, [7, 2]], atol=1e-5)


def test_genes_are_found_by_the_symbols_of_the_file(adata, model, tmp_path, caplog):
    adata.var["symbol"] = adata.var_names
    adata.var_names = [f"ENSG{place:011}" for place in range(adata.n_vars)]
    adata.write_h5ad(tmp_path / "ensembl.h5ad")
    impute_to_file(tmp_path / "ensembl.h5ad", model, tmp_path / "one.h5ad", genes=["GENE7"])
    assert list(anndata.read_h5ad(tmp_path / "one.h5ad").var_names) == ["ENSG00000000007"]
    with caplog.at_level(logging.INFO, logger="selfcell"):
        adata.var["symbol"] = [f"X{name}" if name == "GENE7" else name for name in adata.var["symbol"]]
        impute(adata, model)
    assert "1 of 60 genes are not among the encoder's: they are NaN" in caplog.text
    adata.write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(InputError, match="XGENE7 is not among the 60 genes of"):
        impute_to_file(tmp_path / "other.h5ad", model, tmp_path / "two.h5ad", genes=["XGENE7"])


def test_an_interrupted_file_leaves_nothing(model, file, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("stopped")

    monkeypatch.setattr("selfcell.downstream.impute.expected_expression", fail)
    before = set(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="stopped"):
        impute_to_file(file, model, tmp_path / "out.h5ad")
    assert set(tmp_path.iterdir()) == before


def test_what_cannot_be_imputed_is_refused(adata, model, file, tmp_path):
    adata.layers["imputed"] = adata.X.copy()
    with pytest.raises(InputError, match=r"layers\['imputed'\] is there already .* choose another layer_added"):
        impute(adata, model)
    with pytest.raises(InputError, match=r"'a/b' cannot be the name of a layer: choose another layer_added"):
        impute(adata, model, layer_added="a/b")
    with pytest.raises(InputError, match=r"layers\['counts'\] is where raw counts are looked for"):
        impute(adata, model, layer_added="counts")
    out = tmp_path / "out.h5ad"
    with pytest.raises(InputError, match=r"There is no gene 'GEN7' in the cells\. Did you mean 'GENE7'\?"):
        impute_to_file(file, model, out, genes=["GEN7"])
    adata.var_names = ["OTHER", *adata.var_names[1:]]
    del adata.layers["imputed"]
    adata.write_h5ad(file)
    with pytest.raises(
        InputError,
        match=r"OTHER is not among the 60 genes of .* can be imputed\. Leave it out, or pre-train on more",
    ):
        impute_to_file(file, model, out, genes=["OTHER"])
    assert not out.exists()


def test_counts_in_raw_are_refused(adata, model):
    adata.raw = adata
    adata.X = log_normalize(adata.X)
    with pytest.raises(InputError, match=r"The counts are in raw\.X, .* adata\.raw\.to_adata\(\)"):
        impute(adata, model)


def test_a_model_without_decoder_says_how_to_get_one(adata, tmp_path):
    settings = {
        "pretext": {"name": "byol"}, "network": {"hidden_sizes": [16]}, "data": {"donor_key": "donor"},
        "training": {"max_epochs": 1, "minibatch_size": 64, "device": "cpu"},
    }  # fmt: skip
    byol = pretrain(adata, build(PretrainSettings, settings), out=tmp_path / "byol", show_progress=False)
    with pytest.raises(InputError, match=r"pre-trained by byol, .* selfcell finetune RUN CELLS --task reconstruction"):
        impute(adata, byol)
