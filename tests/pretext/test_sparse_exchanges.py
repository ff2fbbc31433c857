import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfcell.data.minibatch import SparseExpression
from selfcell.network import kernels
from selfcell.pretext.sparse_exchanges import cross_sparse_cells, swap_sparse_genes

SHAPES = {
    "n_cells": st.integers(1, 5),
    "n_genes": st.integers(1, 30),
    "fraction": st.floats(0, 1),
    "seed": st.integers(0, 99),
}
BOTH = pytest.mark.parametrize("view", [swap_sparse_genes, cross_sparse_cells])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sparse(dense):
    dense = torch.as_tensor(dense, dtype=torch.float32)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (dense > 0).sum(dim=1).cumsum(0)])
    return SparseExpression(dense[dense > 0], (dense > 0).nonzero()[:, 1].int(), offsets, dense.shape[1])


def numbered(n_cells, n_genes, *, seed=0, share=0.6):
    """Cells in which each value tells where it came from; some are zero."""
    values = torch.arange(1.0, 1 + n_cells * n_genes).reshape(n_cells, n_genes)
    return values * (torch.rand(values.shape, generator=generator(seed)) < share)


@settings(max_examples=60)
@given(**SHAPES)
def test_swapping_exchanges_pairs_within_a_cell(n_cells, n_genes, fraction, seed):
    before = numbered(n_cells, n_genes, seed=seed)
    after = swap_sparse_genes(sparse(before), fraction=fraction, generator=generator(seed)).dense()
    assert torch.equal(after.sort(dim=1).values, before.sort(dim=1).values)
    for cell in range(n_cells):
        for gene in range(n_genes):
            source = int(after[cell, gene] - 1) % n_genes
            if after[cell, gene] > 0 and before[cell, gene] > 0:
                assert after[cell, source] == before[cell, gene]


def test_any_two_genes_are_equally_likely_swapped():
    cells, pairs = sparse(torch.arange(1.0, 8).repeat(200, 1)), np.zeros((7, 7))
    for seed in range(60):
        source = swap_sparse_genes(cells, fraction=0.6, generator=generator(seed)).dense().long().numpy() - 1
        np.add.at(pairs, (np.tile(np.arange(7), 200), source.ravel()), 1)
    off = (pairs / 12_000)[~np.eye(7, dtype=bool)]
    assert np.abs(off - 0.6 / 7).max() < 0.02 and np.allclose(pairs, pairs.T)


@settings(max_examples=60)
@given(**SHAPES)
def test_crossing_takes_genes_of_one_other_cell_in_their_places(n_cells, n_genes, fraction, seed):
    before = numbered(n_cells, n_genes, seed=seed)
    after = cross_sparse_cells(sparse(before), fraction=fraction, generator=generator(seed)).dense()
    for cell in range(n_cells):
        others = [other for other in range(n_cells) if other != cell] or [cell]
        fits = [((after[cell] == before[cell]) | (after[cell] == before[other])).all() for other in others]
        assert any(fits)


def test_crossing_takes_its_share_and_all_at_one():
    before = numbered(50, 400, share=1.0)
    crossed = cross_sparse_cells(sparse(before), fraction=0.3, generator=generator()).dense()
    assert scipy.stats.binomtest(int((crossed != before).sum()), before.numel(), 0.3).pvalue > 1e-3
    whole = cross_sparse_cells(sparse(before), fraction=1.0, generator=generator()).dense()
    donor = (whole.long() - 1) // 400
    assert (donor == donor[:, :1]).all() and (donor[:, 0] != torch.arange(50)).all()


@BOTH
def test_a_coin_says_which_cells_are_touched(view):
    before = numbered(300, 60)
    after = view(sparse(before), fraction=0.9, probability=0.3, generator=generator()).dense()
    touched = int((before != after).any(dim=1).sum())
    assert scipy.stats.binomtest(touched, 300, 0.3).pvalue > 1e-3


@BOTH
def test_threads_change_no_number_and_the_input_stays(view, monkeypatch):
    monkeypatch.setattr(kernels, "_WORTH_THREADS", 1)
    cells, n_threads, found = sparse(numbered(40, 60)), torch.get_num_threads(), []
    copies = [part.clone() for part in (cells.values, cells.gene_index, cells.cell_offsets)]
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        found.append(view(cells, fraction=0.5, generator=generator()).dense())
    torch.set_num_threads(n_threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    kept = zip(copies, (cells.values, cells.gene_index, cells.cell_offsets), strict=True)
    assert all(torch.equal(copy, part) for copy, part in kept)
