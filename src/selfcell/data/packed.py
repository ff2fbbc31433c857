"""Minibatches on their way to a GPU, in two to four bytes an entry: they are made floating-point numbers there."""

import collections
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from selfcell.data.minibatch import CellMinibatch


def gene_dtype(n_genes: int) -> np.dtype[Any]:
    """Give the narrowest type for the places of genes: uint16 up to 65,536 genes, else int32."""
    return np.dtype(np.uint16 if n_genes <= 2**16 else np.int32)


def count_dtype(largest: float) -> np.dtype[Any]:
    """Give the narrowest type for counts up to the largest, which is infinite where some are not whole."""
    return np.dtype(np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.float32)


def as_bits(array: Shaped[np.ndarray, " n_values"]) -> Shaped[Tensor, " n_values"]:
    """Give an array to torch, which on a GPU knows little of uint16: such an array as int16 of the same bits."""
    return torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array)


def widened(bits: Shaped[Tensor, " n_values"]) -> Shaped[Tensor, " n_values"]:
    """Undo :func:`as_bits`: int16 becomes int32 between 0 and 65,535; other types stay."""
    return bits.int() & 0xFFFF if bits.dtype == torch.int16 else bits


@dataclass(slots=True)
class PackedMinibatch:
    """Some cells as integers (compressed sparse rows); :meth:`to` makes a :class:`CellMinibatch` of them."""

    counts: Shaped[Tensor, " n_values"]
    """Raw counts of the non-zero entries: uint8, the bits of uint16 as int16, or float32."""
    gene_index: Int[Tensor, " n_values"]
    """Gene of each entry: the bits of uint16 as int16, or int32."""
    cell_offsets: Int[Tensor, " n_offsets"]
    """Where in ``counts`` each cell begins, and at the end their number: ``n_cells + 1`` positions."""
    library_size: Float[Tensor, " n_cells"]
    """Counts per cell."""
    n_genes: int
    codes: Mapping[str, Int[Tensor, " n_cells"]] = field(default_factory=dict)
    """Codes of the obs columns that were asked for."""
    weight: float = 1.0
    """How much these cells count beside those of other processes, where these have more or fewer cells."""

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.cell_offsets.shape[0] - 1

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> CellMinibatch:
        """Bring the cells to a device and widen them there; from page-locked memory without waiting for it."""
        names = list(self.codes)
        parts = [self.counts, self.gene_index, self.cell_offsets, self.library_size, *self.codes.values()]
        moved = brought(parts, torch.device(device)) if non_blocking else [part.to(device) for part in parts]
        return CellMinibatch(
            values=widened(moved[0]).float(),
            gene_index=widened(moved[1]),
            cell_offsets=moved[2],
            n_genes=self.n_genes,
            codes=dict(zip(names, moved[4:], strict=True)),
            weight=self.weight,
            known_library_size=moved[3],
        )


_under_way: collections.deque[tuple[torch.cuda.Event, list[Tensor]]] = collections.deque()
"""What is being copied from page-locked memory, which must not be used again before the copy is made."""


def brought(parts: list[Tensor], device: torch.device) -> list[Tensor]:
    """Copy tensors to a device; to a GPU on a stream of their own, beside what it computes."""
    if device.type != "cuda":
        return [part.to(device) for part in parts]
    while _under_way and _under_way[0][0].query():  # type: ignore[no-untyped-call]
        _under_way.popleft()
    computing = torch.cuda.current_stream(device)
    copying = _copy_stream(device)
    with torch.cuda.stream(copying):
        moved = [part.to(device, non_blocking=True) for part in parts]
        copied = copying.record_event()
    _under_way.append((copied, parts))
    computing.wait_event(copied)
    for part in moved:
        part.record_stream(computing)
    return moved


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
