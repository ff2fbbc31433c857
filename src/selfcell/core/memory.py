"""Keep memory that was freed for the next use, instead of giving it back and asking for it again."""

import ctypes
import platform

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
