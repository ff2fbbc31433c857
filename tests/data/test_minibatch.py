import numpy as np
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from selfcell.data.loader import MinibatchSampler, cell_loader


def minibatch_of(counts, dtype=torch.float32):
    (minibatch,) = list(cell_loader(sp.csr_matrix(counts.astype(np.float32)), minibatch_size=len(counts)))
    minibatch.values = minibatch.values.to(dtype)
    return minibatch


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


def test_every_cell_comes_once_an_epoch_with_its_codes(cells):
    codes = {"row": np.arange(len(cells))}
    loader = cell_loader(cells.counts, codes=codes, minibatch_size=64, shuffle_seed=1)
    rows = torch.cat([minibatch.codes["row"] for minibatch in loader])
    assert sorted(rows.tolist()) == list(range(len(cells)))
    dense = torch.cat([minibatch.expression() for minibatch in loader])
    plain = torch.cat([minibatch.expression() for minibatch in cell_loader(cells.counts, minibatch_size=300)])
    torch.testing.assert_close(dense, plain[rows])
    assert len(loader) == 5


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = MinibatchSampler(20, minibatch_size=6, shuffle_seed=seed)
        sampler.set_epoch(epoch)
        return np.concatenate(list(sampler)).tolist()

    assert order(1, 3) == order(1, 3)
    assert order(1, 3) != order(1, 4) != order(2, 4)
    assert order(None, 5) == list(range(20))


def test_the_last_minibatch_may_be_smaller():
    assert [len(rows) for rows in MinibatchSampler(10, minibatch_size=4, shuffle_seed=0)] == [4, 4, 2]
