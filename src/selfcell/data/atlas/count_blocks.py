"""Read a matrix of counts block of cells by block of cells, from wherever and however it is stored."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp

from selfcell.data.counts import find_fault

LARGEST_COUNT = 2**32 - 1
_SAMPLE_PLACES = 8
_SAMPLE_VALUES = 2**14


class NotCountsError(Exception):
    """A stored value is not a count: ``fault`` says why, ``cell`` is the first such cell's place in the file."""

    def __init__(self, fault: str, *, cell: int) -> None:
        super().__init__(fault)
        self.fault = fault
        self.cell = cell


@runtime_checkable
class CountBlocks(Protocol):
    """Cells x genes, read some cells at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""

    def sample(self) -> np.ndarray:
        """Give stored values from several places."""

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Give cells ``start`` to ``stop``, checked and canonical, uint32."""

    def block_size(self, memory_bytes: int) -> int:
        """Give how many cells can be read at once within so much memory, at least one."""


def as_counts(values: np.ndarray) -> tuple[np.ndarray, int | None]:
    """Give values as uint32, and the position of the first that is not a count, or None."""
    with np.errstate(invalid="ignore"):
        counts = values.astype(np.uint32)
    same = counts == values
    return counts, None if same.all() else int(np.argmin(same))


def describe_fault(values: np.ndarray) -> str:
    """Say what is wrong with values of which some are not counts."""
    largest = f"has counts above {LARGEST_COUNT:,}, the largest that can be stored"
    return find_fault(values) or f"{largest} (it reaches {values.max():,.0f})"


def canonical(counts: sp.csr_matrix, *, first_cell: int = 0) -> sp.csr_matrix:
    """Sort the genes of each cell, sum what stands twice, drop zeros; uint32. The matrix may be changed.

    Raises
    ------
    NotCountsError
        If a sum is more than can be stored.
    """
    if not counts.has_canonical_format:
        wide = sp.csr_matrix((counts.data.astype(np.uint64), counts.indices, counts.indptr), shape=counts.shape)
        wide.sum_duplicates()
        data, wrong = as_counts(wide.data)
        if wrong is not None:
            raise NotCountsError(describe_fault(wide.data), cell=first_cell + row_of(wide.indptr, wrong))
        counts = sp.csr_matrix((data, wide.indices, wide.indptr), shape=counts.shape)
    if not counts.data.all():
        counts.eliminate_zeros()
    counts.has_canonical_format = True
    return counts


def row_of(indptr: np.ndarray, position: int) -> int:
    """Give the row that a stored value belongs to."""
    return int(np.searchsorted(indptr, position, side="right")) - 1


class SparseRows:
    """Compressed sparse rows in three arrays that can be sliced; only ``indptr`` is held in memory.

    Raises
    ------
    ValueError
        If the arrays do not fit each other.
    """

    def __init__(self, data: Any, indices: Any, indptr: Any, *, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._data, self._indices = data, indices
        if indptr.shape != (shape[0] + 1,):
            raise ValueError(f"indptr does not fit {shape[0]:,} rows")
        self._indptr = np.asarray(indptr[:], dtype=np.int64)
        n_values = self._indptr[-1] if len(self._indptr) else -1
        if len(self._indptr) != shape[0] + 1 or self._indptr[0] != 0 or (np.diff(self._indptr) < 0).any():
            raise ValueError(f"indptr does not fit {shape[0]:,} rows")
        if not n_values == data.shape[0] == indices.shape[0]:
            raise ValueError(
                f"indptr ends at {n_values:,}, but there are {data.shape[0]:,} values at {indices.shape[0]:,} places"
            )

    def sample(self) -> np.ndarray:
        """Give stored values from several places."""
        return sample_values(self._data)

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Give cells ``start`` to ``stop``, checked and canonical, uint32."""
        first, last = int(self._indptr[start]), int(self._indptr[stop])
        indptr = self._indptr[start : stop + 1] - first
        values = np.asarray(self._data[first:last])
        counts, wrong = as_counts(values)
        if wrong is not None:
            raise NotCountsError(describe_fault(values), cell=start + row_of(indptr, wrong))
        indices = np.asarray(self._indices[first:last])
        if indices.size and (indices.min() < 0 or indices.max() >= self.shape[1]):
            raise ValueError(f"cells {start:,} to {stop:,} have values beyond the {self.shape[1]:,} genes")
        index_type = np.int32 if max(last - first, self.shape[1]) < 2**31 else np.int64
        parts = (counts, indices.astype(index_type, copy=False), indptr.astype(index_type))
        return canonical(sp.csr_matrix(parts, shape=(stop - start, self.shape[1])), first_cell=start)

    def block_size(self, memory_bytes: int) -> int:
        """Give the most cells such that wherever a block begins, its values fit."""
        n_values = memory_bytes // (self._data.dtype.itemsize + self._indices.dtype.itemsize + 36)
        fits, too_many = 1, self.shape[0] + 1
        while too_many - fits > 1:
            size = (fits + too_many) // 2
            if (self._indptr[size:] - self._indptr[:-size]).max() + size <= n_values:
                fits = size
            else:
                too_many = size
        return fits


class DenseRows:
    """A dense two-dimensional array on disk, cells x genes or (``transposed``) genes x cells."""

    def __init__(self, array: Any, *, transposed: bool = False) -> None:
        self._array, self._transposed = array, transposed
        self.shape = (array.shape[1], array.shape[0]) if transposed else (array.shape[0], array.shape[1])

    def sample(self) -> np.ndarray:
        """Give stored values from several places."""
        size = max(1, min(64, _SAMPLE_VALUES * 4 // max(1, self.shape[1])))
        return np.concatenate([self._slab(start, start + size).ravel() for start in _places(self.shape[0], size)])

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Give cells ``start`` to ``stop``, checked and canonical, uint32."""
        slab = self._slab(start, stop)
        counts, wrong = as_counts(slab)
        if wrong is not None:
            raise NotCountsError(describe_fault(slab.ravel()), cell=start + wrong // max(1, self.shape[1]))
        return canonical(sp.csr_matrix(counts), first_cell=start)

    def block_size(self, memory_bytes: int) -> int:
        """Give the most cells whose dense block fits, all values non-zero."""
        return max(1, int(memory_bytes // (self.shape[1] * (2 * self._array.dtype.itemsize + 40) + 1)))

    def _slab(self, start: int, stop: int) -> np.ndarray:
        stop = min(stop, self.shape[0])
        slab = self._array[:, start:stop].T if self._transposed else self._array[start:stop]
        return np.ascontiguousarray(slab)


def sample_values(data: Any) -> np.ndarray:
    """Give values from several places of a one-dimensional array on disk."""
    slabs = [np.asarray(data[start : start + _SAMPLE_VALUES]) for start in _places(data.shape[0], _SAMPLE_VALUES)]
    return np.concatenate(slabs)


def _places(length: int, size: int) -> list[int]:
    """Give where to begin slabs of a size, spread from the first to the last that fits."""
    return sorted({int(place) for place in np.linspace(0, max(0, length - size), _SAMPLE_PLACES)})
