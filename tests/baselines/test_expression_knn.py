import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.neighbors import NearestNeighbors

from selfcell.baselines import expression_knn
from selfcell.baselines.expression_knn import most_similar


@pytest.fixture
def matrices(rng):
    dense = rng.gamma(1.0, size=(90, 40)) * (rng.random((90, 40)) < 0.3)
    dense[:, 0] += 0.1
    return sp.csr_matrix(dense[:60], dtype=np.float32), sp.csr_matrix(dense[60:], dtype=np.float32)


@pytest.mark.parametrize("dense_from", [0.0, 1.0])
@pytest.mark.parametrize("block_entries", [1, 500, 10**6])
def test_neighbors_are_those_of_scikit_learn(matrices, monkeypatch, dense_from, block_entries):
    monkeypatch.setattr(expression_knn, "DENSE_FROM", dense_from)
    monkeypatch.setattr(expression_knn, "BLOCK_ENTRIES", block_entries)
    reference, query = matrices
    index = NearestNeighbors(n_neighbors=7, metric="cosine", algorithm="brute").fit(reference.toarray())
    distances, indices = index.kneighbors(query.toarray())
    found = most_similar(reference, query, n_neighbors=7)
    assert (found.indices == indices).all()
    np.testing.assert_allclose(found.distances, np.sqrt(2 * distances), atol=1e-3)


def test_more_neighbors_than_cells_are_all_cells(matrices):
    reference, query = matrices
    found = most_similar(reference[:4], query, n_neighbors=9)
    assert (np.sort(found.indices, axis=1) == np.arange(4)).all()


def test_depth_does_not_matter(matrices):
    reference, query = matrices
    found, deeper = (most_similar(reference, cells, n_neighbors=5) for cells in (query, query * 3))
    assert (found.indices == deeper.indices).all()
