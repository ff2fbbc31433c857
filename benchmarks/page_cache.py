"""Put files into the page cache, drop them from it, and tell how much of them is in it. Linux; needs no root."""

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

_BLOCK = 2**22
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


def files_under(paths: Iterable[str | Path]) -> list[Path]:
    """List the files that are given and those in the folders that are given."""
    found = []
    for path in map(Path, paths):
        found += sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return found


def warm(paths: Iterable[str | Path]) -> None:
    """Read all files once."""
    buffer = bytearray(_BLOCK)
    for file in files_under(paths):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def drop(paths: Iterable[str | Path]) -> None:
    """Drop all files; pages that a process has mapped stay, so ask :func:`resident_fraction` afterwards."""
    os.sync()
    for file in files_under(paths):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def resident_fraction(paths: Iterable[str | Path]) -> float:
    """Tell the share of the files' pages that is in the page cache."""
    resident = total = 0
    for file in files_under(paths):
        if size := file.stat().st_size:
            pages = -(-size // mmap.PAGESIZE)
            resident += _resident_pages(file, size, pages)
            total += pages
    return resident / max(1, total)


def _resident_pages(file: Path, size: int, pages: int) -> int:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), f"mmap of {file}")
        flags = ctypes.create_string_buffer(pages)
        failed = _libc.mincore(address, size, flags)
        _libc.munmap(address, size)
        if failed:
            raise OSError(ctypes.get_errno(), f"mincore of {file}")
        return sum(flag & 1 for flag in flags.raw)
    finally:
        os.close(descriptor)
