"""The arrays of an atlas behind a URL: uncompressed ones by ranges of bytes, the others through zarr."""

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from selfcell.core.errors import InputError
from selfcell.data.atlas.block_cache import BlockCache, DiskBlocks
from selfcell.data.atlas.index import INDEX_NAME, SHARD_FOLDER, AtlasIndex, parse_index
from selfcell.data.atlas.remote_files import Part, RemoteFiles

_AT_ONCE = 16


def open_remote(url: str, cache_folder: str | Path | None) -> "RemoteShards":
    """Open an atlas behind a URL.

    Parameters
    ----------
    url
        Its folder, as fsspec takes it.
    cache_folder
        Where to keep on disk what was fetched; None for memory alone.

    Raises
    ------
    InputError
        If there is no atlas, the server says no, or what reads such URLs is not installed.
    """
    content = RemoteFiles(url).whole([INDEX_NAME])[0]
    if content is None:
        raise InputError(f"{url} is not an atlas: there is no {INDEX_NAME}. Check the address.")
    index = parse_index(content.decode(errors="replace"), place=f"{url}/{INDEX_NAME}")
    disk = None
    if cache_folder is not None:
        digests = {shard.name: json.dumps(shard.sha256, sort_keys=True) for shard in index.shards}
        names = {name: f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}" for name, text in digests.items()}
        disk = DiskBlocks(Path(cache_folder).expanduser(), names)
    return RemoteShards(RemoteFiles(url, BlockCache(disk=disk)), index)


class RemoteShards:
    """The arrays of the shards; what :class:`selfcell.data.atlas.rows.ShardFiles` is for a folder.

    Parameters
    ----------
    files
        The files of the atlas.
    index
        What is in it.
    """

    def __init__(self, files: RemoteFiles, index: AtlasIndex) -> None:
        self.files = files
        self.index = index
        self.place = files.url
        self._plain: dict[tuple[int, str], tuple[np.dtype[Any], int] | None] = {}
        self._store = RemoteStore(files)
        self._lock = threading.Lock()

    def read(self, parts: Sequence[tuple[int, str, int, np.ndarray]]) -> None:
        """Fill arrays from shards, arrays and positions, all at once."""
        self._look_up([(shard, array) for shard, array, _, _ in parts])
        ranges, later, wide = [], [], []
        for shard, array, start, out in parts:
            plain = self._plain[shard, array]
            if plain is None:
                later.append((shard, array, start, out))
            elif len(out):
                dtype, n_values = plain
                narrow = out if out.dtype == dtype else np.empty(len(out), dtype=dtype)
                wide += [] if narrow is out else [(out, narrow)]
                path, size = f"{self._folder(shard)}/{array}/c/0", n_values * dtype.itemsize
                ranges.append(Part(path, start * dtype.itemsize, narrow.data.cast("B"), size))
        self.files.read_into(ranges)
        for out, narrow in wide:
            out[:] = narrow
        if later:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda part: self._read_by_zarr(*part), later))

    def open_group(self, shard: int) -> Any:
        """Open a shard with zarr."""
        return zarr.open_group(self._store, path=self._folder(shard), mode="r", zarr_format=3)

    def _folder(self, shard: int) -> str:
        return f"{SHARD_FOLDER}/{self.index.shards[shard].name}"

    def _read_by_zarr(self, shard: int, array: str, start: int, out: np.ndarray) -> None:
        path = f"{self._folder(shard)}/{array}"
        opened: Any = zarr.open_array(self._store, path=path, mode="r", zarr_format=3)
        out[:] = opened[start : start + len(out)]

    def _look_up(self, arrays: Iterable[tuple[int, str]]) -> None:
        """Learn how arrays are stored; of counts without compression ``atlas.json`` has told."""
        with self._lock:
            unknown = [key for key in dict.fromkeys(arrays) if key not in self._plain]
        asked = []
        for shard, array in unknown:
            if array.startswith("X/"):
                self._plain[shard, array] = self._of_counts(shard, array) if self.index.codec == "none" else None
            else:
                asked.append((shard, array))
        paths = [f"{self._folder(shard)}/{array}/zarr.json" for shard, array in asked]
        for key, path, content in zip(asked, paths, self.files.whole(paths), strict=True):
            self._plain[key] = _as_bytes(content, f"{self.files.url}/{path}")

    def _of_counts(self, shard: int, array: str) -> tuple[np.dtype[Any], int]:
        entry = self.index.shards[shard]
        return {
            "X/data": (np.dtype(entry.values_dtype), entry.n_values),
            "X/indices": (self.index.gene_dtype, entry.n_values),
            "X/indptr": (np.dtype("<i8"), entry.n_cells + 1),
        }[array]


def _as_bytes(content: bytes | None, place: str) -> tuple[np.dtype[Any], int] | None:
    """Give type and length of an array that lies in one chunk as in memory; None for any other."""
    try:
        about = json.loads(content or b"")
        (length,), codecs = about["shape"], [codec["name"] for codec in about["codecs"]]
        little = about["codecs"][0].get("configuration", {}).get("endian", "little") == "little"
        plain = codecs == ["bytes"] and little and about["chunk_grid"]["configuration"]["chunk_shape"] == [length]
        return (np.dtype(about["data_type"]).newbyteorder("<"), int(length)) if plain else None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place} is missing or damaged ({error}). Copy the atlas there again.") from error


class RemoteStore(Store):
    """Gives zarr the files, read-only, with the retries and the cache of :class:`RemoteFiles`."""

    supports_writes = False
    supports_deletes = False
    supports_listing = False

    def __init__(self, files: RemoteFiles) -> None:
        super().__init__(read_only=True)
        self.files = files
        self._sizes: dict[str, int | None] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteStore) and other.files is self.files

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Give a file, or a part of it."""
        content = await asyncio.to_thread(self._read, key, byte_range)
        return None if content is None else prototype.buffer.from_bytes(content)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Give parts of several files."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Tell whether there is a file."""
        return await asyncio.to_thread(self.files.whole, [key]) != [None]

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse to write."""
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        """Refuse to delete."""
        raise NotImplementedError

    def list(self) -> AsyncIterator[str]:
        """Refuse to list: a web server cannot."""
        raise NotImplementedError

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Refuse to list."""
        raise NotImplementedError

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Refuse to list."""
        raise NotImplementedError

    def _size(self, key: str) -> int | None:
        if key not in self._sizes:
            self._sizes[key] = self.files.size(key)
        return self._sizes[key]

    def _read(self, key: str, part: ByteRequest | None) -> bytes | None:
        if part is None:
            return self.files.whole([key])[0]
        size = self._size(key)
        if size is None:
            return None
        if isinstance(part, RangeByteRequest):
            start, stop = part.start, min(part.end, size)
        elif isinstance(part, OffsetByteRequest):
            start, stop = part.offset, size
        else:
            start, stop = max(0, size - part.suffix), size
        content = bytearray(stop - start)
        self.files.read_into([Part(key, start, memoryview(content), size)])
        return bytes(content)
