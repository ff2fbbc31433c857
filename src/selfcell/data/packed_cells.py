"""Many cells on a device in about three bytes an entry, of which minibatches are put together there.

Compressed sparse rows: genes as uint16 and counts as uint8, with the few counts that do not fit in a list beside them;
or counts as uint16, or float32, where that takes less. Where cells begin is known to the host, so that no minibatch
waits for the device.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from selfcell.data.buffers import BufferPool
from selfcell.data.kernels import gather_cells
from selfcell.data.minibatch import CellMinibatch, index_of_cells
from selfcell.data.packed import PackedMinibatch, as_bits, brought, gene_dtype, widened

_LIMITS = {torch.uint8: 2**8 - 1, torch.int16: 2**16 - 1}
BYTES_BESIDE = {2: 6, 4: 8}
"""Of a count in the list, by the bytes of a gene."""


@dataclass
class PackedCells:
    """Some cells of a source, known by their positions there.

    Parameters
    ----------
    offsets
        Where the entries of each cell of the source begin, and at the end their number; those of a cell that is not
        held end where they begin.
    n_genes
        Genes.
    counts_dtype
        uint8, int16 for the bits of uint16, or float32.
    device
        Where to hold them.
    """

    offsets: Int[np.ndarray, " n_offsets"]
    n_genes: int
    counts_dtype: torch.dtype
    device: torch.device
    _beside: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Take the memory."""
        n_values, n_cells = int(self.offsets[-1]), len(self.offsets) - 1
        of_genes = torch.int16 if gene_dtype(self.n_genes) == np.uint16 else torch.int32
        self.gene_index = torch.empty(n_values, dtype=of_genes, device=self.device)
        self.counts = torch.empty(n_values, dtype=self.counts_dtype, device=self.device)
        self.library_size = np.zeros(n_cells, dtype=np.float32)
        self.offsets_beside = np.zeros(n_cells + 1, dtype=np.int64)
        self._pool = BufferPool(pin_memory=self.device.type == "cuda")

    def put(self, positions: Int[np.ndarray, " n_cells"], cells: PackedMinibatch) -> None:
        """Store cells at their positions, which ascend within a minibatch and from one to the next."""
        start = int(self.offsets[positions[0]])
        part = slice(start, start + len(cells.counts))
        self.gene_index[part] = cells.gene_index.to(self.device)
        counts = widened(cells.counts.to(self.device))
        limit = _LIMITS.get(self.counts_dtype)
        if limit is not None and cells.counts.dtype not in {torch.uint8, self.counts_dtype}:
            aside = counts > limit
            if counts.is_floating_point():
                aside |= counts != counts.floor()
            self._put_beside(positions, cells.cell_offsets, aside, counts)
            # By way of int32: what a float too large for int16 becomes there is not said.
            counts = counts.masked_fill(aside, 0).int()
        self.counts[part] = counts.to(self.counts_dtype)
        self.library_size[positions] = cells.library_size.numpy()

    def _put_beside(self, positions: np.ndarray, cell_offsets: Tensor, aside: Tensor, counts: Tensor) -> None:
        entry = aside.nonzero()[:, 0]
        offsets = cell_offsets.to(self.device)
        cell = torch.searchsorted(offsets, entry, right=True) - 1
        place = (entry - offsets[cell]).to(self.gene_index.dtype)
        self._beside.append((place, counts[entry].float()))
        self.offsets_beside[positions + 1] = np.bincount(cell.cpu().numpy(), minlength=len(positions))

    def finish(self) -> None:
        """Put the list of large counts together, after the last cell."""
        self.offsets_beside.cumsum(out=self.offsets_beside)
        nothing = torch.empty(0, device=self.device)
        parts = self._beside or [(nothing.to(self.gene_index.dtype), nothing)]
        self.place_beside, self.counts_beside = (torch.cat(part) for part in zip(*parts, strict=True))
        self._beside.clear()

    def minibatch(self, positions: Int[np.ndarray, " n_cells"]) -> CellMinibatch:
        """Give some cells, in this order, on the device."""
        return (self.by_loops if self.device.type == "cpu" else self.on_device)(positions)

    def by_loops(self, positions: Int[np.ndarray, " n_cells"]) -> CellMinibatch:
        """Put a minibatch together on the CPU."""
        _, offsets = _plan(self.offsets, positions)
        genes, values = self._pool.take(int(offsets[-1]), np.int32), self._pool.take(int(offsets[-1]), np.float32)
        arrays = (_unsigned(self.gene_index), _unsigned(self.counts))
        gather_cells(positions, self.offsets, *arrays, genes, values)
        starts, begins = _plan(self.offsets_beside, positions)
        entry = np.arange(begins[-1]) + np.repeat(starts - begins[:-1], np.diff(begins))
        place = np.repeat(offsets[:-1], np.diff(begins)) + _unsigned(self.place_beside)[entry]
        values[place] = self.counts_beside.numpy()[entry]
        parts = [torch.from_numpy(array) for array in (values, genes, offsets, self.library_size[positions])]
        return CellMinibatch(parts[0], parts[1], parts[2], self.n_genes, known_library_size=parts[3])

    def on_device(self, positions: Int[np.ndarray, " n_cells"]) -> CellMinibatch:
        """Put a minibatch together on the device, without waiting for it."""
        plans = [*_plan(self.offsets, positions), *_plan(self.offsets_beside, positions)]
        n_values, n_beside = int(plans[1][-1]), int(plans[3][-1])
        plan = self._pool.take(sum(map(len, plans)), np.int64)
        np.concatenate(plans, out=plan)
        sizes = self._pool.take(len(positions), np.float32)
        sizes[:] = self.library_size[positions]
        moved, library_size = brought([as_bits(plan), as_bits(sizes)], self.device)
        starts, offsets, starts_beside, offsets_beside = torch.split(moved, [len(part) for part in plans])
        _, entry = _entries(starts, offsets, n_values)
        values = widened(self.counts[entry]).float()
        if n_beside:
            cell, beside = _entries(starts_beside, offsets_beside, n_beside)
            values[offsets[cell] + widened(self.place_beside[beside])] = self.counts_beside[beside]
        return CellMinibatch(
            values=values,
            gene_index=widened(self.gene_index[entry]),
            cell_offsets=offsets,
            n_genes=self.n_genes,
            known_library_size=library_size,
        )


def _unsigned(bits: Tensor) -> np.ndarray:
    """Give what was packed to loops: int16 stands for uint16."""
    array: np.ndarray = bits.numpy()
    return array.view(np.uint16) if bits.dtype == torch.int16 else array


def _plan(offsets: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give where the entries of some cells begin, and where they will begin in a minibatch of these cells."""
    starts = offsets[positions]
    return starts, np.concatenate([np.zeros(1, dtype=np.int64), offsets[positions + 1] - starts]).cumsum()


def _entries(
    starts: Int[Tensor, " n_cells"], offsets: Int[Tensor, " n_offsets"], n_values: int
) -> tuple[Int[Tensor, " n_values"], Int[Tensor, " n_values"]]:
    """Give cell and place of each entry of some stretches."""
    cell = index_of_cells(offsets, n_values)
    return cell, torch.arange(n_values, device=starts.device) + (starts - offsets[:-1])[cell]
