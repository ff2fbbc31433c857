"""Run files: the cells of one stretch of an input, sorted by the shard they go to; what a build keeps on its way.

A run file is a line of JSON and then, one after another, plain arrays of which the part of each shard is a stretch:
``keys``, ``rows``, ``lengths`` and ``obs`` of the cells, ``columns`` and ``counts`` of their entries.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from selfcell.core.atomic import atomic_path
from selfcell.core.errors import InputError
from selfcell.data.atlas.kernels import as_bytes, copy_rows

_CELLS_AT_ONCE = 4096
_SECTIONS = ("keys", "rows", "lengths", "obs", "columns", "counts")


@dataclass(frozen=True)
class Block:
    """Some cells of an input, ready for the atlas; those left out are gone from it."""

    rows: np.ndarray
    """Where in the input they stand, int64."""
    keys: np.ndarray
    """A 64-bit hash of name and counts."""
    shards: np.ndarray
    """The shard each goes to."""
    lengths: np.ndarray
    """Entries of each, int32."""
    columns: np.ndarray
    """Gene of each entry, uint16 or uint32."""
    counts: np.ndarray
    """Count of each entry, uint16 or uint32."""
    obs: np.ndarray
    """Records; see :mod:`selfcell.data.atlas.spool`."""

    @property
    def n_bytes(self) -> int:
        """Memory it takes."""
        return sum(getattr(self, section).nbytes for section in (*_SECTIONS, "shards"))


@dataclass(frozen=True)
class RunFile:
    """A finished run file."""

    path: Path

    @cached_property
    def header(self) -> dict[str, Any]:
        """What is in it, and where."""
        with self.path.open("rb") as stream:
            header: dict[str, Any] = json.loads(stream.readline())
            header["begin"] = stream.tell()
        for unit in ("cell_offsets", "value_offsets"):
            header[unit] = np.array(header[unit], dtype=np.int64)
        return header

    def part(self, section: str, shard: int) -> np.ndarray:
        """Read what one of the sections has for one shard."""
        unit = "value_offsets" if section in {"columns", "counts"} else "cell_offsets"
        offsets = self.header[unit]
        return self._read(section, int(offsets[shard]), int(offsets[shard + 1]))

    def whole(self, section: str) -> np.ndarray:
        """Read a section whole."""
        return self._read(section, 0, int(self.header["cell_offsets"][-1]))

    def dtype(self, section: str) -> np.dtype[Any]:
        """Type of a section's items."""
        described = self.header["dtypes"][section]
        return np.dtype(described if isinstance(described, str) else [tuple(field) for field in described])

    def _read(self, section: str, start: int, stop: int) -> np.ndarray:
        dtype = self.dtype(section)
        begin = self.header["begin"] + self.header["sections"][section] + start * dtype.itemsize
        read = np.fromfile(self.path, dtype=dtype, count=stop - start, offset=begin)
        if len(read) != stop - start:
            raise InputError(f"{self.path} is cut short. Remove it and give the same command again.")
        return read


def run_path(folder: Path, number: int, *, start: int, stop: int) -> Path:
    """Name the run file of the cells ``start`` to ``stop`` of an input."""
    return folder / f"{number:06d}_{start:012d}_{stop:012d}.run"


def finished_runs(folder: Path, n_inputs: int) -> list[list[tuple[int, int, RunFile]]]:
    """List the runs there are, for each input in order, as start, stop, file.

    Of two that overlap, as a worker that outlived its build may leave them, the later goes.
    """
    found: list[list[tuple[int, int, RunFile]]] = [[] for _ in range(n_inputs)]
    for path in sorted(folder.glob("[0-9]*.run")):
        number, start, stop = map(int, path.stem.split("_"))
        if found[number] and found[number][-1][1] > start:
            path.unlink(missing_ok=True)
        else:
            found[number].append((start, stop, RunFile(path)))
    return found


