"""Read cells of an atlas, block by block, straight from the files of its shards."""

import collections
import os
import threading
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from selfcell.core.errors import InputError
from selfcell.data.atlas.index import SHARD_FOLDER, AtlasIndex
from selfcell.data.buffers import BufferPool
from selfcell.data.rows import RowBuffer, runs_of

_MAX_GAP = 8
_FILES_OPEN = 256


class ArrayFile:
    """A one-dimensional array of a shard that is stored in one uncompressed chunk: read by ``pread``, at any place."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path = path
        self.dtype = dtype
        self._file = FileIO(path)

    def read_into(self, start: int, out: np.ndarray) -> None:
        """Fill ``out`` with the values from ``start`` on."""
        if out.dtype != self.dtype:
            narrow = np.empty(len(out), dtype=self.dtype)
            self.read_into(start, narrow)
            out[:] = narrow
            return
        view, at = out.data.cast("B"), start * self.dtype.itemsize
        while view.nbytes:
            n_read = os.preadv(self._file.fileno(), [view], at)
            if not n_read:
                raise InputError(f"{self.path} is too short: it is truncated. `selfcell atlas verify` tells what else.")
            view, at = view[n_read:], at + n_read


class ZarrFile:
    """A one-dimensional array of a shard in compressed chunks."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def read_into(self, start: int, out: np.ndarray) -> None:
        """Fill ``out`` with the values from ``start`` on."""
        out[:] = self.array[start : start + len(out)]


class ShardFiles:
    """The arrays of the shards, opened when they are first read, and not too many at once."""

    def __init__(self, path: Path, index: AtlasIndex) -> None:
        self.path = path
        self.index = index
        self._open: collections.OrderedDict[tuple[int, str], ArrayFile | ZarrFile] = collections.OrderedDict()
        self._lock = threading.Lock()

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
            if not array.startswith("X/") or self.index.codec == "none":
                return ArrayFile(folder / array / "c" / "0", opened.dtype)
        except (OSError, KeyError, ValueError) as error:
            raise InputError(
                f"{folder / array} is missing or damaged ({error}). Try `selfcell atlas verify`."
            ) from error
        return ZarrFile(opened)


class AtlasRows:
    """Cells of an atlas by their positions: shard after shard, as ``atlas.json`` lists them.

    Parameters
    ----------
    path
        The folder.
    index
        What is in it.
    """

    def __init__(self, path: Path, index: AtlasIndex) -> None:
        self.path = path
        self.n_genes = len(index.gene_table)
        self.boundaries = np.concatenate([[0], np.cumsum([shard.n_cells for shard in index.shards], dtype=np.int64)])
        self.files = ShardFiles(path, index)
        self._gene_dtype = index.gene_dtype
        widths = [np.dtype(shard.values_dtype) for shard in index.shards] or [np.dtype("uint8")]
        self._values_dtype = max(widths, key=lambda dtype: dtype.itemsize)

    def __len__(self) -> int:
        return int(self.boundaries[-1])

    def read(self, rows: np.ndarray, pool: BufferPool) -> RowBuffer:
        """Read the stretches of cells that these are in."""
        starts, stops = runs_of(rows, boundaries=self.boundaries, max_gap=_MAX_GAP)
        shards = np.searchsorted(self.boundaries, starts, side="right") - 1
        offsets = [
            self._offsets(int(shard), int(start - self.boundaries[shard]), int(stop - start))
            for shard, start, stop in zip(shards, starts, stops, strict=True)
        ]
        begins = np.concatenate([[0], np.cumsum([part[-1] - part[0] for part in offsets], dtype=np.int64)])
        gene_index = pool.take(int(begins[-1]), self._gene_dtype)
        values = pool.take(int(begins[-1]), self._values_dtype)
        for shard, part, begin, end in zip(shards, offsets, begins[:-1], begins[1:], strict=True):
            self.files.get(int(shard), "X/indices").read_into(int(part[0]), gene_index[begin:end])
            self.files.get(int(shard), "X/data").read_into(int(part[0]), values[begin:end])
        moved = [part[:-1] - part[0] + begin for part, begin in zip(offsets, begins[:-1], strict=True)]
        places = np.concatenate([[0], np.cumsum(stops - starts)[:-1]]).astype(np.int64)
        return RowBuffer(np.concatenate([*moved, begins[-1:]]), gene_index, values, starts, places)

    def _offsets(self, shard: int, first: int, n_cells: int) -> np.ndarray:
        offsets = np.empty(n_cells + 1, dtype=np.int64)
        self.files.get(shard, "X/indptr").read_into(first, offsets)
        if offsets[0] < 0 or (np.diff(offsets) < 0).any() or offsets[-1] > self.files.index.shards[shard].n_values:
            name = self.files.index.shards[shard].name
            raise InputError(f"Shard {name} of {self.path} is damaged: X/indptr. Try `selfcell atlas verify`.")
        return offsets


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
        starts, stops = runs_of(rows, boundaries=self.rows.boundaries, max_gap=4096)
        wide = [self.read(int(start), int(stop)) for start, stop in zip(starts, stops, strict=True)]
        places = np.concatenate([[0], np.cumsum(stops - starts)])[:-1].astype(np.int64)
        run = np.searchsorted(starts, rows, side="right") - 1
        codes: np.ndarray = np.concatenate([np.empty(0, dtype=np.int64), *wide])[places[run] + (rows - starts[run])]
        return codes

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read the codes of neighbouring cells of one shard."""
        shard = int(np.searchsorted(self.rows.boundaries, start, side="right")) - 1
        codes = np.empty(stop - start, dtype=np.int64)
        self.rows.files.get(shard, self.array).read_into(start - int(self.rows.boundaries[shard]), codes)
        return codes
