"""All cells of a training held where it runs: on a GPU, or packed in main memory."""

import logging
import threading
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from selfcell.core.errors import InputError
from selfcell.core.memory import available_memory
from selfcell.core.words import in_bytes
from selfcell.data.buffers import BufferPool
from selfcell.data.loader import CellLoader
from selfcell.data.minibatch import CellMinibatch
from selfcell.data.order import Order
from selfcell.data.packed import gene_dtype
from selfcell.data.packed_cells import BYTES_BESIDE, PackedCells
from selfcell.data.rows import CellRows, MeasuredRows, RowBuffer
from selfcell.data.schedule import Schedule

logger = logging.getLogger(__name__)

_CELLS_AT_ONCE = 2048
_SAMPLE_STRETCHES, _SAMPLE_CELLS = 16, 128


@dataclass(frozen=True)
class ResidentSize:
    """What cells will take on the device."""

    counts_dtype: torch.dtype
    """uint8, int16 for the bits of uint16, or float32."""
    n_bytes: int
    """Of the entries, and about of the counts that do not fit into the type."""


class ResidentRows:
    """Some cells of a source on a device, read when the first of them is asked for.

    Parameters
    ----------
    rows
        The source: cells in memory, or an atlas.
    order
        The cells to hold; their positions ascend.
    device
        Where to hold them.
    room
        Bytes of the device that are to stay free, for the training itself.
    n_threads
        Threads that read ahead while they are loaded.

    Raises
    ------
    InputError
        If they need more memory than is free, or the source is a file read from disk; before any cell is loaded.
    """

    def __init__(self, rows: CellRows, order: Order, *, device: torch.device, room: int, n_threads: int = 0) -> None:
        if not isinstance(rows, MeasuredRows):
            raise InputError(
                "data.resident is for an atlas, or for cells in memory: leave data.backed (--backed) out, or build an "
                "atlas (selfcell atlas build)."
            )
        self.rows = rows
        self.order = order
        self.device = device
        self.n_threads = n_threads
        self.n_genes = rows.n_genes
        self.boundaries = rows.boundaries
        self._offsets = _offsets_of(rows, order)
        self.size = _size(rows, self._offsets)
        _check_room(self.size, order.n_cells, device=device, room=room)
        self._cells: PackedCells | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: np.ndarray, pool: BufferPool) -> RowBuffer:  # noqa: ARG002 - the cells stay on the device
        """Load the cells if they are not; :meth:`gather` gives them."""
        self.load()
        nothing = np.zeros(1, dtype=np.int64)
        return RowBuffer(nothing, nothing[:0], nothing[:0], nothing, nothing)

    def gather(self, rows: np.ndarray) -> CellMinibatch:
        """Give some cells, in this order, on the device."""
        return self.load().minibatch(rows)

    def load(self) -> PackedCells:
        """Give all cells; the first time they are read from the source."""
        with self._lock:
            if self._cells is None:
                self._cells = self._read_all()
            return self._cells

    def _read_all(self) -> PackedCells:
        cells = PackedCells(self._offsets, self.n_genes, self.size.counts_dtype, self.device)
        loader = CellLoader(
            self.rows,
            Schedule(self.order, _CELLS_AT_ONCE),
            codes={"position": _Positions()},
            n_threads=self.n_threads,
            packed=True,
        )
        logger.info(
            "Loading %s cells onto %s: %s.", f"{self.order.n_cells:,}", self.device, in_bytes(self.size.n_bytes)
        )
        bar = {"desc": f"Loading onto {self.device}", "unit": " cells", "unit_scale": True, "disable": None}
        with tqdm(total=self.order.n_cells, **bar) as progress:
            for part in loader:
                cells.put(part.codes["position"].numpy(), part)
                progress.update(part.n_cells)
        cells.finish()
        return cells


class _Positions:
    """The position of each cell as its code."""

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return rows


def _offsets_of(rows: MeasuredRows, order: Order) -> np.ndarray:
    """Give where the entries of each cell of the source begin where those of an order are held."""
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    n_seen, place = 0, 0
    while n_seen < order.n_cells:
        cells = order.group(0, place)
        if len(cells):
            offsets[cells + 1] = rows.lengths(cells)
        n_seen, place = n_seen + len(cells), place + 1
    return offsets.cumsum(out=offsets)


def _size(rows: CellRows, offsets: np.ndarray) -> ResidentSize:
    """Choose the type of counts that takes the least, by a sample of cells."""
    values = _sample(rows, np.flatnonzero(np.diff(offsets)))
    bytes_of_gene = gene_dtype(rows.n_genes).itemsize
    share_beside = {
        torch.uint8: np.mean((values > 2**8 - 1) | (values % 1 != 0)) if len(values) else 0.0,
        torch.int16: np.mean((values > 2**16 - 1) | (values % 1 != 0)) if len(values) else 0.0,
        torch.float32: 0.0,
    }
    n_bytes = {
        dtype: int(offsets[-1] * (bytes_of_gene + dtype.itemsize + share * BYTES_BESIDE[bytes_of_gene]))
        for dtype, share in share_beside.items()
    }
    return ResidentSize(*min(n_bytes.items(), key=lambda item: item[1]))


def _sample(rows: CellRows, held: np.ndarray) -> np.ndarray:
    """Give the counts of some stretches of the cells that are held, spread over all of them."""
    firsts = np.linspace(0, max(0, len(held) - _SAMPLE_CELLS), _SAMPLE_STRETCHES).astype(np.int64)
    places = np.unique(firsts[:, None] + np.arange(_SAMPLE_CELLS))
    cells = held[places[places < len(held)]]
    found = rows.read(cells, BufferPool())
    at = found.locate(cells)
    stretches = zip(found.cell_offsets[at], found.cell_offsets[at + 1], strict=True)
    return np.concatenate([np.empty(0), *(found.values[start:stop] for start, stop in stretches)])


def _check_room(size: ResidentSize, n_cells: int, *, device: torch.device, room: int) -> None:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    if free is not None and size.n_bytes + room > free:
        raise InputError(
            f"data.resident needs {in_bytes(size.n_bytes)} on {device} for {n_cells:,} cells and {in_bytes(room)} "
            f"for training itself, but {in_bytes(free)} are free. Leave --resident out to stream the cells, take "
            "fewer of them (--where) or smaller minibatches (training.minibatch_size), or a device with more memory."
        )
