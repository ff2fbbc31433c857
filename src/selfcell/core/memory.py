"""Memory: how much there is, and how to keep what was freed instead of asking for it again."""

import contextlib
import ctypes
import platform
import sys
from pathlib import Path

if sys.platform != "win32":
    import resource

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LARGEST_KEPT = 2**30
_MOST_UNUSED = 3 * 2**29
"""Bytes beside those in use, of which libraries that were loaded are some 2**29."""


class _MallocInfo(ctypes.Structure):
    """What glibc tells of its heaps, in bytes: ``uordblks`` are in use, ``hblkhd`` are blocks of their own."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def keep_freed_memory() -> None:
    """Have the C library keep large blocks that were freed.

    A training step makes and drops the same large arrays over and over. By default each is fetched from the system and
    given back, and every page is then zeroed anew, which takes longer than what is computed on it. Blocks of other
    sizes lie between them, so that over many steps more is held than is in use: :func:`give_back_unused` now and then.
    With another C library than glibc nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    for parameter, value in ((_MMAP_THRESHOLD, _LARGEST_KEPT), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26)):
        library.mallopt(parameter, value)


def give_back_unused(*, more_than: int = _MOST_UNUSED) -> bool:
    """Give memory back to the system that was freed and kept, where there is much of it; tell whether that was so.

    Parameters
    ----------
    more_than
        Bytes that are kept at least.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):  # glibc before 2.33
        return False
    library.mallinfo2.restype = _MallocInfo
    info = library.mallinfo2()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    if resident - info.uordblks - info.hblkhd <= more_than:
        return False
    library.malloc_trim(ctypes.c_size_t(0))
    return True


def forget_peak() -> None:
    """Have :func:`peak_memory` begin anew, where the system lets us: on Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int | None:
    """Give the bytes that this process held at most, since :func:`forget_peak` or its start; None on Windows."""
    if sys.platform == "win32":
        return None
    told = Path("/proc/self/status")
    lines = told.read_text().splitlines() if told.exists() else []
    most = next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if most is None else most


def available_memory() -> int | None:
    """Give the bytes of main memory that programs can still take, or None where the system does not tell."""
    told = Path("/proc/meminfo")
    lines = told.read_text().splitlines() if told.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
