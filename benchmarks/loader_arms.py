"""The loaders that benchmarks/loaders.py times, each run in a process of its own: JSON in as argument, JSON out.

Runs in the interpreter of the package that it measures, so nothing but NumPy is imported before the arm is known.
"""

import dataclasses
import gc
import importlib.metadata
import importlib.util
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import page_cache

_READ_BLOCK = 2**22
_ONE_A_LINE = 16
"""Every so many 4-byte values lies one in each cache line."""
_ONE_A_PAGE = 1024

Delivered = tuple[float, np.ndarray, np.ndarray | None]
"""Number of cells, their values (of non-zeros, or dense), and the genes of the values."""
Epoch = Callable[[int], Iterator[Delivered]]
"""Deliver all cells once in an order that a seed gives."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What to run on what, for how long."""

    arm: str
    minibatch_size: int
    cold: bool
    seed: int
    n_cells: int
    n_genes: int
    paths: dict[str, str]
    """Of ``source``, ``atlas`` and ``collection``."""
    warm_up_cells: int
    timed_cells: int
    timed_seconds: float
    max_seconds: float
    threads: int


@dataclasses.dataclass(frozen=True)
class Arm:
    """One loader with its settings."""

    name: str
    title: str
    package: str
    """What must be installed, as pip calls it."""
    interpreter: str
    """``selfcell``, ``peers`` or ``annbatch``."""
    reads: str
    """Which of the paths."""
    layout: str
    """``sparse``, ``dense`` or ``bytes``."""
    start: Callable[[Task], Epoch]
    cells_per_fetch: int = 1
    """Cells that it reads at a time; it is stopped only after whole fetches."""
    cold: bool = True
    """Whether it reads from disk at all once it is open."""


_SELFCELL_FETCH = 4096
"""Cells in the buffer of selfcell's loader."""


def _selfcell(task: Task, *, dense: bool) -> Epoch:
    import torch

    from selfcell.data.stream import stream_cells

    # Each iteration is another epoch.
    loader = stream_cells(task.paths["atlas"], minibatch_size=task.minibatch_size, n_threads=task.threads)
    buffer = torch.empty(task.minibatch_size if dense else 0, loader.rows.n_genes)

    def epoch(_seed: int) -> Iterator[Delivered]:
        for minibatch in loader:
            if dense:
                cells = minibatch.counts(out=buffer[: minibatch.n_cells])
                yield minibatch.n_cells, cells.numpy(), None
            else:
                yield minibatch.n_cells, minibatch.values.numpy(), minibatch.gene_index.numpy()

    return epoch


def _as_delivered(rows: Any, layout: str, buffer: list[np.ndarray]) -> Delivered:
    """Give a scipy matrix as it is, as a new dense array, or dense in a buffer that is used again."""
    if layout == "sparse":
        return rows.shape[0], rows.data, rows.indices
    if layout == "dense":
        return rows.shape[0], rows.toarray(), None
    if not buffer:
        buffer.append(np.empty(rows.shape, dtype=rows.dtype))
    return rows.shape[0], rows.toarray(out=buffer[0][: rows.shape[0]]), None


def _annbatch(task: Task, *, layout: str, chunk_size: int, preload_nchunks: int) -> Epoch:
    import anndata
    import zarr
    from annbatch import DatasetCollection, Loader

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})

    def counts_only(group: zarr.Group) -> anndata.AnnData:
        return anndata.AnnData(X=anndata.io.sparse_dataset(group["X"]))

    collection = DatasetCollection(task.paths["collection"], mode="r")

    def epoch(seed: int) -> Iterator[Delivered]:
        loader = Loader(
            batch_size=task.minibatch_size,
            chunk_size=chunk_size,
            preload_nchunks=preload_nchunks,
            shuffle=True,
            rng=np.random.default_rng(seed),
        ).use_collection(collection, load_adata=counts_only)
        buffer: list[np.ndarray] = []
        for minibatch in loader:
            yield _as_delivered(minibatch["X"], layout, buffer)

    return epoch


