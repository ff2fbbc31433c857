"""Cells held on the device: the same minibatches as a stream gives, and a refusal where they do not fit."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfcell.core import memory
from selfcell.core.errors import InputError
from selfcell.data import resident
from selfcell.data.atlas.build import build_atlas
from selfcell.data.backed import open_backed
from selfcell.data.loader import CellLoader
from selfcell.data.order import WholeOrder
from selfcell.data.resident import ResidentRows
from selfcell.data.rows import MeasuredRows, MemoryRows
from selfcell.data.schedule import Schedule
from selfcell.data.stream import StreamSource, open_any

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


def held(counts, part, device="cpu", **options):
    options = {"room": 0, **options}
    return ResidentRows(MemoryRows(counts), WholeOrder(part, shuffle_seed=None), device=torch.device(device), **options)


def loader_of(rows, part, *, size=7, seed=3, n_cells=None):
    order = WholeOrder(part, shuffle_seed=seed)
    return CellLoader(rows, Schedule(order, size), codes={"row": np.arange(len(rows))})


def rows_of(loader):
    return [minibatch.codes["row"].tolist() for minibatch in loader]


def assert_same(one, other):
    assert one.codes["row"].tolist() == other.codes["row"].tolist() and one.weight == other.weight
    for name in ("values", "gene_index", "cell_offsets"):
        assert torch.equal(getattr(one, name), getattr(other.to("cpu"), name))


@pytest.mark.parametrize("device", [*DEVICES, "as a device"])
@settings(max_examples=40, deadline=None)
@given(
    n_cells=st.integers(1, 40),
    n_genes=st.sampled_from([1, 60, 65_537]),
    levels=st.lists(st.sampled_from([1.0, 2.0, 255.0, 256.0, 65_535.0, 65_536.0, 70_000.0, 0.5]), min_size=1),
    share=st.floats(0.1, 1),
    seed=st.integers(0, 100),
)
def test_resident_cells_are_those_of_the_source(device, n_cells, n_genes, levels, share, seed):
    rng = np.random.default_rng(seed)
    counts = sp.random(n_cells, n_genes, min(1, 20 / n_genes), format="csr", random_state=seed, dtype=np.float32)
    counts.data[:] = rng.choice(levels, len(counts.data))
    part = np.flatnonzero(rng.random(n_cells) < share) if share < 1 else np.arange(n_cells)
    part = part if len(part) else np.arange(1)
    plain = list(loader_of(MemoryRows(counts), part))
    rows = held(counts, part, device if device == "cuda" else "cpu")
    if device == "as a device":
        rows.load().by_loops = rows.load().on_device
    for one, other in zip(plain, loader_of(rows, part), strict=True):
        assert_same(one, other)
        np.testing.assert_allclose(one.library_size, other.library_size.cpu(), rtol=1e-6)


def test_every_cell_comes_once_an_epoch_and_the_same_seed_gives_the_same_order(cells):
    part = np.arange(len(cells))[::2]
    rows = held(cells.counts, part)

    def order(seed, epoch):
        loader = loader_of(rows, part, seed=seed)
        loader.set_epoch(epoch)
        return [row for rows in rows_of(loader) for row in rows]

    assert sorted(order(1, 0)) == part.tolist()
    assert order(1, 4) == order(1, 4) and order(1, 4) != order(1, 5) != order(2, 5)


def test_an_epoch_is_gone_on_with_in_its_midst(cells):
    part = np.arange(len(cells))
    rows = held(cells.counts, part)
    whole = rows_of(loader_of(rows, part, size=32))
    first = loader_of(rows, part, size=32)
    for _ in zip(range(4), first, strict=False):
        state = first.state_dict()
    second = loader_of(rows, part, size=32)
    second.load_state_dict(state)
    assert rows_of(second) == whole[4:] and len(second) == len(whole) and second.n_cells == len(cells)


@pytest.mark.parametrize(
    ("levels", "dtype", "bytes_of_value"),
    [([1, 2, 3], torch.uint8, 3), ([300, 400], torch.int16, 4), ([0.5, 1.25], torch.float32, 6)],
)
def test_counts_take_the_type_that_needs_the_least(levels, dtype, bytes_of_value):
    counts = sp.random(200, 60, 0.3, format="csr", random_state=0, dtype=np.float32)
    counts.data[:] = np.random.default_rng(0).choice(levels, len(counts.data))
    size = held(counts, np.arange(200)).size
    assert size.counts_dtype == dtype and size.n_bytes == bytes_of_value * counts.nnz


@pytest.fixture
def atlas(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    build_atlas([tmp_path / "cells.h5ad"], tmp_path / "atlas", shard_cells=70)
    return open_any(tmp_path / "atlas")


@pytest.mark.parametrize("n_threads", [0, 2])
def test_an_atlas_is_held_in_parts_and_gives_the_stream_of_the_disk(atlas, monkeypatch, n_threads):
    monkeypatch.setattr(resident, "_CELLS_AT_ONCE", 40)
    source = StreamSource(atlas, minibatch_size=32, block_size=8, buffer_size=64)
    part = atlas.chosen_by(lambda cells: cells % 3 > 0)
    device = torch.device("cpu")
    rows = ResidentRows(source.rows, source.order(part), device=device, room=0, n_threads=n_threads)
    order = source.order(part, shuffle_seed=1)
    codes = {"row": np.arange(300)}
    streamed = CellLoader(source.rows, Schedule(order, 32), codes=codes)
    for one, other in zip(streamed, CellLoader(rows, Schedule(order, 32), codes=codes), strict=True):
        assert_same(one, other)


def test_lengths_of_an_atlas_are_known_without_its_counts(atlas):
    assert isinstance(atlas.rows, MeasuredRows)
    cells = np.array([0, 3, 69, 70, 71, 299])
    buffer = atlas.rows.read(cells, resident.BufferPool())
    at = buffer.locate(cells)
    assert atlas.rows.lengths(cells).tolist() == (buffer.cell_offsets[at + 1] - buffer.cell_offsets[at]).tolist()


def test_a_corpus_that_does_not_fit_is_refused_before_it_is_loaded(cells, monkeypatch):
    monkeypatch.setattr(resident, "available_memory", lambda: 5_000_000)
    monkeypatch.setattr(ResidentRows, "load", lambda _: pytest.fail("loaded"))
    with pytest.raises(
        InputError,
        match=r"data\.resident needs [\d.]+ MB on cpu for 300 cells and 5\.0 MB for training itself, but 5\.0 MB are "
        r"free\. Leave --resident out to stream the cells, take fewer of them \(--where\)",
    ):
        held(cells.counts, np.arange(300), room=5_000_000)


def test_a_file_read_from_disk_is_refused(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    source = StreamSource(open_backed(tmp_path / "cells.h5ad"), minibatch_size=8)
    with pytest.raises(InputError, match=r"data\.resident is for an atlas, or for cells in memory: leave data\.backed"):
        ResidentRows(source.rows, source.order(source.everything({})), device=torch.device("cpu"), room=0)


def test_available_memory_is_read_where_the_system_tells_it(tmp_path, monkeypatch):
    told = tmp_path / "meminfo"
    told.write_text("MemTotal:  100 kB\nMemAvailable:   42 kB\n")
    monkeypatch.setattr(memory, "Path", lambda _: told)
    assert memory.available_memory() == 42 * 1024
    told.unlink()
    assert memory.available_memory() is None
