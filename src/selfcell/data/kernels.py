"""Loops over the non-zero counts, compiled; they let other threads run meanwhile.

They are marked ``no_type_check``, since what checks types at run time in tests cannot be compiled.
"""

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import no_type_check

import numba
import numpy as np

_WORTH_THREADS = 2**22


@no_type_check
@numba.njit(nogil=True, cache=True)
def gather_cells(
    positions: np.ndarray,
    cell_offsets: np.ndarray,
    gene_index: np.ndarray,
    values: np.ndarray,
    out_genes: np.ndarray,
    out_values: np.ndarray,
) -> int:
    """Copy the entries of some cells, one after the other, into arrays that have room for them; give the largest gene.

    Parameters
    ----------
    positions
        Which cells, by their place in ``cell_offsets``.
    cell_offsets, gene_index, values
        Compressed sparse rows.
    out_genes, out_values
        Where to copy to; values change their type on the way.
    """
    at = 0
    largest = 0
    for position in positions:
        start = cell_offsets[position]
        n_values = cell_offsets[position + 1] - start
        genes = gene_index[start : start + n_values]
        counts = values[start : start + n_values]
        target_genes = out_genes[at : at + n_values]
        target_counts = out_values[at : at + n_values]
        for entry in range(n_values):
            target_genes[entry] = genes[entry]
            # A negative one is a very large one, too.
            largest = max(largest, np.int64(np.uint32(genes[entry])))
        for entry in range(n_values):
            target_counts[entry] = counts[entry]
        at += n_values
    return largest


def sum_cells(positions: np.ndarray, cell_offsets: np.ndarray, values: np.ndarray, out: np.ndarray) -> float:
    """Sum the counts of some cells; give the largest count, or infinity where one is not a whole number.

    Parameters
    ----------
    positions
        Which cells, by their place in ``cell_offsets``.
    cell_offsets, values
        Compressed sparse rows, without the columns.
    out
        Where to write the sums.
    """
    total = _sum_whole if values.dtype.kind in "ui" else _sum_any
    return float(total(positions, cell_offsets, values, out))


@no_type_check
@numba.njit(nogil=True, cache=True)
def _sum_whole(positions: np.ndarray, cell_offsets: np.ndarray, values: np.ndarray, out: np.ndarray) -> int:
    largest = 0
    for place, position in enumerate(positions):
        size = 0
        highest = 0
        for entry in range(cell_offsets[position], cell_offsets[position + 1]):
            size += np.int64(values[entry])
            highest = max(highest, np.int64(values[entry]))
        out[place] = size
        largest = max(largest, highest)
    return largest


@no_type_check
@numba.njit(nogil=True, cache=True)
def _sum_any(positions: np.ndarray, cell_offsets: np.ndarray, values: np.ndarray, out: np.ndarray) -> float:
    largest = 0.0
    for place, position in enumerate(positions):
        size = 0.0
        for entry in range(cell_offsets[position], cell_offsets[position + 1]):
            count = np.float64(values[entry])
            size += count
            largest = max(largest, count if count == np.floor(count) else np.inf)
        out[place] = size
    return largest


def scatter_cells(
    cell_offsets: np.ndarray, gene_index: np.ndarray, values: np.ndarray, out: np.ndarray, *, n_threads: int
) -> None:
    """Write compressed sparse rows into a dense array, zeros included.

    Parameters
    ----------
    cell_offsets, gene_index, values
        Compressed sparse rows; every gene must be below the number of columns.
    out
        Cells x genes.
    n_threads
        Threads that share the cells, where there are enough of them to be worth it.
    """
    bounds = np.linspace(0, len(out), 1 + (n_threads if out.nbytes > _WORTH_THREADS else 1)).astype(np.int64)
    parts = itertools.pairwise(bounds)
    tasks = [(cell_offsets[start : stop + 1], gene_index, values, out[start:stop]) for start, stop in parts]
    if len(tasks) == 1:
        _scatter(*tasks[0])
        return
    for done in [_threads(n_threads).submit(_scatter, *task) for task in tasks]:
        done.result()


@functools.cache
def _threads(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="selfcell-scatter")


@no_type_check
@numba.njit(nogil=True, cache=True)
def _scatter(cell_offsets: np.ndarray, gene_index: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
    for cell in range(out.shape[0]):
        row = out[cell]
        row[:] = 0
        for entry in range(cell_offsets[cell], cell_offsets[cell + 1]):
            row[gene_index[entry]] = values[entry]


@no_type_check
@numba.njit(nogil=True, cache=True)
def scale_cells(cell_offsets: np.ndarray, counts: np.ndarray, out: np.ndarray, total: float) -> None:
    """Scale the counts of each cell to a total; a cell without counts stays without.

    Parameters
    ----------
    cell_offsets, counts
        Compressed sparse rows, without the columns.
    out
        Where to write.
    total
        What the counts of a cell are to add up to.
    """
    for cell in range(len(cell_offsets) - 1):
        size = 0.0
        for entry in range(cell_offsets[cell], cell_offsets[cell + 1]):
            size += counts[entry]
        # A reciprocal in single precision first, as torch does.
        factor = np.float32(np.float32(1) / np.float32(size)) * np.float32(total) if size > 0 else np.float32(0)
        for entry in range(cell_offsets[cell], cell_offsets[cell + 1]):
            out[entry] = counts[entry] * factor
