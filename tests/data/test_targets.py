import logging

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from selfcell.core.errors import InputError
from selfcell.data.targets import read_targets


@pytest.fixture
def both(rng) -> anndata.AnnData:
    """Cells with proteins, peaks and values."""
    peaks = sp.random(6, 5, density=0.5, format="csc", random_state=rng)
    peaks.data = np.ceil(peaks.data * 3)
    adata = anndata.AnnData(np.ones((6, 3), dtype=np.float32))
    adata.obsm["protein_counts"] = rng.poisson(3, size=(6, 4)).astype(float)
    adata.uns["protein_names"] = np.array(["CD3", "CD4", "CD8a", "HLA-DR"], dtype=object)
    adata.obsm["atac_counts"] = peaks
    adata.uns["atac_names"] = [f"chr1:{start}-{start + 50}" for start in range(5)]
    adata.obsm["spatial"] = rng.normal(size=(6, 2))
    return adata


def test_proteins_are_dense_and_named(both):
    targets = read_targets(both, "protein_counts")
    assert targets.names == ("CD3", "CD4", "CD8a", "HLA-DR") and targets.kind == "protein_counts"
    assert targets.matrix.dtype == np.float32 and (targets.matrix == both.obsm["protein_counts"]).all()
    both.obsm["protein_counts"] = sp.csr_matrix(both.obsm["protein_counts"])
    assert (read_targets(both, "protein_counts").matrix == targets.matrix).all()


def test_peaks_are_sparse_rows(both):
    targets = read_targets(both, "atac_counts")
    assert targets.kind == "chromatin_counts" and targets.names[1] == "chr1:1-51"
    assert sp.isspmatrix_csr(targets.matrix) and targets.matrix.dtype == np.float32
    assert (targets.matrix.toarray() == both.obsm["atac_counts"].toarray()).all()


def test_a_table_names_its_columns(both):
    both.obsm["protein_counts"] = pd.DataFrame({"a": range(6), "b": 1}, index=both.obs_names)
    assert read_targets(both, "protein_counts").names == ("a", "b")
    both.uns["other"] = ["c", "d"]
    assert read_targets(both, "protein_counts", names_key="other").names == ("c", "d")


def test_what_has_no_names_is_numbered(both, caplog):
    with caplog.at_level(logging.INFO, logger="selfcell"):
        targets = read_targets(both, "spatial")
    assert targets.names == ("spatial_0", "spatial_1") and targets.kind == "values"
    assert "obsm['spatial'] has no names in uns['spatial_names']: its columns are numbered" in caplog.text


@pytest.mark.parametrize(("key", "kind"), [("ADT", "protein_counts"), ("X_atac", "chromatin_counts")])
def test_whole_numbers_are_counts_whatever_the_key_is_called(both, key, kind, caplog):
    both.obsm[key] = both.obsm["protein_counts"]
    with caplog.at_level(logging.INFO, logger="selfcell"):
        assert read_targets(both, key).kind == kind
    assert f"obsm['{key}'] has whole numbers, so they are taken for counts (kind={kind})" in caplog.text
    both.obsm["categories"] = np.eye(6)[:, :2]
    both.obsm["fractions"] = both.obsm["protein_counts"] / 3
    assert read_targets(both, "categories").kind == read_targets(both, "fractions").kind == "values"


def test_cells_and_targets_can_be_chosen(both):
    for key in ("protein_counts", "atac_counts"):
        targets = read_targets(both, key)
        some = targets.subset(np.array([4, 1])).columns(np.array([2, 0]))
        dense = sp.csr_matrix(targets.matrix).toarray()
        assert (sp.csr_matrix(some.matrix).toarray() == dense[[4, 1]][:, [2, 0]]).all()
        assert some.names == (targets.names[2], targets.names[0]) and len(some) == 2


def test_a_file_gives_the_same_targets(both, tmp_path):
    both.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    for key in ("protein_counts", "atac_counts"):
        assert read_targets(again, key).names == read_targets(both, key).names


def test_an_unknown_key_is_refused_with_the_nearest_one(both):
    with pytest.raises(
        InputError, match=r"nothing in obsm\['protein_count'\] to predict\. Did you mean 'protein_counts'"
    ):
        read_targets(both, "protein_count")
    with pytest.raises(InputError, match=r"nothing in uns\['protein_name'\]\. Did you mean 'protein_names'"):
        read_targets(both, "protein_counts", names_key="protein_name")


@pytest.mark.parametrize(
    ("value", "fault"),
    [(-1.0, "has negative values"), (0.5, "has fractional values"), (np.nan, "has values that are NaN or infinite")],
)
def test_what_is_no_count_is_refused(both, value, fault):
    both.obsm["protein_counts"][2, 1] = value
    with pytest.raises(InputError, match=rf"obsm\['protein_counts'\] {fault}.*counts are needed.*kind='values'"):
        read_targets(both, "protein_counts")


def test_any_numbers_may_be_called_values(both):
    both.obsm["protein_counts"][2, 1] = -0.5
    assert read_targets(both, "protein_counts", kind="values").matrix[2, 1] == -0.5
    both.obsm["protein_counts"][2, 1] = np.inf
    with pytest.raises(InputError, match=r"NaN or infinite\. Drop these cells, or fill the values in"):
        read_targets(both, "protein_counts", kind="values")


def test_columns_of_words_are_refused(both):
    both.obsm["protein_counts"] = pd.DataFrame({"a": 1, "b": "x"}, index=both.obs_names)
    with pytest.raises(InputError, match=r"Column 'b' of obsm\['protein_counts'\] has no numbers"):
        read_targets(both, "protein_counts")


def test_names_that_do_not_fit_are_refused(both):
    both.uns["protein_names"] = ["a", "b", "c"]
    with pytest.raises(
        InputError, match=r"uns\['protein_names'\] has 3 names, but obsm\['protein_counts'\] has 4 columns"
    ):
        read_targets(both, "protein_counts")
    both.uns["protein_names"] = ["a", "b", "c", "a"]
    with pytest.raises(InputError, match=r"1 names stand more than once in uns\['protein_names'\], for example 'a'"):
        read_targets(both, "protein_counts")
