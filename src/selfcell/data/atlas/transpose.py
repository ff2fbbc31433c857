"""Turn counts that are stored by genes, or in no order, into rows of cells, on disk and within a bound of memory."""

import itertools
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from selfcell.data.atlas.count_blocks import (
    CountBlocks,
    NotCountsError,
    SparseRows,
    as_counts,
    canonical,
    describe_fault,
    sample_values,
)

Entries = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Cells, genes and values, of one length."""

_ENTRY = np.dtype([("cell", "<u4"), ("gene", "<u4"), ("count", "<u4")])
_BYTES_PER_ENTRY = 80
"""At most, while a bucket is put in order."""
_CHUNK = 2**20
_MOST_BUCKETS = 256


class Transposed(ABC):
    """Counts that do not lie by cell; made into rows in ``scratch`` when they are first read.

    Parameters
    ----------
    shape
        Cells and genes.
    rows
        Where they are put.
    """

    def __init__(self, *, shape: tuple[int, int], rows: "RowsOnDisk") -> None:
        self.shape = shape
        self._rows = rows

    @abstractmethod
    def sample(self) -> np.ndarray:
        """Give some of the stored values."""

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Give cells ``start`` to ``stop``, checked and canonical, uint32."""
        return self._rows.of(self._entries()).read(start, stop)

    def block_size(self, memory_bytes: int) -> int:
        """Give the most cells such that wherever a block begins, its values fit."""
        return self._rows.of(self._entries()).block_size(memory_bytes)

    def close(self) -> None:
        """Remove what was written."""
        self._rows.close()

    @abstractmethod
    def _entries(self) -> Iterator[Entries]:
        """Read all of them, in any order."""


class SparseColumns(Transposed):
    """Compressed sparse columns in three arrays."""

    def __init__(
        self, data: Any, indices: Any, indptr: Any, *, shape: tuple[int, int], scratch: Path, memory_bytes: int
    ) -> None:
        SparseRows(data, indices, indptr, shape=(shape[1], shape[0]))  # checks that they fit each other
        self._data, self._indices, self._indptr = data, indices, np.asarray(indptr[:], dtype=np.int64)
        n_entries = int(self._indptr[-1])
        rows = RowsOnDisk(scratch, shape=shape, n_entries=n_entries, memory_bytes=memory_bytes)
        super().__init__(shape=shape, rows=rows)

    def sample(self) -> np.ndarray:
        """Give stored values from several places."""
        return sample_values(self._data)

    def _entries(self) -> Iterator[Entries]:
        for start in range(0, int(self._indptr[-1]), _CHUNK):
            stop = min(start + _CHUNK, int(self._indptr[-1]))
            genes = np.searchsorted(self._indptr, np.arange(start, stop), side="right") - 1
            yield np.asarray(self._indices[start:stop]), genes, np.asarray(self._data[start:stop])


