"""Hashes of single cells, by which they are recognised in another file, whatever its order, columns or other cells."""

from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
import pandas as pd
from jaxtyping import Bool, UInt64

from selfcell.data.source import Cells

_MOST_NAMES = 0.5


@dataclass(frozen=True)
class CellHashes:
    """Two hashes of each cell: of what was counted in it, and of its name."""

    contents: UInt64[np.ndarray, " n_cells"]
    names: UInt64[np.ndarray, " n_cells"]
    are_numbered: bool
    """Whether names differ in their digits alone, as ``cell 1`` and ``cell 2`` do: such names say nothing."""

    @classmethod
    def of(cls, cells: Cells) -> "CellHashes":
        """Hash cells; those to be compared must be aligned to the same genes."""
        counts = cells.counts
        contents = hash_rows(counts.indptr, counts.indices, counts.data)
        index = cells.obs.index.astype(str)
        names = pd.util.hash_array(index.to_numpy(dtype=object), categorize=False)
        n_stems = index.str.replace(r"\d+", "", regex=True).nunique()
        return cls(contents, names, are_numbered=n_stems < _MOST_NAMES * len(index))

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, rows: np.ndarray) -> "CellHashes":
        return CellHashes(self.contents[rows], self.names[rows], self.are_numbered)

    def found_in(self, others: "CellHashes") -> Bool[np.ndarray, " n_cells"]:
        """Tell which of the cells are among others.

        Those with the same counts are. Where most of the cells have the name of one of the others, names tell, so that
        cells are recognised of which some genes were left out. Fewer names in common are chance: barcodes of two
        experiments are drawn from one list.
        """
        found = np.isin(self.contents, others.contents)
        by_name = np.isin(self.names, others.names)
        if not (self.are_numbered or others.are_numbered) and by_name.mean() > _MOST_NAMES:
            found |= by_name
        return found


@no_type_check
@numba.njit(nogil=True, cache=True)
def hash_rows(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Hash each row of a compressed sparse matrix, whatever the order of its entries; zeros count for nothing."""
    bits = data.view(np.uint32)
    hashes = np.zeros(len(indptr) - 1, dtype=np.uint64)
    for row in range(len(hashes)):
        total = np.uint64(0)
        for entry in range(indptr[row], indptr[row + 1]):
            if data[entry] != 0:
                # The finalizer of splitmix64.
                mixed = (np.uint64(indices[entry]) << np.uint64(32)) | np.uint64(bits[entry])
                mixed = (mixed + np.uint64(0x9E3779B97F4A7C15)) & np.uint64(0xFFFFFFFFFFFFFFFF)
                mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                total += mixed ^ (mixed >> np.uint64(31))
        hashes[row] = total
    return hashes
