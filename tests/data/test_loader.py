"""Tests of the loader: every cell once, the same cells whatever the threads, and on from anywhere."""

import gc
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfcell.core.errors import InputError
from selfcell.data import loader as loader_module
from selfcell.data.buffers import BufferPool
from selfcell.data.kernels import scatter_cells
from selfcell.data.loader import CellLoader, cell_loader
from selfcell.data.order import BlockOrder, WeightedOrder, WholeOrder, balanced_weights
from selfcell.data.permutation import permuted, uniform
from selfcell.data.rows import MemoryRows, runs_of
from selfcell.data.schedule import Cut, Position, Read, Schedule
from selfcell.data.subset import CellSubset


def rows_of(loader: CellLoader) -> list[list[int]]:
    return [minibatch.codes["row"].tolist() for minibatch in loader]


def block_order(n_cells: int, *, taken: np.ndarray | None = None, **options: Any) -> BlockOrder:
    mask = np.ones(n_cells, dtype=bool) if taken is None else taken
    boundaries = np.array([0, n_cells // 3, n_cells])
    options = {"shuffle_seed": 1, "block_size": 4, "buffer_size": 12, **options}
    return BlockOrder(boundaries, CellSubset.from_masks(n_cells, [mask]), **options)


def test_every_cell_comes_once_an_epoch_with_its_codes(cells):
    loader = cell_loader(cells.counts, codes={"row": np.arange(len(cells))}, minibatch_size=64, shuffle_seed=1)
    minibatches = list(loader)
    rows = torch.cat([minibatch.codes["row"] for minibatch in minibatches])
    assert sorted(rows.tolist()) == list(range(len(cells)))
    dense = torch.cat([minibatch.expression() for minibatch in minibatches])
    plain = torch.cat([minibatch.expression() for minibatch in cell_loader(cells.counts, minibatch_size=300)])
    torch.testing.assert_close(dense, plain[rows])
    assert len(loader) == 5


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        loader = cell_loader(sp.csr_matrix(np.eye(20)), minibatch_size=6, shuffle_seed=seed)
        loader.codes = {"row": np.arange(20)}
        loader.set_epoch(epoch)
        return [row for rows in rows_of(loader) for row in rows]

    assert order(1, 3) == order(1, 3)
    assert order(1, 3) != order(1, 4) != order(2, 4)
    assert order(None, 5) == list(range(20))


@pytest.mark.parametrize(("n_cells", "min_cells", "expected"), [(10, 1, [4, 4, 2]), (9, 2, [4, 5]), (3, 2, [3])])
def test_no_cell_is_left_out_at_the_end_of_an_epoch(n_cells, min_cells, expected):
    loader = cell_loader(sp.csr_matrix(np.eye(n_cells)), minibatch_size=4, min_cells=min_cells)
    assert [minibatch.n_cells for minibatch in loader] == expected
    assert len(loader) == len(expected)


@settings(max_examples=60, deadline=None)
@given(
    n_cells=st.integers(6, 90),
    size=st.integers(1, 40),
    world_size=st.integers(1, 3),
    share=st.floats(0.2, 1),
    seed=st.one_of(st.none(), st.integers(0, 5)),
    shuffled=st.sampled_from(["whole", "blocks"]),
)
def test_the_processes_together_see_every_cell_once_and_the_same_minibatches(
    n_cells, size, world_size, share, seed, shuffled
):
    taken = uniform(np.arange(n_cells), seed=3) < share
    taken[:3] = True
    if shuffled == "whole":
        order = WholeOrder(np.flatnonzero(taken), shuffle_seed=seed)
    else:
        order = block_order(n_cells, taken=taken, shuffle_seed=seed)

    def minibatches(rank, world_size, size):
        schedule = Schedule(order, max(size, world_size), rank=rank, world_size=world_size)
        cuts = [event for event in schedule.events(Position(2)) if isinstance(event, Cut)]
        assert len(cuts) == len(schedule)
        return [cut.rows for cut in cuts]

    ranks = [minibatches(rank, world_size, size) for rank in range(world_size)]
    together = [np.concatenate(parts) for parts in zip(*ranks, strict=True)]
    assert sorted(np.concatenate(together)) == np.flatnonzero(taken).tolist()
    assert all(max(sizes) - min(sizes) <= 1 for sizes in zip(*[map(len, rank) for rank in ranks], strict=True))
    alone = minibatches(0, 1, max(size, world_size))
    for one, many in zip(alone[:-2], together[:-2], strict=False):
        assert sorted(one) == sorted(many)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 30), broken_after=st.integers(0, 20), n_threads=st.sampled_from([0, 1, 3]))
