"""Some of many cells, at one bit a cell."""

from collections.abc import Iterable

import numpy as np

_AT_ONCE = 2**20


class CellSubset:
    """Which cells of a stream are meant.

    Parameters
    ----------
    n_total
        Cells in the stream.
    bits
        One bit a cell, the first cell in the lowest bit of the first byte; None means all.
    """

    def __init__(self, n_total: int, bits: np.ndarray | None = None) -> None:
        self.n_total = n_total
        self.bits = bits
        self._n_cells = n_total if bits is None else int(np.bitwise_count(bits).sum())

    @classmethod
    def from_masks(cls, n_total: int, masks: Iterable[np.ndarray]) -> "CellSubset":
        """Put a subset together from truth values for one stretch of cells after the other."""
        bits = np.zeros(-(-n_total // 8), dtype=np.uint8)
        waiting, at = np.empty(0, dtype=bool), 0
        for mask in masks:
            waiting = np.concatenate([waiting, mask])
            whole = len(waiting) // 8 * 8
            bits[at : at + whole // 8] = np.packbits(waiting[:whole], bitorder="little")
            waiting, at = waiting[whole:], at + whole // 8
        if waiting.size:
            bits[at] = np.packbits(waiting, bitorder="little")[0]
        return cls(n_total, bits)

    def __len__(self) -> int:
        return self._n_cells

    def within(self, start: int, stop: int) -> np.ndarray:
        """Give the positions of the subset's cells from ``start`` up to ``stop``, ascending."""
        if self.bits is None:
            return np.arange(start, stop)
        first = start // 8
        mask = np.unpackbits(self.bits[first : -(-stop // 8)], bitorder="little")[start - first * 8 : stop - first * 8]
        return np.flatnonzero(mask) + start

    def common(self, other: "CellSubset") -> "CellSubset":
        """Give the cells that are in both."""
        if self.bits is None or other.bits is None:
            return other if self.bits is None else self
        return CellSubset(self.n_total, self.bits & other.bits)

    def positions(self) -> np.ndarray:
        """Give the positions of all cells of the subset, ascending; eight bytes a cell."""
        return self.within(0, self.n_total)
