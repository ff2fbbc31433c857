"""Cells packed for a GPU: what is unpacked is what was packed, in any order and of any size."""

import gc

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfcell.data.loader import CellLoader, cell_loader
from selfcell.data.order import WholeOrder
from selfcell.data.packed import PackedMinibatch, as_bits, count_dtype, gene_dtype, widened
from selfcell.data.rows import MemoryRows
from selfcell.data.schedule import Schedule

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]

LARGEST = st.sampled_from([1, 255, 256, 65_535, 65_536, 70_000])


def counts_of(n_cells, n_genes, n_values, largest, seed, *, fractional=False):
    """Give counts with empty cells among them, and the largest somewhere."""
    rng = np.random.default_rng(seed)
    cells, genes = rng.integers(0, max(1, n_cells // 2), n_values) * 2 % n_cells, rng.integers(0, n_genes, n_values)
    matrix = sp.csr_matrix((np.ones(n_values), (cells, genes)), (n_cells, n_genes), dtype=np.float32)
    matrix.sum_duplicates()
    matrix.data[:] = rng.integers(1, largest + 1, len(matrix.data))
    matrix.data[len(matrix.data) // 2 :][:1] = largest
    matrix.data *= 0.5 if fractional else 1.0
    return matrix


def packed_loader(counts, size=7, **options):
    order = WholeOrder(np.arange(counts.shape[0]), shuffle_seed=3)
    codes = {"row": np.arange(counts.shape[0])}
    return CellLoader(MemoryRows(counts), Schedule(order, size), codes=codes, packed=True, **options)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=40, deadline=None)
@given(
    n_cells=st.integers(1, 30),
    n_genes=st.sampled_from([1, 60, 65_536, 65_537, 100_000]),
    n_values=st.integers(0, 200),
    largest=LARGEST,
    fractional=st.booleans(),
    seed=st.integers(0, 100),
)
def test_what_is_unpacked_is_what_was_packed(device, n_cells, n_genes, n_values, largest, fractional, seed):
    counts = counts_of(n_cells, n_genes, n_values, largest, seed, fractional=fractional)
    for packed in packed_loader(counts):
        minibatch = packed.to(device).to("cpu")
        expected = counts[packed.codes["row"].numpy()]
        assert minibatch.values.tolist() == expected.data.tolist()
        assert minibatch.gene_index.tolist() == expected.indices.tolist()
        assert minibatch.cell_offsets.tolist() == expected.indptr.tolist()
        assert minibatch.codes["row"].tolist() == packed.codes["row"].tolist()
        sums = np.asarray(expected.sum(axis=1, dtype=np.float64)).ravel()
        np.testing.assert_allclose(minibatch.library_size.numpy(), sums, rtol=1e-6)
        assert packed.n_cells == minibatch.n_cells == expected.shape[0] and packed.weight == minibatch.weight


@pytest.mark.parametrize(
    ("largest", "n_genes", "bytes_of_value"), [(255, 60, 3), (256, 60, 4), (65_536, 60, 6), (255, 65_537, 5)]
)
def test_integers_are_as_narrow_as_they_may_be(largest, n_genes, bytes_of_value):
    packed = next(iter(packed_loader(counts_of(8, n_genes, 50, largest, 0), size=8)))
    assert packed.counts.itemsize + packed.gene_index.itemsize == bytes_of_value


def test_types_at_their_edges():
    assert [count_dtype(largest).name for largest in (0.0, 255.0, 256.0, 65_535.0, 65_536.0, np.inf)] == [
        "uint8",
        "uint8",
        "uint16",
        "uint16",
        "float32",
        "float32",
    ]
    assert gene_dtype(65_536) == np.uint16 and gene_dtype(65_537) == np.int32
    edges = np.array([0, 1, 32_767, 32_768, 65_535], dtype=np.uint16)
    assert widened(as_bits(edges)).tolist() == edges.tolist()


def test_a_packed_minibatch_is_the_one_that_is_not(cells):
    plain = list(cell_loader(cells.counts, minibatch_size=64, shuffle_seed=3))
    packed = [minibatch.to("cpu") for minibatch in packed_loader(cells.counts, size=64)]
    for one, other in zip(plain, packed, strict=True):
        assert torch.equal(one.counts(), other.counts())
        assert torch.equal(one.expression(), other.expression())
        assert torch.equal(one.sparse_expression().values, other.sparse_expression().values)


def test_a_share_of_a_packed_loader_is_packed(cells):
    assert isinstance(next(iter(packed_loader(cells.counts).share(1, 2))), PackedMinibatch)


@needs_gpu
def test_memory_is_not_used_again_before_it_is_copied(cells):
    counts = sp.vstack([cells.counts] * 40, format="csr")
    arrived = []
    for packed in packed_loader(counts, size=3000, pin_memory=True, n_threads=1):
        # Keeps the GPU behind, so that copies would be late if they waited for it.
        torch.cuda._sleep(10_000_000)
        arrived.append(packed.to("cuda"))
        del packed
        gc.collect()
    for minibatch in arrived:
        rows = minibatch.codes["row"].cpu().numpy()
        assert np.array_equal(minibatch.counts().cpu().numpy(), counts[rows].toarray())
