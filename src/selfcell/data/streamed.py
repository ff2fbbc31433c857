"""Cells that stay on disk: an atlas, or a file too large for memory; what is known of them, without their counts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import scipy.sparse as sp

from selfcell.core.errors import InputError, did_you_mean
from selfcell.data.buffers import BufferPool
from selfcell.data.genes import Alignment, GeneTable, align_genes
from selfcell.data.obs_query import no_cells_message, query_mask
from selfcell.data.order import CodeColumn
from selfcell.data.rows import AlignedRows, CellRows
from selfcell.data.subset import CellSubset

_CODES_AT_ONCE = 2**20
_SAMPLE_PLACES = 16
_SAMPLE_CELLS = 128


@runtime_checkable
class ObsSource(Protocol):
    """The obs columns of cells on disk."""

    columns: list[str]

    def coded(self, key: str) -> tuple[CodeColumn, tuple[str, ...]]:
        """Give the codes of a column, -1 where there is no value, and the names they stand for."""
        ...

    def frames(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """Give some columns for one stretch of cells after the other."""
        ...


@dataclass(frozen=True)
class CodedColumn:
    """An obs column as integer codes."""

    codes: CodeColumn
    names: tuple[str, ...]
    sizes: np.ndarray
    """Cells of each name."""


@dataclass(frozen=True)
class StreamedCells:
    """Cells on disk; read-only. What :class:`selfcell.data.source.Cells` is for cells in memory."""

    rows: CellRows
    genes: GeneTable
    obs: ObsSource
    subset: CellSubset
    """The cells in use."""
    origin: str
    """The file or folder they are in."""
    digest: str
    """What tells whether they are the same cells."""
    counts_address: str = "X"
    scale: str = "counts"
    alignment: Alignment | None = None
    """How they are put into an encoder's order of genes, if they are."""

    def __len__(self) -> int:
        return len(self.subset)

    def fingerprint(self) -> str:
        """Give what tells whether these are the same cells."""
        return self.digest if self.subset.bits is None else f"{self.digest}, {len(self):,} cells of it"

    def aligned_to(self, genes: GeneTable, *, allow_low_overlap: bool = False) -> "StreamedCells":
        """Have the cells put into an encoder's order of genes as they are read; see :func:`align_genes`.

        The share of counts is that of a sample of cells.

        Raises
        ------
        InputError
            If under half of the encoder's genes are found.
        """
        alignment = align_genes(self.genes, genes, self._sample(), allow_low_overlap=allow_low_overlap)
        rows = AlignedRows(self.rows, alignment.apply, len(genes))
        return replace(self, rows=rows, genes=genes, alignment=alignment)

    def _sample(self) -> sp.csr_matrix:
        """Read some stretches of cells, spread over all of them."""
        size = min(_SAMPLE_CELLS, len(self.rows))
        starts = np.unique(np.linspace(0, len(self.rows) - size, _SAMPLE_PLACES).astype(np.int64))
        found = self.rows.read((starts[:, None] + np.arange(size)).ravel(), BufferPool())
        parts = (found.values.astype(np.float32), found.gene_index, found.cell_offsets)
        return sp.csr_matrix(parts, shape=(len(found.cell_offsets) - 1, self.rows.n_genes))

    def where(self, query: str) -> "StreamedCells":
        """Keep the cells for which a query over obs columns holds, as in :meth:`pandas.DataFrame.query`.

        Raises
        ------
        InputError
            If the query cannot be understood or holds for no cell.
        """
        named = [name for name in self.obs.columns if name in query]
        # With no column there is one frame without cells, on which the query is checked all the same.
        frames = self.obs.frames(named) if named else iter([pd.DataFrame()])
        masks = (query_mask(frame, query, columns=self.obs.columns) for frame in frames)
        chosen = CellSubset.from_masks(len(self.rows), masks).common(self.subset)
        if not len(chosen):
            raise InputError(no_cells_message(query, self.obs.frames(named)))
        return replace(self, subset=chosen)

    def coded(self, key: str, *, role: str) -> CodedColumn:
        """Give an obs column of names as codes.

        Raises
        ------
        InputError
            If there is no such column, or some cells have no value in it.
        """
        if key not in self.obs.columns:
            raise InputError(
                f"There is no column {key!r} in obs to use as {role}. {did_you_mean(key, self.obs.columns)}"
            )
        column, n_missing = self.count_values(key)
        if n_missing:
            raise InputError(
                f"{n_missing:,} of {len(self):,} cells have no value in obs[{key!r}], used as {role}. "
                f'Leave these cells out (--where "{key} == {key}"), or give them a value of their own.'
            )
        return column

    def count_values(self, key: str) -> tuple[CodedColumn, int]:
        """Give an obs column of names as codes, and how many cells have no value in it, whose code is -1."""
        codes, names = self.obs.coded(key)
        sizes = np.zeros(len(names) + 1, dtype=np.int64)
        for start in range(0, self.subset.n_total, _CODES_AT_ONCE):
            cells = self.subset.within(start, min(start + _CODES_AT_ONCE, self.subset.n_total))
            sizes += np.bincount(codes[cells] + 1, minlength=len(sizes))
        return CodedColumn(codes, names, sizes[1:]), int(sizes[0])

    def of_codes(self, column: CodedColumn, names: Sequence[str]) -> CellSubset:
        """Give the cells in use that have one of some names in a column."""
        wanted = np.isin(np.array(column.names, dtype=object), list(names))
        return self.chosen_by(lambda cells: wanted[column.codes[cells]])

    def chosen_by(self, choose: Any) -> CellSubset:
        """Give the cells in use for which a function of their positions is true."""

        def masks() -> Iterator[np.ndarray]:
            for start in range(0, self.subset.n_total, _CODES_AT_ONCE):
                stop = min(start + _CODES_AT_ONCE, self.subset.n_total)
                mask = np.zeros(stop - start, dtype=bool)
                cells = self.subset.within(start, stop)
                mask[cells - start] = choose(cells)
                yield mask

        return CellSubset.from_masks(self.subset.n_total, masks())


class FrameObs:
    """Obs columns held in memory.

    Parameters
    ----------
    obs
        The columns.
    """

    def __init__(self, obs: pd.DataFrame) -> None:
        self.obs = obs
        self.columns = [str(name) for name in obs.columns]

    def coded(self, key: str) -> tuple[CodeColumn, tuple[str, ...]]:
        """Give the codes of a column, and the names they stand for."""
        column = pd.Categorical(self.obs[key])
        return column.codes.astype(np.int64), tuple(map(str, column.categories))

    def frames(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """Give the columns of all cells at once."""
        yield self.obs[list(columns)]