def test_a_resumed_epoch_gives_exactly_the_cells_not_yet_seen(size, broken_after, n_threads):
    counts = sp.csr_matrix(np.arange(1, 61)[:, None])
    taken = np.arange(60) % 5 > 0

    def loader(n_threads=0):
        schedule = Schedule(block_order(60, taken=taken), size)
        made = CellLoader(MemoryRows(counts), schedule, codes={"row": np.arange(60)}, n_threads=n_threads)
        made.set_epoch(4)
        return made

    whole = rows_of(loader())
    first, broken_after = loader(n_threads=n_threads), broken_after % len(whole)
    state = {}
    for _, minibatch in zip(range(broken_after + 1), first, strict=False):
        state, seen = first.state_dict(), minibatch
    assert seen.codes["row"].tolist() == whole[broken_after]
    second = loader(n_threads=n_threads)
    second.load_state_dict(state)
    assert all(isinstance(value, int) for value in state.values())
    if broken_after + 1 < len(whole):
        assert rows_of(second) == whole[broken_after + 1 :]


def test_a_state_of_another_epoch_is_not_gone_on_from():
    loader = cell_loader(sp.csr_matrix(np.eye(8)), minibatch_size=2, codes={"row": np.arange(8)}, shuffle_seed=0)
    loader.load_state_dict({"epoch": 1, "minibatch": 2, "group": 0, "offset": 4})
    loader.set_epoch(2)
    assert len(rows_of(loader)) == 4


def test_processes_may_change_in_number_where_the_minibatch_of_all_stays():
    order = block_order(64)
    one = Schedule(order, 16)
    position = list(one.cuts(Position()))[1].after
    rest = [set(cut.rows) for cut in one.cuts(position)]
    two = [[set(cut.rows) for cut in Schedule(order, 16, rank=rank, world_size=2).cuts(position)] for rank in (0, 1)]
    assert rest == [a | b for a, b in zip(*two, strict=True)]


def test_a_process_reads_its_share_of_the_blocks():
    order = block_order(960, block_size=16, buffer_size=320, shuffle_seed=0)
    reads = [
        event.rows for event in Schedule(order, 32, rank=1, world_size=4).events(Position()) if isinstance(event, Read)
    ]
    starts, stops = zip(*(runs_of(rows, boundaries=np.array([0, 960]), max_gap=8) for rows in reads), strict=True)
    assert (np.concatenate(stops) - np.concatenate(starts)).sum() <= 2 * 960 / 4


def test_too_few_cells_for_the_processes_are_refused():
    with pytest.raises(InputError, match="2 cells in a minibatch are too few: 4 processes need at least 1 each"):
        Schedule(WholeOrder(np.arange(9), shuffle_seed=0), 2, world_size=4)
    with pytest.raises(InputError, match="3 cells are too few: 4 processes need at least 1 each"):
        Schedule(WholeOrder(np.arange(3), shuffle_seed=0), 4, world_size=4)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 3_000), seed=st.integers(0, 2**63 - 1))
def test_a_computed_permutation_is_one(n, seed):
    assert sorted(permuted(np.arange(n), n, seed=seed)) == list(range(n))


def test_a_computed_permutation_looks_random():
    found = np.array([permuted(np.arange(50), 50, seed=seed) for seed in range(4_000)])
    times = np.array([np.bincount(found[:, place], minlength=50) for place in range(50)])
    chi2 = ((times - 80.0) ** 2 / 80.0).sum()
    assert chi2 == pytest.approx(49 * 49, abs=6 * np.sqrt(2 * 49 * 49))
    neighbours = (np.diff(found, axis=1) == 1).mean()
    assert neighbours == pytest.approx(1 / 50, rel=0.1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(0, 9))
