"""Which cell follows which: the order of an epoch, cut into groups that are read together.

An order is a function of its seed and the epoch alone. So a run can be resumed anywhere, by any number of processes,
and goes through the cells that it would have gone through.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from selfcell.core.seeds import derive_seed, numpy_rng
from selfcell.data.permutation import permuted, uniform
from selfcell.data.subset import CellSubset


@runtime_checkable
class Order(Protocol):
    """Gives the cells of an epoch, group by group."""

    n_cells: int
    """Cells in an epoch."""

    def group(self, epoch: int, place: int) -> np.ndarray:
        """Give the positions of the cells of one group, in order; places beyond the last are those of another pass."""
        ...


class WholeOrder:
    """All cells as one group, for data in memory: an exact shuffle.

    Parameters
    ----------
    positions
        The cells of an epoch.
    shuffle_seed
        Seed of the order; None keeps the cells in order.
    """

    def __init__(self, positions: np.ndarray, *, shuffle_seed: int | None) -> None:
        self.positions = positions
        self.n_cells = len(positions)
        self.n_groups = 1
        self.shuffle_seed = shuffle_seed

    def group(self, epoch: int, place: int) -> np.ndarray:
        """Give all cells; ``place`` counts the passes."""
        if self.shuffle_seed is None:
            return self.positions
        passes = (place,) if place else ()
        return self.positions[numpy_rng(self.shuffle_seed, "order", epoch, *passes).permutation(self.n_cells)]


class BlockOrder:
    """Blocks of neighbouring cells in random order, the cells of some blocks shuffled together, for data on disk.

    Cells that are stored far apart but for a block are seen in any order. That is close to an exact shuffle where the
    cells were shuffled before they were stored, as an atlas is, and not where they lie sorted.

    Parameters
    ----------
    boundaries
        Positions at which a file (a shard) begins, and at the end the number of cells; no block reaches over one.
    subset
        The cells of an epoch; the others are passed over.
    shuffle_seed
        Seed of the order; None keeps the cells in order.
    block_size
        Cells of a block, read at one go.
    buffer_size
        Cells, about, that are held in memory and shuffled together.
    """

    def __init__(
        self,
        boundaries: np.ndarray,
        subset: CellSubset,
        *,
        shuffle_seed: int | None,
        block_size: int,
        buffer_size: int,
    ) -> None:
        self.boundaries = boundaries
        self.subset = subset
        self.n_cells = len(subset)
        self.shuffle_seed = shuffle_seed
        self.block_size = block_size
        # In order, the cells of a subset may all lie together; in random order blocks have about their share of them.
        share = 1.0 if shuffle_seed is None else len(subset) / max(1, int(boundaries[-1]))
        blocks_per_file = -(-np.diff(boundaries) // block_size)
        self._first_block = np.concatenate([[0], np.cumsum(blocks_per_file)])
        self.n_blocks = int(self._first_block[-1])
        self.blocks_per_group = max(1, min(self.n_blocks, round(buffer_size / block_size / max(share, 1e-9))))
        self.n_groups = -(-self.n_blocks // self.blocks_per_group)

    def group(self, epoch: int, place: int) -> np.ndarray:
        """Give the cells of some blocks, shuffled; places beyond the last group belong to a next pass."""
        passed, place = divmod(place, self.n_groups)
        first = place * self.blocks_per_group
        places = np.arange(first, min(first + self.blocks_per_group, self.n_blocks))
        if self.shuffle_seed is None:
            return self._cells_of(places)
        passes = (passed,) if passed else ()
        seed = derive_seed(self.shuffle_seed, "order of blocks", epoch, *passes)
        cells = self._cells_of(permuted(places, self.n_blocks, seed=seed))
        numpy_rng(self.shuffle_seed, "order in group", epoch, place, *passes).shuffle(cells)
        return cells

    def _cells_of(self, blocks: np.ndarray) -> np.ndarray:
        file = np.searchsorted(self._first_block, blocks, side="right") - 1
        start = self.boundaries[file] + (blocks - self._first_block[file]) * self.block_size
        stop = np.minimum(start + self.block_size, self.boundaries[file + 1])
        parts = [self.subset.within(int(a), int(b)) for a, b in zip(start, stop, strict=True)]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


class WeightedOrder:
    """Another order in which each cell comes as often, on average, as its weight says.

    A cell of weight 2.3 comes twice in a pass, and in three passes of ten once more. An epoch has as many cells as
    before. Copies of a cell lie in one group: a weight far above the number of minibatches in a group makes them come
    close together.

    Parameters
    ----------
    order
        What to weigh.
    codes
        A code per cell, looked up by position.
    weights
        Weight of each code; their mean over the cells is to be 1.
    seed
        Seed of the draws.
    """

    def __init__(self, order: Order, codes: "CodeColumn", weights: np.ndarray, *, seed: int) -> None:
        self.order = order
        self.codes = codes
        self.weights = weights
        self.n_cells = order.n_cells
        self.seed = seed

    def group(self, epoch: int, place: int) -> np.ndarray:
        """Give the cells of a group, some of them several times, some not at all."""
        cells = self.order.group(epoch, place)
        weight = self.weights[self.codes[cells]]
        copies = np.floor(weight + uniform(cells, seed=derive_seed(self.seed, "copies", epoch, place))).astype(np.int64)
        repeated = np.repeat(cells, copies)
        numpy_rng(self.seed, "order of copies", epoch, place).shuffle(repeated)
        return repeated


@runtime_checkable
class CodeColumn(Protocol):
    """Integer codes of cells, by position: an array, or a column on disk."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Give the codes of some cells."""
        ...


class CrossedCodes:
    """Codes of the combinations of several columns.

    Parameters
    ----------
    columns
        The columns' codes.
    n_codes
        How many codes each of them has.
    """

    def __init__(self, columns: Sequence[CodeColumn], n_codes: Sequence[int]) -> None:
        self.columns = columns
        self.n_codes = tuple(n_codes)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Give the codes of some cells."""
        return np.ravel_multi_index([column[rows] for column in self.columns], self.n_codes)


def balanced_weights(n_cells_by_code: np.ndarray) -> np.ndarray:
    """Give weights by which every code that occurs comes equally often.

    Parameters
    ----------
    n_cells_by_code
        How many cells have each code.
    """
    occurs = n_cells_by_code > 0
    share = n_cells_by_code.sum() / max(1, int(occurs.sum()))
    return np.where(occurs, share / np.maximum(n_cells_by_code, 1), 0.0)


def sizes_in(order: Order, codes: CodeColumn, n_codes: int) -> np.ndarray:
    """Count the cells of each code in an epoch."""
    sizes, seen, place = np.zeros(n_codes, dtype=np.int64), 0, 0
    while seen < order.n_cells:
        cells = order.group(0, place)
        sizes += np.bincount(codes[cells], minlength=n_codes)
        seen, place = seen + len(cells), place + 1
    return sizes