class _Rows:
    """Rows of the matrix of an open file, for scDataset to index."""

    def __init__(self, path: str) -> None:
        import anndata
        import h5py

        self._matrix = anndata.io.sparse_dataset(h5py.File(path)["X"])

    def __len__(self) -> int:
        return int(self._matrix.shape[0])

    def __getitem__(self, rows: np.ndarray) -> Any:
        return self._matrix[rows]


_SCDATASET_FETCH = 16_384
"""Cells at a time, in blocks of 16."""


def _scdataset(task: Task, *, layout: str) -> Epoch:
    from scdataset import BlockShuffling, scDataset
    from torch.utils.data import DataLoader

    rows = _Rows(task.paths["source"])
    factor = max(1, _SCDATASET_FETCH // task.minibatch_size)

    def epoch(seed: int) -> Iterator[Delivered]:
        cells = scDataset(
            rows, BlockShuffling(block_size=16), batch_size=task.minibatch_size, fetch_factor=factor, seed=seed
        )
        buffer: list[np.ndarray] = []
        # In this process: a file that HDF5 has open does not survive the fork of workers.
        for minibatch in DataLoader(cells, batch_size=None):
            yield _as_delivered(minibatch, layout, buffer)

    return epoch


def _annloader(task: Task, *, dense: bool) -> Epoch:
    import anndata
    import torch
    from anndata.experimental import AnnLoader

    cells = anndata.read_h5ad(task.paths["source"], backed="r")

    def epoch(seed: int) -> Iterator[Delivered]:
        np.random.seed(seed)  # noqa: NPY002 - it draws from the global generator
        torch.manual_seed(seed)
        loader = AnnLoader(cells, batch_size=task.minibatch_size, shuffle=True, use_default_converter=dense)
        for minibatch in loader:
            rows = minibatch.X
            yield (rows.shape[0], rows.numpy(), None) if dense else _as_delivered(rows, "sparse", [])

    return epoch


def _in_memory(task: Task, *, layout: str, count_dtype: str) -> Epoch:
    import h5py
    import scipy.sparse as sp

    with h5py.File(task.paths["source"]) as file:
        parts = file["X"]
        arrays = (parts["data"].astype(count_dtype)[:], parts["indices"].astype("int32")[:], parts["indptr"][:])
    counts = sp.csr_matrix(arrays, shape=(task.n_cells, task.n_genes))
    counts.has_sorted_indices = counts.has_canonical_format = True

    def epoch(seed: int) -> Iterator[Delivered]:
        order = np.random.default_rng(seed).permutation(task.n_cells)
        buffer: list[np.ndarray] = []
        for first in range(0, task.n_cells, task.minibatch_size):
            yield _as_delivered(counts[order[first : first + task.minibatch_size]], layout, buffer)

    return epoch


def _raw_read(task: Task) -> Epoch:
    arrays = ("data", "indices", "indptr")
    files = [file for name in arrays for file in Path(task.paths["atlas"]).glob(f"shards/*/X/{name}/c/*")]
    cells_per_byte = task.n_cells / sum(file.stat().st_size for file in files)
    buffer = np.empty(_READ_BLOCK, dtype=np.uint8)

    def epoch(_seed: int) -> Iterator[Delivered]:
        for file in files:
            with file.open("rb", buffering=0) as stream:
                while n_read := stream.readinto(buffer):
                    yield n_read * cells_per_byte, buffer[:n_read], None

    return epoch


_SHOWN = {"sparse": "sparse", "dense": "dense", "buffer": "dense"}


def _arm_of_selfcell(name: str, *, layout: str) -> Arm:
    def start(task: Task) -> Epoch:
        return _selfcell(task, dense=layout == "dense")

    return Arm(name, "selfcell", "selfcell", "selfcell", "atlas", layout, start, _SELFCELL_FETCH)


def _arm_of_annbatch(name: str, title: str, *, layout: str, chunk: int, preload: int) -> Arm:
    def start(task: Task) -> Epoch:
        return _annbatch(task, layout=layout, chunk_size=chunk, preload_nchunks=preload)

    return Arm(name, title, "annbatch[zarrs]", "annbatch", "collection", _SHOWN[layout], start, chunk * preload)


def _arm_of_scdataset(name: str, *, layout: str) -> Arm:
    def start(task: Task) -> Epoch:
        return _scdataset(task, layout=layout)

    return Arm(name, "scDataset, 16 x 1,024", "scDataset", "peers", "source", layout, start, _SCDATASET_FETCH)


def _arm_of_annloader(name: str, title: str, *, layout: str) -> Arm:
    def start(task: Task) -> Epoch:
        return _annloader(task, dense=layout == "dense")

    return Arm(name, title, "torch", "peers", "source", layout, start)


def _arm_in_memory(name: str, title: str, *, layout: str, dtype: str = "float32") -> Arm:
    def start(task: Task) -> Epoch:
        return _in_memory(task, layout=layout, count_dtype=dtype)

    return Arm(name, title, "scipy", "peers", "source", _SHOWN[layout], start, cold=False)


_README = {"title": "annbatch, 32 x 256 (its README's)", "chunk": 32, "preload": 256}
_WIDE = {"chunk": 512, "preload": 32}

_ARMS: tuple[Arm, ...] = (
    _arm_of_selfcell("selfcell_sparse", layout="sparse"),
    _arm_of_selfcell("selfcell_dense", layout="dense"),
    _arm_of_annbatch("annbatch_sparse", layout="sparse", **_README),
    _arm_of_annbatch("annbatch_sparse_512", "annbatch, 512 x 32", layout="sparse", **_WIDE),
    _arm_of_annbatch("annbatch_dense", layout="dense", **_README),
    _arm_of_annbatch("annbatch_dense_512", "annbatch, 512 x 32", layout="dense", **_WIDE),
    _arm_of_annbatch("annbatch_dense_buffer", "annbatch, 512 x 32, buffer reused", layout="buffer", **_WIDE),
    _arm_of_scdataset("scdataset_sparse", layout="sparse"),
    _arm_of_scdataset("scdataset_dense", layout="dense"),
    _arm_of_annloader("annloader_sparse", "AnnLoader, not converted", layout="sparse"),
    _arm_of_annloader("annloader_dense", "AnnLoader", layout="dense"),
    _arm_in_memory("in_memory_sparse", "by hand: CSR in memory", layout="sparse"),
    _arm_in_memory("in_memory_sparse_uint16", "by hand: CSR in memory, uint16 counts", layout="sparse", dtype="uint16"),
    _arm_in_memory("in_memory_dense", "by hand: CSR in memory", layout="dense"),
    _arm_in_memory("in_memory_dense_buffer", "by hand: CSR in memory, buffer reused", layout="buffer"),
    Arm("raw_read", "plain read of the atlas", "numpy", "selfcell", "atlas", "bytes", _raw_read),
)
ARMS = {arm.name: arm for arm in _ARMS}

_MODULES = {
    "selfcell": ("selfcell", "selfcell.data.stream"),
    "annbatch[zarrs]": ("annbatch", "zarrs"),
    "scDataset": ("scdataset",),
    "torch": ("torch", "anndata"),
    "scipy": ("scipy", "h5py"),
}


def missing(package: str) -> str | None:
    """Say how to install what is missing here, if it is."""
    # In turn: a module can only be looked for in a package that is there.
    found = all(importlib.util.find_spec(name) for name in _MODULES.get(package, (package,)))
    return None if found else f"not installed: {sys.executable} -m pip install '{package}'"


def versions() -> dict[str, str]:
    """Give the versions of what takes part."""
    found = {}
    for name in ("selfcell", "annbatch", "zarrs", "zarr", "scDataset", "anndata", "torch", "scipy", "h5py", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _memory_mb(field: str) -> float:
    """Read a field of this process's status. Not getrusage: its maximum is handed down from the parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return float("nan")


def _read_from_disk_mb() -> float:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes")) / 2**20


def _touch(delivered: Delivered, layout: str) -> float:
    """Read what was delivered: all values of sparse cells and a gene a cache line, a value a page of dense cells."""
    _, values, gene_index = delivered
    if layout == "sparse" and gene_index is not None:
        return float(values.sum()) + 0.0 * float(gene_index[::_ONE_A_LINE].sum())
    return float(values.reshape(-1)[::_ONE_A_PAGE].sum())


def _warm_up(epoch: Epoch, task: Task, layout: str) -> float:
    """Run untimed: compile, first touch. Gives the mean counts of a cell, to see that they are right."""
    cells = counts = 0.0
    started = time.perf_counter()
    stream = epoch(2**31 - 1)
    for delivered in stream:
        cells += delivered[0]
        counts += float(delivered[1].sum(dtype=np.float64)) if layout != "bytes" else _touch(delivered, layout)
        if cells >= task.warm_up_cells or time.perf_counter() - started > task.max_seconds:
            break
    stream.close()
    return counts / cells if layout != "bytes" else float("nan")


def _time(epoch: Epoch, task: Task, arm: Arm) -> dict[str, float]:
    """Deliver cells for long enough, cold at most one epoch; stop where the arm has delivered all that it has read."""
    cells = 0.0
    disk, processor, started = _read_from_disk_mb(), sum(os.times()[:4]), time.perf_counter()
    seed, done = task.seed, False
    while not done:
        in_epoch = 0.0
        for delivered in epoch(seed):
            cells += delivered[0]
            in_epoch += delivered[0]
            _touch(delivered, arm.layout)
            seconds = time.perf_counter() - started
            enough = (cells >= task.timed_cells and seconds >= task.timed_seconds) or seconds >= task.max_seconds
            if enough and in_epoch % arm.cells_per_fetch < task.minibatch_size:
                done = True
                break
        seed += 1
        done = done or task.cold
    seconds = time.perf_counter() - started
    return {
        "cells": cells,
        "seconds": seconds,
        "cells_per_second": cells / seconds,
        "cores": (sum(os.times()[:4]) - processor) / seconds,
        "read_from_disk_mb": _read_from_disk_mb() - disk,
    }


def run(task: Task) -> dict[str, Any]:
    """Time one arm in this process."""
    arm = ARMS[task.arm]
    if how := missing(arm.package):
        return {"status": how}
    files = [task.paths[arm.reads]]
    if not task.cold:
        page_cache.warm(files)
    epoch = arm.start(task)
    baseline = _memory_mb("VmRSS")
    mean_counts = _warm_up(epoch, task, arm.layout)
    if task.cold:
        del epoch
        gc.collect()
        page_cache.drop(files)
        in_cache = page_cache.resident_fraction(files)
        epoch = arm.start(task)
    else:
        in_cache = page_cache.resident_fraction(files)
    measured = _time(epoch, task, arm)
    return {
        "status": "ok",
        **measured,
        "mean_counts": mean_counts,
        "in_page_cache": in_cache,
        "opened_mb": baseline,
        "peak_mb": _memory_mb("VmHWM"),
        "versions": versions(),
    }


def build_collection(source: str, collection: str, *, dataset_size: str) -> dict[str, Any]:
    """Build annbatch's collection by its own builder, every setting at its default but the memory to use."""
    if how := missing("annbatch[zarrs]"):
        return {"status": how}
    import zarr
    from annbatch import DatasetCollection

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    started = time.perf_counter()
    DatasetCollection(collection).add_adatas(
        adata_paths=[source], shuffle=True, dataset_size=dataset_size, rng=np.random.default_rng(0)
    )
    return {"status": "ok", "seconds": time.perf_counter() - started, "peak_mb": _memory_mb("VmHWM")}


def main() -> None:
    """Run the task that the argument describes and print what came of it as the last line."""
    warnings.simplefilter("ignore")
    request = json.loads(sys.argv[1])
    outcome = build_collection(**request["build"]) if "build" in request else run(Task(**request["task"]))
    print(json.dumps(outcome), flush=True)
    # Threads of some loaders would keep the process alive.
    os._exit(0)


if __name__ == "__main__":
    main()