def test_a_subset_knows_its_cells(lengths, seed):
    rng = np.random.default_rng(seed)
    masks = [rng.random(length) < 0.5 for length in lengths]
    subset = CellSubset.from_masks(sum(lengths), masks)
    expected = np.flatnonzero(np.concatenate(masks))
    assert (subset.positions().tolist(), len(subset)) == (expected.tolist(), len(expected))
    start, stop = sorted(rng.integers(0, sum(lengths) + 1, size=2))
    within = expected[(expected >= start) & (expected < stop)]
    assert subset.within(int(start), int(stop)).tolist() == within.tolist()


def test_rare_kinds_come_as_often_as_common_ones():
    codes = np.array([0] * 800 + [1] * 150 + [2] * 50)
    weights = balanced_weights(np.bincount(codes, minlength=4))
    assert weights[codes].mean() == pytest.approx(1)
    for base in (WholeOrder(np.arange(1_000), shuffle_seed=0), block_order(1_000, buffer_size=100)):
        order = WeightedOrder(base, codes, weights, seed=0)
        seen = np.concatenate([cut.rows for cut in Schedule(order, 50).cuts(Position())])
        assert len(seen) == 1_000
        assert np.bincount(codes[seen]) == pytest.approx([333, 333, 333], abs=70)


@pytest.mark.parametrize("packed", [False, True])
def test_threads_that_gather_the_cells_of_a_minibatch_give_the_same(cells, monkeypatch, packed):
    monkeypatch.setattr(loader_module, "_CELLS_AT_ONCE", 5)

    def minibatches(n_threads):
        order = block_order(300, buffer_size=50)
        loader = CellLoader(MemoryRows(cells.counts), Schedule(order, 64), n_threads=n_threads, packed=packed)
        return [minibatch.to("cpu") for minibatch in loader]

    for one, other in zip(minibatches(0), minibatches(3), strict=True):
        assert torch.equal(one.counts(), other.counts()) and torch.equal(one.library_size, other.library_size)


@pytest.mark.parametrize("n_threads", [0, 2])
def test_an_error_while_reading_reaches_the_user(n_threads):
    class Broken(MemoryRows):
        def read(self, rows, pool):
            raise InputError("gone")

    loader = CellLoader(Broken(sp.csr_matrix(np.eye(8))), Schedule(block_order(8), 2), n_threads=n_threads)
    with pytest.raises(InputError, match="gone"):
        list(loader)


def test_a_count_in_a_gene_that_is_not_there_is_refused():
    counts = sp.csr_matrix(np.eye(4))
    rows = MemoryRows(counts)
    rows.n_genes = 3
    with pytest.raises(InputError, match="count in gene 3, but there are 3"):
        list(CellLoader(rows, Schedule(WholeOrder(np.arange(4), shuffle_seed=None), 4)))


def test_memory_of_a_minibatch_is_used_again_only_when_it_is_gone():
    pool = BufferPool()
    array = pool.take(1_000, np.float32)
    place = array.ctypes.data
    tensor = torch.from_numpy(array)[5:10]
    kept = tensor.numpy()[1:]
    del array, tensor
    other = pool.take(1_000, np.float32)
    assert other.ctypes.data != place
    del kept
    gc.collect()
    assert pool.take(900, np.float32).ctypes.data == place


def test_minibatches_that_are_kept_keep_their_cells(cells):
    minibatches = list(cell_loader(cells.counts, minibatch_size=7))
    dense = torch.cat([minibatch.counts() for minibatch in minibatches])
    np.testing.assert_array_equal(dense.numpy(), cells.counts.toarray())


def test_dense_counts_can_be_written_into_an_array_of_the_users(cells):
    minibatch = next(iter(cell_loader(cells.counts, minibatch_size=16)))
    for make in (minibatch.counts, minibatch.expression):
        out = torch.full((16, minibatch.n_genes), -1.0)
        assert make(out=out) is out
        assert torch.equal(out, make())


def test_threads_that_share_the_cells_write_the_same(monkeypatch):
    counts = sp.random(50, 30, density=0.2, format="csr", random_state=0)
    monkeypatch.setattr("selfcell.data.kernels._WORTH_THREADS", 0)
    for n_threads in (1, 3, 60):
        out = np.full((50, 30), -1.0)
        scatter_cells(counts.indptr, counts.indices, counts.data, out, n_threads=n_threads)
        np.testing.assert_array_equal(out, counts.toarray())
