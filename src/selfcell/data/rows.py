"""Where the cells of a minibatch come from: memory, an .h5ad file, an atlas; all give them by position."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp

from selfcell.data.buffers import BufferPool
from selfcell.data.minibatch import CellMinibatch


@dataclass(frozen=True)
class RowBuffer:
    """Some cells in memory, as compressed sparse rows, that are known by their positions in the source."""

    cell_offsets: np.ndarray
    gene_index: np.ndarray
    values: np.ndarray
    run_starts: np.ndarray
    """Positions in the source at which stretches of neighbouring cells begin, ascending."""
    run_places: np.ndarray
    """Where in this buffer each of these stretches begins."""

    def locate(self, rows: np.ndarray) -> np.ndarray:
        """Give the places in this buffer of cells that are in it."""
        run = np.searchsorted(self.run_starts, rows, side="right") - 1
        places: np.ndarray = self.run_places[run] + (rows - self.run_starts[run])
        return places


@runtime_checkable
class CellRows(Protocol):
    """A source of cells. Several threads may read from it at once."""

    n_genes: int
    boundaries: np.ndarray
    """Positions at which a file begins, and at the end the number of cells."""

    def __len__(self) -> int:
        """Give the number of cells."""
        ...

    def read(self, rows: np.ndarray, pool: BufferPool) -> RowBuffer:
        """Read at least these cells, given in any order and with repeats, into memory from the pool."""
        ...


@runtime_checkable
class MeasuredRows(CellRows, Protocol):
    """A source that knows how many genes each cell expresses without reading its counts."""

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Give the number of non-zero counts of some cells; positions ascend."""
        ...


@runtime_checkable
class GatheringRows(CellRows, Protocol):
    """A source that puts minibatches together itself."""

    def gather(self, rows: np.ndarray) -> CellMinibatch:
        """Give some cells, in this order."""
        ...


class MemoryRows:
    """Cells in memory.

    Parameters
    ----------
    counts
        Cells x genes, in the encoder's order of genes.
    """

    def __init__(self, counts: sp.csr_matrix) -> None:
        self.n_genes = int(counts.shape[1])
        self.boundaries = np.array([0, counts.shape[0]])
        everywhere = np.zeros(1, dtype=np.int64)
        self._buffer = RowBuffer(counts.indptr, counts.indices, counts.data, everywhere, everywhere)

    def __len__(self) -> int:
        return int(self.boundaries[-1])

    def read(self, rows: np.ndarray, pool: BufferPool) -> RowBuffer:  # noqa: ARG002
        """Give all of them: they are in memory."""
        return self._buffer

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Give the number of non-zero counts of some cells."""
        offsets = self._buffer.cell_offsets
        found: np.ndarray = (offsets[rows + 1] - offsets[rows]).astype(np.int64)
        return found


class AlignedRows:
    """Cells of another source in an encoder's order of genes.

    Parameters
    ----------
    rows
        The source.
    align
        Puts counts in the source's order of genes into the encoder's.
    n_genes
        Genes of the encoder.
    """

    def __init__(self, rows: CellRows, align: Callable[[sp.csr_matrix], sp.csr_matrix], n_genes: int) -> None:
        self.rows = rows
        self.align = align
        self.n_genes = n_genes
        self.boundaries = rows.boundaries

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: np.ndarray, pool: BufferPool) -> RowBuffer:
        """Read cells and put them into order."""
        found = self.rows.read(rows, pool)
        parts = (found.values.astype(np.float32), found.gene_index, found.cell_offsets)
        counts = self.align(sp.csr_matrix(parts, shape=(len(found.cell_offsets) - 1, self.rows.n_genes)))
        return RowBuffer(counts.indptr, counts.indices, counts.data, found.run_starts, found.run_places)


def runs_of(rows: np.ndarray, *, boundaries: np.ndarray, max_gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Give the stretches of neighbouring cells that have all of ``rows`` in them, as first positions and ends.

    Parameters
    ----------
    rows
        Positions of cells, in any order and with repeats.
    boundaries
        Positions that no stretch reaches over.
    max_gap
        Cells not asked for that are read rather than begun anew after.
    """
    wanted = np.unique(rows)
    if not wanted.size:
        return wanted, wanted
    file = np.searchsorted(boundaries, wanted, side="right")
    breaks = np.flatnonzero((np.diff(wanted) > max_gap + 1) | (np.diff(file) > 0)) + 1
    starts = wanted[np.concatenate([[0], breaks])]
    stops = wanted[np.concatenate([breaks - 1, [len(wanted) - 1]])] + 1
    return starts, stops
