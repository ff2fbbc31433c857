"""Read cells of an atlas, block by block, straight from the files of its shards."""

import collections
import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from selfcell.core.errors import InputError
from selfcell.data.atlas.index import SHARD_FOLDER, AtlasIndex
from selfcell.data.buffers import BufferPool
from selfcell.data.rows import RowBuffer, runs_of

if TYPE_CHECKING:
    from selfcell.data.atlas.remote_rows import RemoteShards

_MAX_GAP = 8
_MAX_GAP_OF_OFFSETS = 4096
_FILES_OPEN = 256


def missing_or_damaged(path: Path | str, error: Exception) -> InputError:
    """Give what to tell the user of a part of a shard that cannot be read."""
    return InputError(f"{path} is missing or damaged ({error}). Try `selfcell atlas verify`.")


class ArrayFile:
    """A one-dimensional array of a shard that is stored in one uncompressed chunk: read by ``pread``, at any place."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path = path
        self.dtype = dtype
        self._descriptor = os.open(path, os.O_RDONLY)
        # Closed with the last that reads from it, in whatever thread that is.
        weakref.finalize(self, os.close, self._descriptor)

    def announce(self, start: int, n_values: int) -> None:
        """Let the system fetch what is read soon: a disk is faster with several requests at once."""
        size = self.dtype.itemsize
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, start * size, n_values * size, os.POSIX_FADV_WILLNEED)

    def read_into(self, start: int, out: np.ndarray) -> None:
        """Fill ``out`` with the values from ``start`` on."""
        if out.dtype != self.dtype:
            narrow = np.empty(len(out), dtype=self.dtype)
            self.read_into(start, narrow)
            out[:] = narrow
            return
        view, at = out.data.cast("B"), start * self.dtype.itemsize
        while view.nbytes:
            n_read = os.preadv(self._descriptor, [view], at)
            if not n_read:
                raise InputError(f"{self.path} is too short: it is truncated. `selfcell atlas verify` tells what else.")
            view, at = view[n_read:], at + n_read


class ZarrFile:
    """A one-dimensional array of a shard in compressed chunks."""

    def __init__(self, path: Path, array: Any) -> None:
        self.path = path
        self.array = array

    def announce(self, start: int, n_values: int) -> None:
        """Do nothing: zarr fetches chunks when they are read."""

    def read_into(self, start: int, out: np.ndarray) -> None:
        """Fill ``out`` with the values from ``start`` on."""
        try:
            out[:] = self.array[start : start + len(out)]
        except Exception as error:
            raise missing_or_damaged(self.path, error) from error


class ShardFiles:
    """The arrays of the shards, opened when they are first read, and not too many at once."""

    def __init__(self, path: Path, index: AtlasIndex) -> None:
        self.path = path
        self.index = index
        self._open: collections.OrderedDict[tuple[int, str], ArrayFile | ZarrFile] = collections.OrderedDict()
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        """The folder, for messages."""
        return str(self.path)

    def read(self, parts: Sequence[tuple[int, str, int, np.ndarray]]) -> None:
        """Fill arrays from shards, arrays such as ``X/data``, and positions in them."""
        files = [self.get(shard, array) for shard, array, _, _ in parts]
        for file, (_, _, start, out) in zip(files, parts, strict=True):
            file.announce(start, len(out))
        for file, (_, _, start, out) in zip(files, parts, strict=True):
            file.read_into(start, out)

    def open_group(self, shard: int) -> Any:
        """Open a shard with zarr."""
        return zarr.open_group(self.path / SHARD_FOLDER / self.index.shards[shard].name, mode="r")

    def get(self, shard: int, array: str) -> ArrayFile | ZarrFile:
        """Give an array of a shard, such as ``X/data``."""
        with self._lock:
            key = (shard, array)
            if key not in self._open:
                self._open[key] = self._opened(shard, array)
            self._open.move_to_end(key)
            if len(self._open) > _FILES_OPEN:
                # Whoever still reads from it keeps it open.
                self._open.popitem(last=False)
            return self._open[key]

    def _opened(self, shard: int, array: str) -> ArrayFile | ZarrFile:
        folder = self.path / SHARD_FOLDER / self.index.shards[shard].name
        try:
            opened: Any = zarr.open_array(folder, path=array, mode="r")
            # Zarr would take what is not there for zeros.
            next((folder / array / "c").iterdir())
            if not array.startswith("X/") or self.index.codec == "none":
                return ArrayFile(folder / array / "c" / "0", opened.dtype)
        except Exception as error:
            raise missing_or_damaged(folder / array, error) from error
        return ZarrFile(folder / array, opened)


class AtlasRows:
    """Cells of an atlas by their positions: shard after shard, as ``atlas.json`` lists them.

    Parameters
    ----------
    files
        The arrays of its shards: in a folder, or behind a URL.
    """

    def __init__(self, files: "ShardFiles | RemoteShards") -> None:
        index = files.index
        self.files = files
        self.n_genes = len(index.gene_table)
        self.boundaries = np.concatenate([[0], np.cumsum([shard.n_cells for shard in index.shards], dtype=np.int64)])
        self._gene_dtype = index.gene_dtype
        widths = [np.dtype(shard.values_dtype) for shard in index.shards] or [np.dtype("uint8")]
        self._values_dtype = max(widths, key=lambda dtype: dtype.itemsize)

    def __len__(self) -> int:
        return int(self.boundaries[-1])

    def read(self, rows: np.ndarray, pool: BufferPool) -> RowBuffer:
        """Read the stretches of cells that these are in."""
        starts, stops = runs_of(rows, boundaries=self.boundaries, max_gap=_MAX_GAP)
        shards = np.searchsorted(self.boundaries, starts, side="right") - 1
        offsets = self._offsets(shards, starts - self.boundaries[shards], stops - starts)
        begins = np.concatenate([[0], np.cumsum([part[-1] - part[0] for part in offsets], dtype=np.int64)])
        gene_index = pool.take(int(begins[-1]), self._gene_dtype)
        values = pool.take(int(begins[-1]), self._values_dtype)
        self.files.read(
            [
                (int(shard), array, int(part[0]), out[begin:end])
                for shard, part, begin, end in zip(shards, offsets, begins[:-1], begins[1:], strict=True)
                for array, out in (("X/indices", gene_index), ("X/data", values))
            ]
        )
        moved = [part[:-1] - part[0] + begin for part, begin in zip(offsets, begins[:-1], strict=True)]
        places = np.concatenate([[0], np.cumsum(stops - starts)[:-1]]).astype(np.int64)
        return RowBuffer(np.concatenate([*moved, begins[-1:]]), gene_index, values, starts, places)

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Give the number of non-zero counts of some cells; positions ascend."""
        starts, stops = runs_of(rows, boundaries=self.boundaries, max_gap=_MAX_GAP_OF_OFFSETS)
        shards = np.searchsorted(self.boundaries, starts, side="right") - 1
        offsets = self._offsets(shards, starts - self.boundaries[shards], stops - starts)
        found: np.ndarray = np.concatenate([np.diff(part) for part in offsets])
        places = np.concatenate([np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)])
        return found[np.searchsorted(places, rows)]

    def _offsets(self, shards: np.ndarray, firsts: np.ndarray, n_cells: np.ndarray) -> list[np.ndarray]:
        found = [np.empty(n + 1, dtype=np.int64) for n in n_cells]
        asked = zip(shards, firsts, found, strict=True)
        self.files.read([(int(shard), "X/indptr", int(first), offsets) for shard, first, offsets in asked])
        for shard, offsets in zip(shards, found, strict=True):
            entry = self.files.index.shards[shard]
            if offsets[0] < 0 or (np.diff(offsets) < 0).any() or offsets[-1] > entry.n_values:
                raise InputError(
                    f"Shard {entry.name} of {self.files.place} is damaged: X/indptr. Try `selfcell atlas verify`."
                )
        return found


class AtlasCodes:
    """The codes of an obs column of names in an atlas, by position of the cell; -1 where there is no value.

    Parameters
    ----------
    rows
        The atlas.
    key
        The column.
    """

    def __init__(self, rows: AtlasRows, key: str) -> None:
        self.rows = rows
        self.array = f"obs/{key}/codes"

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        starts, stops = runs_of(rows, boundaries=self.rows.boundaries, max_gap=_MAX_GAP_OF_OFFSETS)
        places = np.concatenate([[0], np.cumsum(stops - starts)]).astype(np.int64)
        codes = np.empty(places[-1], dtype=np.int64)
        shards = np.searchsorted(self.rows.boundaries, starts, side="right") - 1
        firsts = starts - self.rows.boundaries[shards]
        asked = zip(shards, firsts, places[:-1], places[1:], strict=True)
        self.rows.files.read([(int(shard), self.array, int(first), codes[a:b]) for shard, first, a, b in asked])
        run = np.searchsorted(starts, rows, side="right") - 1
        chosen: np.ndarray = codes[places[run] + (rows - starts[run])]
        return chosen