class RowsOnDisk:
    """Rows made of entries in any order: parted into buckets by cell, each put in order by itself.

    Parameters
    ----------
    scratch
        A folder of its own is made in it, and removed by :meth:`close`.
    shape
        Cells and genes.
    n_entries
        How many entries there will be.
    memory_bytes
        A bound on what putting a bucket in order takes.
    """

    def __init__(self, scratch: Path, *, shape: tuple[int, int], n_entries: int, memory_bytes: int) -> None:
        self._folder = scratch / f"rows-{uuid.uuid4().hex}"
        self._shape, self._n_entries = shape, n_entries
        self._most_entries = max(_CHUNK // 16, memory_bytes // _BYTES_PER_ENTRY)
        self._rows: SparseRows | None = None

    def of(self, entries: Iterator[Entries]) -> CountBlocks:
        """Give the rows; the entries are consumed by the first call alone.

        Raises
        ------
        NotCountsError
            If a value is not a count.
        ValueError
            If a cell or gene is beyond the matrix.
        """
        if self._rows is None:
            try:
                self._rows = self._make(entries)
            except BaseException:
                self.close()
                raise
        return self._rows

    def close(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._rows = None

    def _make(self, entries: Iterator[Entries]) -> SparseRows:
        self._folder.mkdir(parents=True)
        lengths = [np.zeros(1, dtype=np.int64)]
        files = self._folder / "data", self._folder / "indices"
        buckets = self._part(map(self._check, entries), 0, self._shape[0], self._n_entries)
        with files[0].open("wb") as data, files[1].open("wb") as indices:
            for first, last, bucket in self._small_enough(buckets):
                rows = _in_order(np.fromfile(bucket, dtype=_ENTRY), first, last, self._shape[1])
                rows.data.tofile(data)
                rows.indices.astype(np.uint32).tofile(indices)
                lengths.append(np.diff(rows.indptr).astype(np.int64))
                bucket.unlink()
        indptr = np.cumsum(np.concatenate(lengths))
        return SparseRows(_FileArray(files[0]), _FileArray(files[1]), indptr, shape=self._shape)

    def _check(self, entries: Entries) -> np.ndarray:
        cells, genes, values = entries
        for places, limit, what in ((cells, self._shape[0], "cells"), (genes, self._shape[1], "genes")):
            if places.size and (places.min() < 0 or places.max() >= limit):
                raise ValueError(f"there are values beyond the {limit:,} {what}")
        counts, wrong = as_counts(values)
        if wrong is not None:
            raise NotCountsError(describe_fault(values), cell=int(cells[wrong]))
        checked = np.empty(len(cells), dtype=_ENTRY)
        checked["cell"], checked["gene"], checked["count"] = cells, genes, counts
        return checked

    def _part(self, chunks: Iterator[np.ndarray], first: int, last: int, n_entries: int) -> list[tuple[int, int, Path]]:
        """Part entries of cells ``first`` to ``last`` into files by equal ranges of cells."""
        # Twice as many as would do, since cells differ in size.
        n_buckets = max(1, min(_MOST_BUCKETS, last - first, -(-2 * n_entries // self._most_entries)))
        edges = [first + (last - first) * place // n_buckets for place in range(n_buckets + 1)]
        buckets = [(low, high, self._folder / f"{low}-{high}") for low, high in itertools.pairwise(edges)]
        for _, _, path in buckets:
            path.touch()
        for chunk in chunks:
            of_entry = np.searchsorted(edges, chunk["cell"], side="right") - 1
            ordered = chunk[np.argsort(of_entry, kind="stable")]
            ends = np.cumsum(np.bincount(of_entry, minlength=n_buckets))
            for (_, _, path), begin, end in zip(buckets, [0, *ends[:-1]], ends, strict=True):
                if end > begin:
                    with path.open("ab") as stream:
                        ordered[begin:end].tofile(stream)
        return buckets

    def _small_enough(self, buckets: list[tuple[int, int, Path]]) -> Iterator[tuple[int, int, Path]]:
        """Part those buckets again that hold more than fits into memory."""
        for first, last, path in buckets:
            n_entries = path.stat().st_size // _ENTRY.itemsize
            if n_entries <= self._most_entries or last - first <= 1:
                yield first, last, path
                continue
            whole = path.replace(path.with_suffix(".whole"))
            parts = self._part(_chunks_of(whole), first, last, n_entries)
            whole.unlink()
            yield from self._small_enough(parts)


class _FileArray:
    """A one-dimensional uint32 array in a file, read by slices; a memory map's pages would count as memory used."""

    dtype = np.dtype("<u4")

    def __init__(self, path: Path) -> None:
        self._path = path
        self.shape = (path.stat().st_size // self.dtype.itemsize,)

    def __getitem__(self, places: slice) -> np.ndarray:
        start, stop, _ = places.indices(self.shape[0])
        return np.fromfile(self._path, self.dtype, stop - start, offset=start * self.dtype.itemsize)


def _chunks_of(path: Path) -> Iterator[np.ndarray]:
    with path.open("rb") as stream:
        while len(chunk := np.fromfile(stream, dtype=_ENTRY, count=_CHUNK)):
            yield chunk


def _in_order(entries: np.ndarray, first: int, last: int, n_genes: int) -> sp.csr_matrix:
    by_cell = sp.csr_matrix(
        (entries["count"].astype(np.uint64), ((entries["cell"] - first).astype(np.int64), entries["gene"])),
        shape=(last - first, n_genes),
    )
    counts, wrong = as_counts(by_cell.data)
    if wrong is not None:
        cell = first + int(np.searchsorted(by_cell.indptr, wrong, side="right")) - 1
        raise NotCountsError(describe_fault(by_cell.data), cell=cell)
    return canonical(sp.csr_matrix((counts, by_cell.indices, by_cell.indptr), shape=by_cell.shape), first_cell=first)
