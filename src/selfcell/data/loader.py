"""Minibatches of cells, from memory or from disk: shuffled anew each epoch by a seed, resumable at any minibatch."""

import collections
import contextlib
import dataclasses
import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

import numpy as np
import scipy.sparse as sp
import torch

from selfcell.core.errors import InputError
from selfcell.data.buffers import BufferPool
from selfcell.data.kernels import gather_cells, sum_cells
from selfcell.data.minibatch import CellMinibatch
from selfcell.data.order import CodeColumn, WholeOrder
from selfcell.data.packed import PackedMinibatch, as_bits, count_dtype, gene_dtype
from selfcell.data.rows import CellRows, GatheringRows, MemoryRows, RowBuffer
from selfcell.data.schedule import Cut, Position, Read, Schedule

_CELLS_AHEAD = 4096
_CELLS_AT_ONCE = 1024
"""Gathered by one thread."""
_T = TypeVar("_T")


class CellLoader:
    """Iterates over the minibatches of an epoch.

    The cells of every minibatch depend on the order and the epoch alone, not on threads or timing. :meth:`state_dict`
    holds a few numbers by which another loader goes on after the last minibatch that was given.

    Parameters
    ----------
    rows
        Where cells come from.
    schedule
        Which cells make up which minibatch.
    codes
        Integer codes of the cells to travel along, by position.
    names
        What the codes stand for; kept as an attribute for whoever reads the minibatches.
    reshuffle
        Take another order every epoch; otherwise that of the first.
    n_threads
        Threads that read ahead; 0 reads when a minibatch is asked for, which is right for data in memory.
    pin_memory
        Put minibatches into page-locked memory, for a GPU.
    packed
        Give minibatches as integers that become a :class:`CellMinibatch` where they are moved to.
    """

    def __init__(
        self,
        rows: CellRows,
        schedule: Schedule,
        *,
        codes: Mapping[str, CodeColumn] | None = None,
        names: Mapping[str, Sequence[str]] | None = None,
        reshuffle: bool = True,
        n_threads: int = 0,
        pin_memory: bool = False,
        packed: bool = False,
    ) -> None:
        self.rows = rows
        self.schedule = schedule
        self.codes = dict(codes or {})
        self.names = dict(names or {})
        self.reshuffle = reshuffle
        self.n_threads = n_threads
        self.packed = packed
        self.epoch = 0
        self._position = Position()
        self._told: Position | None = None
        self._buffers = BufferPool()
        self._outputs = BufferPool(pin_memory=pin_memory)

    @property
    def n_cells(self) -> int:
        """Cells in an epoch, over all processes."""
        return self.schedule.order.n_cells

    def __len__(self) -> int:
        """Give the number of minibatches in an epoch."""
        return len(self.schedule)

    def share(self, rank: int, world_size: int) -> "CellLoader":
        """Give a loader of the share that one of several processes has of each minibatch."""
        return CellLoader(
            self.rows,
            dataclasses.replace(self.schedule, rank=rank, world_size=world_size),
            codes=self.codes,
            names=self.names,
            reshuffle=self.reshuffle,
            n_threads=self.n_threads,
            pin_memory=self._outputs.pin_memory,
            packed=self.packed,
        )

    def plan(self, epoch: int = 0) -> Iterator[np.ndarray]:
        """Give the positions of the cells of each minibatch of an epoch, without reading them."""
        for cut in self.schedule.cuts(Position(epoch)):
            yield cut.rows

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next iteration belongs to; else each iteration is the next epoch."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Give how far the epoch has got."""
        return dataclasses.asdict(self._position)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Let the next iteration go on from what :meth:`state_dict` gave."""
        self._told = Position(**state)
        self.epoch = self._told.epoch

    def __iter__(self) -> Iterator[Any]:
        start, self._told = self._told, None
        if start is None or start.epoch != self.epoch:
            start = Position(self.epoch)
        if not self.reshuffle:
            start = dataclasses.replace(start, epoch=0)
        with contextlib.ExitStack() as stack:
            made: Any = self._minibatches(start, stack)
            if self.n_threads:
                made = stack.enter_context(_Ahead(made, max(1, _CELLS_AHEAD // self.schedule.minibatch_size)))
            for minibatch, after in made:
                self._position = after
                yield minibatch
        self.epoch += 1

    def _minibatches(
        self, start: Position, stack: contextlib.ExitStack
    ) -> Iterator[tuple[CellMinibatch | PackedMinibatch, Position]]:
        pool = stack.enter_context(ThreadPoolExecutor(self.n_threads)) if self.n_threads else None
        # Of its own: what is gathered now must not wait for what is read ahead.
        gathering = stack.enter_context(ThreadPoolExecutor(self.n_threads)) if self.n_threads > 1 else None
        events = self.schedule.events(start)
        waiting: collections.deque[Read | Cut] = collections.deque()
        buffers: dict[int, Future[RowBuffer]] = {}
        while True:
            reading = sum(not buffer.done() for buffer in buffers.values())
            while len(waiting) < 2 or (reading < self.n_threads and len(buffers) <= self.n_threads):
                event = next(events, None)
                if event is None:
                    break
                waiting.append(event)
                if isinstance(event, Read):
                    buffers[event.group] = self._submit(pool, event.rows)
                    reading += 1
            if not waiting:
                return
            event = waiting.popleft()
            if isinstance(event, Cut):
                at_hand = {group: buffers[group].result() for group, _ in event.pieces}
                yield self._gather(event, at_hand, gathering), event.after
                buffers = {group: buffer for group, buffer in buffers.items() if group >= event.after.group}

    def _submit(self, pool: ThreadPoolExecutor | None, rows: np.ndarray) -> Future[RowBuffer]:
        if pool is not None:
            return pool.submit(self.rows.read, rows, self._buffers)
        done: Future[RowBuffer] = Future()
        done.set_result(self.rows.read(rows, self._buffers))
        return done

    def _gather(
        self, cut: Cut, buffers: Mapping[int, RowBuffer], pool: ThreadPoolExecutor | None
    ) -> CellMinibatch | PackedMinibatch:
        rows = cut.rows
        if isinstance(self.rows, GatheringRows):
            minibatch: CellMinibatch | PackedMinibatch = self.rows.gather(rows)
        else:
            located = [(buffers[group], buffers[group].locate(rows)) for group, rows in cut.pieces]
            minibatch = self._packed(located, pool) if self.packed else self._plain(located, pool)
        codes = {key: np.asarray(column[rows], np.int64) for key, column in self.codes.items()}
        minibatch.codes = {key: torch.from_numpy(code) for key, code in codes.items()}
        minibatch.weight = cut.weight
        return minibatch

    def _plain(self, located: Sequence["_Located"], pool: ThreadPoolExecutor | None) -> CellMinibatch:
        offsets = _offsets(located)
        genes = self._outputs.take(int(offsets[-1]), np.int32)
        values = self._outputs.take(int(offsets[-1]), np.float32)
        self._copy(located, offsets, genes, values, pool)
        parts = [torch.from_numpy(array) for array in (values, genes, offsets)]
        return CellMinibatch(parts[0], parts[1], parts[2], n_genes=self.rows.n_genes)

    def _packed(self, located: Sequence["_Located"], pool: ThreadPoolExecutor | None) -> PackedMinibatch:
        offsets = _offsets(located)
        sizes = self._outputs.take(len(offsets) - 1, np.float32)

        def summed(part: "_Located", cells: slice) -> float:
            buffer, places = part
            return sum_cells(places, buffer.cell_offsets, buffer.values, sizes[cells])

        largest = max(_for_each(summed, located, pool), default=0.0)
        genes = self._outputs.take(int(offsets[-1]), gene_dtype(self.rows.n_genes))
        counts = self._outputs.take(int(offsets[-1]), count_dtype(largest))
        self._copy(located, offsets, genes, counts, pool)
        parts = [as_bits(array) for array in (counts, genes, offsets, sizes)]
        return PackedMinibatch(parts[0], parts[1], parts[2], parts[3], n_genes=self.rows.n_genes)

    def _copy(
        self,
        located: Sequence["_Located"],
        offsets: np.ndarray,
        genes: np.ndarray,
        values: np.ndarray,
        pool: ThreadPoolExecutor | None,
    ) -> None:
        def copied(part: "_Located", cells: slice) -> int:
            buffer, places = part
            to = slice(offsets[cells.start], offsets[cells.stop])
            arrays = (buffer.cell_offsets, buffer.gene_index, buffer.values)
            return int(gather_cells(places, *arrays, genes[to], values[to]))

        largest = max(_for_each(copied, located, pool), default=0)
        if largest >= self.rows.n_genes:
            raise InputError(f"A cell has a count in gene {largest}, but there are {self.rows.n_genes}: damaged data.")


_Located: TypeAlias = tuple[RowBuffer, np.ndarray]
"""Cells in memory, and the places there of those that are wanted."""


def _offsets(located: Sequence[_Located]) -> np.ndarray:
    lengths = [buffer.cell_offsets[places + 1] - buffer.cell_offsets[places] for buffer, places in located]
    return np.concatenate([np.zeros(1, dtype=np.int64), *lengths]).cumsum()


def _for_each(
    work: Callable[[_Located, slice], _T], located: Sequence[_Located], pool: ThreadPoolExecutor | None
) -> list[_T]:
    """Do something with some cells after the other, whose places in the minibatch are given along; in threads."""
    parts: list[tuple[_Located, slice]] = []
    at = 0
    for buffer, places in located:
        for start in range(0, len(places), _CELLS_AT_ONCE):
            some = places[start : start + _CELLS_AT_ONCE]
            parts.append(((buffer, some), slice(at, at + len(some))))
            at += len(some)
    # One part is done here: handing it over would take longer.
    return (
        [work(*part) for part in parts]
        if pool is None or len(parts) < 2
        else list(pool.map(work, *zip(*parts, strict=True)))
    )


class _Ahead:
    """Runs an iterator in a thread, some items ahead; an error in it is raised where its items are taken.

    Items change hands by the lot: each time costs a switch of threads, which is long beside a small minibatch. One lot
    is made while one is used, and no more, for the sake of memory.
    """

    def __init__(self, made: Iterator[Any], lot: int) -> None:
        self.made = made
        self.lot = lot
        self.lots: queue.SimpleQueue[tuple[list[Any], BaseException | None]] = queue.SimpleQueue()
        self.wanted = threading.Semaphore(1)
        self.stopped = False
        self.thread = threading.Thread(target=self._run, name="selfcell-loader", daemon=True)

    def __enter__(self) -> "_Ahead":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped = True
        self.wanted.release()
        self.thread.join()

    def __iter__(self) -> Iterator[Any]:
        while True:
            items, error = self.lots.get()
            self.wanted.release()
            while items:
                # Taken out, lest the memory of a minibatch be held until the next lot.
                yield items.pop(0)
            if isinstance(error, _Ended):
                return
            if error is not None:
                raise error

    def _run(self) -> None:
        error: BaseException | None = None
        while error is None:
            self.wanted.acquire()
            if self.stopped:
                return
            items: list[Any] = []
            try:
                items.extend(itertools.islice(self.made, self.lot))
                error = None if len(items) == self.lot else _Ended()
            except BaseException as raised:  # noqa: BLE001 - it is raised in the thread that takes the items
                error = raised
            self.lots.put((items, error))
            del items


class _Ended(Exception):  # noqa: N818 - nothing is wrong
    """There are no more items."""


def cell_loader(
    counts: sp.csr_matrix,
    *,
    minibatch_size: int,
    codes: Mapping[str, np.ndarray] | None = None,
    shuffle_seed: int | None = None,
    positions: np.ndarray | None = None,
    min_cells: int = 1,
) -> CellLoader:
    """Make a loader of cells in memory.

    Parameters
    ----------
    counts
        Cells x genes, in the encoder's order of genes.
    minibatch_size
        Cells per minibatch; the last one of an epoch has what is left.
    codes
        Integer codes per cell to travel along.
    shuffle_seed
        Seed of the order; None keeps the cells in order.
    positions
        Take these cells only, in this order where they are not shuffled.
    min_cells
        Fewer cells than this at the end of an epoch join the minibatch before.
    """
    everything = np.arange(counts.shape[0]) if positions is None else positions
    order = WholeOrder(everything, shuffle_seed=shuffle_seed)
    return CellLoader(MemoryRows(counts), Schedule(order, minibatch_size, min_cells=min_cells), codes=codes)
