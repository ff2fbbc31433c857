"""Blocks of files from elsewhere, kept for a second use: the latest in memory, all of them on disk where asked for."""

import collections
import contextlib
import itertools
import logging
import os
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from selfcell.core.atomic import atomic_path

logger = logging.getLogger(__name__)

BLOCK_BYTES = 2**16
MEMORY_BYTES = 2**26

Key = tuple[str, int]
"""A file, by its path in the atlas, and the place of a block in it; :data:`WHOLE` is all of a small file."""
WHOLE = -1

_NUMBER_BYTES = 4
_RECORD_BYTES = 2 * _NUMBER_BYTES + BLOCK_BYTES
"""Of a block on disk: its length, its checksum, itself."""


class BlockCache:
    """Keeps the blocks that were used last, up to a number of bytes. Several threads may use it at once.

    Parameters
    ----------
    max_bytes
        Bytes to hold in memory at most.
    disk
        Where blocks are kept beyond that.
    """

    def __init__(self, *, max_bytes: int = MEMORY_BYTES, disk: "DiskBlocks | None" = None) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self.disk = disk
        self._blocks: collections.OrderedDict[Key, bytes] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> bytes | None:
        """Give a block, or None."""
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
                return self._blocks[key]
        block = None if self.disk is None else self.disk.get(key)
        if block is not None:
            self._keep(key, block)
        return block

    def put(self, key: Key, block: bytes) -> None:
        """Keep a block."""
        if self.disk is not None:
            self.disk.put(key, block)
        self._keep(key, block)

    def _keep(self, key: Key, block: bytes) -> None:
        with self._lock:
            self.n_bytes += len(block) - len(self._blocks.pop(key, b""))
            self._blocks[key] = block
            while self.n_bytes > self.max_bytes:
                _, dropped = self._blocks.popitem(last=False)
                self.n_bytes -= len(dropped)


class DiskBlocks:
    """Keeps blocks in a folder, each with a checksum: one that was only half written is not there.

    Several processes may share a folder. It grows up to the size of what is read.

    Parameters
    ----------
    folder
        Where to keep them; made if need be.
    names
        For each folder of the atlas one that tells its content too, so that a shard that was built anew is another.
    """

    def __init__(self, folder: Path, names: Mapping[str, str]) -> None:
        self.folder = folder
        self.names = names
        self._full = False

    def get(self, key: Key) -> bytes | None:
        """Give a block, or None."""
        path, place = key
        file = self._file(path)
        try:
            if place == WHOLE:
                return _checked(file.with_name(file.name + ".whole").read_bytes())
            with file.with_name(file.name + ".blocks").open("rb") as blocks:
                record = os.pread(blocks.fileno(), _RECORD_BYTES, place * _RECORD_BYTES)
        except OSError:
            return None
        # A block at the end of a file is shorter: its length is kept with it.
        length = int.from_bytes(record[:_NUMBER_BYTES], "little")
        return _checked(record[_NUMBER_BYTES : 2 * _NUMBER_BYTES + length]) if length else None

    def put(self, key: Key, block: bytes) -> None:
        """Keep a block; where the disk is full, say so once and go on without."""
        if self._full or not block:
            return
        path, place = key
        file = self._file(path)
        framed = zlib.crc32(block).to_bytes(_NUMBER_BYTES, "little") + block
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if place == WHOLE:
                with atomic_path(file.with_name(file.name + ".whole")) as temporary:
                    temporary.write_bytes(framed)
                return
            descriptor = os.open(file.with_name(file.name + ".blocks"), os.O_WRONLY | os.O_CREAT, 0o644)
            with contextlib.closing(os.fdopen(descriptor, "wb", buffering=0)):
                length = len(block).to_bytes(_NUMBER_BYTES, "little")
                os.pwrite(descriptor, length + framed, place * _RECORD_BYTES)
        except OSError as error:
            self._full = True
            logger.warning("Nothing more is kept in %s: %s.", self.folder, error.strerror or error)

    def _file(self, path: str) -> Path:
        return self.folder.joinpath(*(self.names.get(part, part) for part in path.split("/")))


def _checked(framed: bytes) -> bytes | None:
    """Take the checksum off, or give None where it is another one."""
    block = framed[_NUMBER_BYTES:]
    return block if zlib.crc32(block) == int.from_bytes(framed[:_NUMBER_BYTES], "little") else None


def stretches(keys: Iterable[Key], *, most: int) -> Sequence[Sequence[Key]]:
    """Put blocks that follow one another together, up to so many, to be fetched at one go."""
    found: list[list[Key]] = []
    # The place less the rank is the same along a stretch.
    ranked = enumerate(sorted(set(keys)))
    for _, group in itertools.groupby(ranked, lambda item: (item[1][0], item[1][1] - item[0])):
        neighbours = [key for _, key in group]
        found += [neighbours[start : start + most] for start in range(0, len(neighbours), most)]
    return found
