"""Memory: how much there is, and how to keep what was freed instead of asking for it again."""

import ctypes
import platform
from pathlib import Path

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LARGEST_KEPT = 2**30


def keep_freed_memory() -> None:
    """Have the C library keep large blocks that were freed.

    A training step makes and drops the same large arrays over and over. By default each is fetched from the system and
    given back, and every page is then zeroed anew, which takes longer than what is computed on it. The process comes to
    hold no more than it held at its peak. With another C library than glibc nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    for parameter, value in ((_MMAP_THRESHOLD, _LARGEST_KEPT), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26)):
        library.mallopt(parameter, value)


def available_memory() -> int | None:
    """Give the bytes of main memory that programs can still take, or None where the system does not tell."""
    told = Path("/proc/meminfo")
    lines = told.read_text().splitlines() if told.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
