"""What the system answers where it does not let a file be written, said in words."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfcell.core.errors import InputError

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""A file can grow no further: disk, quota or the limit of a file's size."""

_MENDS = {
    **dict.fromkeys(DISK_FULL, "Make room, or name a place on another disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Name a place that you may write to"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "A file stands where a folder is needed"),
    errno.EISDIR: "A folder stands where the file is to be",
    errno.ENAMETOOLONG: "Take a shorter name",
    errno.EILSEQ: "The disk does not take such a name: take a plainer one",
    errno.EIO: "The disk or the network drive fails",
    errno.ESTALE: "The network drive has lost the folder: try again",
    errno.ELOOP: "Symbolic links lead in a circle there",
}
_IN_WORDS = re.compile(r"(?:errno = |os error |\[Errno )(\d+)")
"""How HDF5, Rust and Arrow tell the system's number of an error."""
_FULL_IN_WORDS = {
    "no space left": errno.ENOSPC,
    "quota exceeded": errno.EDQUOT,
    "file too large": errno.EFBIG,
}


class CannotWriteError(InputError, OSError):
    """Something cannot be written where it is to be. An ``OSError`` too, for those who can go on without.

    Parameters
    ----------
    message
        What, where, and how to mend it.
    number
        The system's number of the error.
    """

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number

    def __reduce__(self) -> tuple[Any, ...]:
        """Give what makes it again in another process."""
        return type(self), (str(self), self.errno)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system and libraries raise within the block, where writing fails, into words.

    Other errors, and those of files elsewhere that are read within the block, pass as they are.

    Parameters
    ----------
    path
        What is written, for the message.

    Raises
    ------
    CannotWriteError
        If the disk is full, the folder may not be written to, or the name is none that can be had.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        number = error_number(error)
        if number is None or number not in _MENDS or _is_elsewhere(error, path):
            raise
        raise CannotWriteError(f"{path} cannot be written: {os.strerror(number)}. {_MENDS[number]}.", number) from error


@contextlib.contextmanager
def writing_cells(path: Path) -> Iterator[None]:
    """Turn what anndata raises within the block, over what its format cannot hold, into words.

    Raises
    ------
    InputError
        With what it is, and an example of how it is mended.
    """
    try:
        yield
    except (InputError, OSError):
        raise
    except (TypeError, ValueError, NotImplementedError) as error:
        first_line = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise InputError(
            f"{path} cannot be written: {first_line}. Change what the format cannot hold and try again; a column of "
            "obs that mixes kinds, for example, by adata.obs[name] = adata.obs[name].astype(str)."
        ) from error


def error_number(error: BaseException) -> int | None:
    """Give the system's number of an error, which some libraries tell in words alone; None for other errors."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if told := _IN_WORDS.search(str(error)):
        return int(told[1])
    return next((number for words, number in _FULL_IN_WORDS.items() if words in str(error).lower()), None)


def _is_elsewhere(error: Exception, path: Path) -> bool:
    """Tell whether an error names a file that is not in the folder of what is written, nor above it."""
    # Of a copy or a renaming the second name is that of the file that is made.
    named = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if not isinstance(named, str):
        return False
    place, folder = Path(named).resolve(), path.resolve().parent
    return not (place.is_relative_to(folder) or folder.is_relative_to(place))
