import numpy as np
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfcell.data.loader import cell_loader


def minibatch_of(counts, dtype=torch.float32):
    (minibatch,) = list(cell_loader(sp.csr_matrix(counts.astype(np.float32)), minibatch_size=len(counts)))
    minibatch.values = minibatch.values.to(dtype)
    return minibatch


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 10_000))
def test_expression_agrees_with_the_dense_formula_in_float64(n_cells, n_genes, seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.7, size=(n_cells, n_genes)).astype(float)
    library_size = counts.sum(axis=1, keepdims=True)
    expected = np.log1p(
        counts * np.divide(10_000, library_size, out=np.zeros_like(library_size), where=library_size > 0)
    )
    minibatch = minibatch_of(counts, dtype=torch.float64)
    np.testing.assert_allclose(minibatch.expression().numpy(), expected, rtol=1e-12)
    np.testing.assert_array_equal(minibatch.library_size.numpy(), library_size[:, 0])


def test_counts_without_the_zeros_are_the_counts():
    minibatch = minibatch_of(np.random.default_rng(0).poisson(0.7, size=(5, 9)))
    assert torch.equal(minibatch.sparse_counts().dense(), minibatch.counts())
