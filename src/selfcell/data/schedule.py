"""Cut the order of an epoch into minibatches, and each minibatch among the processes of a distributed training.

The cells of a minibatch of all processes together do not depend on how many processes there are. Within it each process
takes a stretch of cells that lie near one another, so it reads only about its share of the blocks.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from selfcell.core.errors import InputError
from selfcell.data.order import Order


@dataclass(frozen=True)
class Position:
    """How far an epoch has got: all there is to know to go on from there."""

    epoch: int = 0
    minibatch: int = 0
    """Minibatches that have been given."""
    group: int = 0
    """The group that holds the next cell."""
    offset: int = 0
    """The cells of that group that have been given."""


@dataclass(frozen=True)
class Read:
    """A group whose cells are needed now."""

    group: int
    rows: np.ndarray
    """Positions of the cells that this process needs of it; with repeats where a cell comes several times."""


@dataclass(frozen=True)
class Cut:
    """A minibatch whose groups have all been named by a :class:`Read` before."""

    pieces: tuple[tuple[int, np.ndarray], ...]
    """Group and positions of the cells, in order."""
    after: Position
    """Where the next minibatch begins."""
    weight: float = 1.0
    """How many cells there are beside the mean over the processes."""

    @property
    def rows(self) -> np.ndarray:
        """Positions of the cells of this process."""
        return np.concatenate([np.empty(0, dtype=np.int64), *(rows for _, rows in self.pieces)])


@dataclass(frozen=True)
class Schedule:
    """How an order is cut.

    Parameters
    ----------
    order
        The order of the cells.
    minibatch_size
        Cells of a minibatch, of all processes together.
    rank, world_size
        Which process of how many.
    min_cells
        Where fewer cells than this are left for each process at the end of an epoch, they join the minibatch before.
    equal_shares
        Give every process as many cells as the others, for losses that compare the cells of all; at the end of an epoch
        some may have to be left out, fewer than there are processes. Otherwise shares may differ by a cell.

    Raises
    ------
    InputError
        If there are not enough cells for every process, or they cannot be shared equally.
    """

    order: Order
    minibatch_size: int
    rank: int = 0
    world_size: int = 1
    min_cells: int = 1
    equal_shares: bool = False

    def __post_init__(self) -> None:
        """Refuse too few cells."""
        needed = self.world_size * self.min_cells
        for n_cells, what in ((self.order.n_cells, "cells"), (self.minibatch_size, "cells in a minibatch")):
            if n_cells < needed:
                raise InputError(
                    f"{n_cells:,} {what} are too few: {self.world_size} processes need at least {self.min_cells} each."
                )
        if self.equal_shares and self.minibatch_size % self.world_size:
            fitting = self.minibatch_size // self.world_size * self.world_size
            raise InputError(
                f"{self.minibatch_size:,} cells in a minibatch (training.minibatch_size) cannot be shared equally by "
                f"{self.world_size} processes. Take {fitting:,}."
            )

    def __len__(self) -> int:
        whole, left = divmod(self.order.n_cells, self.minibatch_size)
        return max(1, whole + (left >= self.min_cells * self.world_size))

    def events(self, start: Position) -> Iterator[Read | Cut]:
        """Give what is to be read and which minibatches are to be made of it, from a position on."""
        wanted: dict[int, list[np.ndarray]] = {}
        waiting: list[Cut] = []
        for cut in self.cuts(start):
            waiting.append(cut)
            for group, rows in cut.pieces:
                wanted.setdefault(group, []).append(rows)
            # No later minibatch has cells of these.
            for group in [group for group in wanted if group < cut.after.group or cut.after.epoch > start.epoch]:
                yield Read(group, np.concatenate(wanted.pop(group)))
            while waiting and not any(group in wanted for group, _ in waiting[0].pieces):
                yield waiting.pop(0)

    def cuts(self, start: Position) -> Iterator[Cut]:
        """Give the minibatches of this process, from a position on."""
        carried: list[tuple[int, np.ndarray]] = []
        n_rows: dict[int, int] = {}
        groups = itertools.count(start.group)
        for minibatch in range(start.minibatch, len(self)):
            size = self.size_of(minibatch)
            while sum(len(rows) for _, rows in carried) < size:
                group = next(groups)
                rows = self.order.group(start.epoch, group)
                n_rows[group] = len(rows)
                carried.append((group, rows[start.offset :] if group == start.group else rows))
            taken, carried = _split(carried, size)
            group, rest = carried[0] if carried else (max(n_rows) + 1, None)
            n_rows = {place: n for place, n in n_rows.items() if place >= group} or {group - 1: 0}
            offset = 0 if rest is None else n_rows[group] - len(rest)
            is_last = minibatch + 1 == len(self)
            after = Position(start.epoch + 1) if is_last else Position(start.epoch, minibatch + 1, group, offset)
            pieces = self._share(taken, size)
            n_mine = sum(len(rows) for _, rows in pieces)
            yield Cut(pieces, after, weight=n_mine * self.world_size / size)

    def size_of(self, minibatch: int) -> int:
        """Give the cells of a minibatch over all processes; all but the last are of one size."""
        if minibatch < len(self) - 1:
            return self.minibatch_size
        left = self.order.n_cells - minibatch * self.minibatch_size
        return left // self.world_size * self.world_size if self.equal_shares else left

    def _share(self, pieces: list[tuple[int, np.ndarray]], size: int) -> tuple[tuple[int, np.ndarray], ...]:
        """Give the part of a minibatch that belongs to this process."""
        if self.world_size == 1:
            return tuple(pieces)
        start, stop = (size * rank // self.world_size for rank in (self.rank, self.rank + 1))
        near = [(group, np.sort(rows)) for group, rows in pieces]
        _, rest = _split(near, start)
        return tuple(_split(rest, stop - start)[0])


def _split(
    pieces: list[tuple[int, np.ndarray]], size: int
) -> tuple[list[tuple[int, np.ndarray]], list[tuple[int, np.ndarray]]]:
    """Split pieces after so many cells."""
    taken, rest = [], []
    for group, rows in pieces:
        now = min(size, len(rows))
        size -= now
        if now:
            taken.append((group, rows[:now]))
        if now < len(rows):
            rest.append((group, rows[now:]))
    return taken, rest