def gaps(runs: Iterable[tuple[int, int, RunFile]], n_cells: int) -> list[tuple[int, int]]:
    """List the stretches of an input that no run has."""
    missing, reached = [], 0
    for start, stop, _ in runs:
        if start > reached:
            missing.append((reached, start))
        reached = stop
    return [*missing, (reached, n_cells)] if reached < n_cells else missing


def write_run(path: Path, blocks: Sequence[Block], *, n_shards: int, about: dict[str, Any]) -> None:
    """Write a run file, atomically, in little more memory than the blocks take.

    Parameters
    ----------
    path
        See :func:`run_path`.
    blocks
        The cells, in the order of the input.
    n_shards
        Number of shards that cells go to.
    about
        What else is to stand in its header.
    """
    cells = _Cells.of(blocks)
    order = np.argsort(cells.shards, kind="stable")
    lengths = cells.lengths[order]
    cell_offsets = np.searchsorted(cells.shards[order], np.arange(n_shards + 1))
    value_offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[cell_offsets]
    per_cell = {"keys": cells.keys, "rows": cells.rows, "lengths": cells.lengths, "obs": cells.obs}
    dtypes = {section: array.dtype for section, array in per_cell.items()}
    dtypes |= {section: np.result_type(*[getattr(block, section) for block in blocks]) for section in _SECTIONS[4:]}
    n_items = {section: len(order) if section in per_cell else int(value_offsets[-1]) for section in _SECTIONS}
    begins = np.cumsum([0, *(n_items[section] * dtypes[section].itemsize for section in _SECTIONS)]).tolist()
    header = about | {
        "dtypes": {name: dtype.descr if dtype.names else dtype.str for name, dtype in dtypes.items()},
        "sections": dict(zip(_SECTIONS, begins, strict=False)),
        "cell_offsets": cell_offsets.tolist(),
        "value_offsets": value_offsets.tolist(),
    }
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write((json.dumps(header) + "\n").encode())
        for array in per_cell.values():
            array[order].tofile(stream)
        for section in ("columns", "counts"):
            _write_values(stream.write, blocks, section, dtype=dtypes[section], cells=cells, order=order)
        stream.flush()
        os.fsync(stream.fileno())


@dataclass(frozen=True)
class _Cells:
    """The cells of all blocks, without their entries."""

    rows: np.ndarray
    keys: np.ndarray
    shards: np.ndarray
    lengths: np.ndarray
    obs: np.ndarray
    block: np.ndarray
    """The block of each."""
    begins: np.ndarray
    """Where in the block its entries begin."""

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> "_Cells":
        fields = ("rows", "keys", "shards", "lengths", "obs")
        return cls(
            **{field: np.concatenate([getattr(block, field) for block in blocks]) for field in fields},
            block=np.repeat(np.arange(len(blocks)), [len(block.rows) for block in blocks]),
            begins=np.concatenate([np.cumsum(block.lengths, dtype=np.int64) - block.lengths for block in blocks]),
        )


def _write_values(
    write: Callable[[Any], Any],
    blocks: Sequence[Block],
    section: str,
    *,
    dtype: np.dtype[Any],
    cells: _Cells,
    order: np.ndarray,
) -> None:
    """Write the entries of all cells in order, some thousand cells at a time."""
    for start in range(0, len(order), _CELLS_AT_ONCE):
        some = order[start : start + _CELLS_AT_ONCE]
        lengths = cells.lengths[some].astype(np.int64)
        targets = np.cumsum(lengths) - lengths
        slab = np.empty(int(lengths.sum()), dtype=dtype)
        for number, block in enumerate(blocks):
            mine = cells.block[some] == number
            values = np.ascontiguousarray(getattr(block, section), dtype=dtype)
            size = dtype.itemsize
            copy_rows(
                as_bytes(values),
                cells.begins[some][mine] * size,
                as_bytes(slab),
                targets[mine] * size,
                lengths[mine] * size,
            )
        write(as_bytes(slab))
