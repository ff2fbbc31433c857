"""Put one folder in the place of another in a single step, where the system can."""

import ctypes
import os
import sys
from pathlib import Path

_HERE = -100
"""``AT_FDCWD``: paths are taken from the working folder."""
_EXCHANGE = 2
"""``RENAME_EXCHANGE`` of Linux."""


def exchange(new: Path, old: Path) -> None:
    """Have two folders change places; they must be on one file system.

    On Linux nobody ever finds ``old`` missing, whatever is killed. Elsewhere, and on file systems that do not know how,
    there is a moment between two renames in which it is not there.
    """
    if _exchanged(new, old):
        return
    aside = new.with_name(f"{new.name}.old")
    old.replace(aside)
    try:
        new.replace(old)
    except BaseException:
        aside.replace(old)
        raise
    aside.replace(new)


def _exchanged(new: Path, old: Path) -> bool:
    """Have the system do it; tell whether it could."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # glibc from 2.28
    if rename is None:
        return False
    return bool(rename(_HERE, os.fsencode(new), _HERE, os.fsencode(old), ctypes.c_uint(_EXCHANGE)) == 0)
