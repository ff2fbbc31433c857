import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from selfcell.data.cell_hashes import CellHashes, hash_rows
from selfcell.data.simulate import simulate_cells
from selfcell.data.source import open_cells


def made(n_cells=60, seed=0, names=None):
    adata = simulate_cells(n_cells=n_cells, n_genes=80, n_types=2, n_donors=2, seed=seed)
    if names is not None:
        adata.obs_names = names
    return adata


def barcodes(n_cells, seed):
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACGT"), 12)) + "-1" for _ in range(n_cells)]


def found(adata, others):
    return CellHashes.of(open_cells(adata)).found_in(CellHashes.of(open_cells(others)))


def test_cells_are_known_again_in_any_order_among_others():
    whole, other = made(seed=0), made(seed=1)
    part = whole[[40, 3, 17]].copy()
    assert found(part, whole).all() and not found(other, whole).any()
    assert found(whole, part).nonzero()[0].tolist() == [3, 17, 40]


def test_names_tell_where_genes_were_left_out():
    whole = made(names=barcodes(60, 0))
    part = whole[:20].copy()
    part.X = part.X.multiply(np.arange(80) % 2 == 0).tocsr()
    assert found(part, whole).all()
    other = made(seed=1, names=[*barcodes(10, 0)[:10], *barcodes(50, 1)])
    assert not found(other, whole).any()


@pytest.mark.parametrize("pattern", ["{}", "cell {}", "lib1_{}"])
def test_numbered_names_say_nothing(pattern):
    names = [pattern.format(place) for place in range(60)]
    assert not found(made(seed=1, names=names), made(seed=0, names=names)).any()


@given(st.integers(0, 2**31))
def test_rows_are_hashed_by_what_they_hold(seed):
    rng = np.random.default_rng(seed)
    dense = rng.poisson(0.5, (6, 9)).astype(np.float32)
    counts = sp.csr_matrix(dense)
    expected = hash_rows(counts.indptr, counts.indices, counts.data)
    reversed_rows = [
        np.arange(start, stop)[::-1] for start, stop in zip(counts.indptr, counts.indptr[1:], strict=False)
    ]
    order = np.concatenate(reversed_rows).astype(int)
    shuffled = hash_rows(counts.indptr, counts.indices[order], counts.data[order])
    with_zeros = sp.csr_matrix(np.ones_like(dense))
    with_zeros.data = dense.ravel()
    np.testing.assert_array_equal(shuffled, expected)
    np.testing.assert_array_equal(hash_rows(with_zeros.indptr, with_zeros.indices, with_zeros.data), expected)
    same = (dense[:, None] == dense[None]).all(axis=2)
    np.testing.assert_array_equal(expected[:, None] == expected[None], same)
