import logging

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from selfcell.core.errors import InputError
from selfcell.data.counts import find_counts, log_normalize
from selfcell.data.source import open_cells


def log_normalized(counts):
    dense = counts.toarray()
    return np.log1p(dense / dense.sum(axis=1, keepdims=True) * 10_000)


def test_counts_are_found_in_x(adata):
    found = find_counts(adata)
    assert found.address == "X" and found.scale == "counts"
    assert (found.matrix != adata.X).nnz == 0


def test_a_counts_layer_is_preferred_to_x(adata):
    adata.layers["counts"] = adata.X * 2
    assert find_counts(adata).address == "layers['counts']"


def test_a_counts_layer_without_counts_is_passed_over_with_a_warning(adata, caplog):
    adata.layers["counts"] = adata.X * 0.5
    with caplog.at_level(logging.INFO, logger="selfcell"):
        assert find_counts(adata).address == "X"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "Counts are taken from X, since layers['counts'] has fractional values" in record.getMessage()


def test_counts_in_raw_are_found_with_their_own_genes(adata):
    adata.raw = adata.copy()
    reduced = adata[:, :10].copy()
    reduced.X = log_normalized(reduced.X)
    found = find_counts(reduced)
    assert found.address == "raw.X" and found.matrix.shape == (300, 60) and len(found.var) == 60


def test_dense_integer_counts_are_taken(adata):
    dense = anndata.AnnData(adata.X.toarray().astype(int), obs=adata.obs, var=adata.var)
    assert (find_counts(dense).matrix != adata.X).nnz == 0


def test_log_normalized_data_are_refused_and_the_mend_is_named(adata):
    adata.X = log_normalized(adata.X)
    with pytest.raises(
        InputError, match=r"X has fractional values .*looks log-normalized\. .*--layer NAME.*--scale log1p"
    ):
        find_counts(adata)


def test_scaled_data_are_refused(adata):
    adata.X = log_normalized(adata.X) - 1
    with pytest.raises(InputError, match=r"X has negative values \(smallest -1\), so it looks scaled"):
        find_counts(adata)


def test_a_layer_that_holds_counts_is_pointed_out(adata):
    adata.layers["umi"] = adata.X.copy()
    adata.X = log_normalized(adata.X)
    with pytest.raises(InputError, match=r"layers\['umi'\] holds counts: pass layer='umi' \(--layer umi\)"):
        find_counts(adata)


def test_normalized_but_not_logged_data_are_refused(adata):
    adata.X = adata.X.toarray() * 1.37
    with pytest.raises(InputError, match=r"normalized but not logged.*--scale counts"):
        find_counts(adata)
    assert find_counts(adata, scale="counts").address == "X"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(adata, value):
    adata.X = adata.X.toarray()
    adata.X[3, 4] = value
    with pytest.raises(InputError, match=r"X has values that are NaN or infinite"):
        find_counts(adata)


def test_no_matrix_at_all_is_refused(adata):
    empty = anndata.AnnData(obs=adata.obs, var=adata.var)
    with pytest.raises(InputError, match=r"X, raw\.X and layers\['counts'\] are all missing"):
        find_counts(empty)


def test_an_unknown_layer_is_refused_with_the_nearest_one(adata):
    adata.layers["counts"] = adata.X
    with pytest.raises(InputError, match=r"There is no layer 'count'\. Did you mean 'counts'\?"):
        find_counts(adata, layer="count")


def test_undoing_log1p_gives_what_the_counts_would_have_given(adata):
    expected = log_normalize(find_counts(adata).matrix).toarray()
    adata.X = log_normalized(adata.X)
    undone = find_counts(adata, scale="log1p")
    assert undone.scale == "log1p"
    np.testing.assert_allclose(log_normalize(undone.matrix).toarray(), expected, rtol=1e-4)


def test_raw_counts_are_not_taken_for_log1p(adata):
    with pytest.raises(InputError, match=r"X reaches .*, too large for log1p values"):
        find_counts(adata, scale="log1p")


def test_log_normalize_agrees_with_the_written_out_formula(adata):
    counts = sp.csr_matrix(adata.X)
    np.testing.assert_allclose(log_normalize(counts).toarray(), log_normalized(counts), rtol=1e-5)


def test_finding_counts_changes_nothing(adata):
    before = adata.copy()
    find_counts(adata)
    assert (adata.X != before.X).nnz == 0 and list(adata.layers) == []


def test_unsorted_entries_duplicates_and_zeros_are_tidied_in_a_copy():
    data, indices = np.array([1, 2, 3, 0, 5], dtype=np.float32), np.array([2, 0, 2, 1, 1], dtype=np.int32)
    matrix = sp.csr_matrix((data.copy(), indices.copy(), np.array([0, 3, 5])), shape=(2, 3))
    adata = anndata.AnnData(matrix)
    found = find_counts(adata).matrix
    assert found.toarray().tolist() == [[2, 0, 4], [0, 5, 0]] and found.has_canonical_format and found.nnz == 3
    assert (adata.X.data == data).all() and (adata.X.indices == indices).all()


def test_an_empty_object_is_refused(adata):
    with pytest.raises(InputError, match=r"adata is empty: 0 cells x 60 genes"):
        open_cells(adata[:0])
