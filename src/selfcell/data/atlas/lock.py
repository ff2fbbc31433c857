"""One writer at a time in a folder."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from selfcell.core.errors import InputError
from selfcell.core.write_errors import writing

logger = logging.getLogger(__name__)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for writing while the block runs.

    The lock is the operating system's, so that of a killed process is gone with it. Where the system has none of the
    kind, the file itself is the lock.

    Raises
    ------
    InputError
        If another process holds it.
    """
    was_there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_NAME
    descriptor = _acquire(path, folder)
    try:
        with writing(folder):
            os.truncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        # Unlinked before it is let go: whoever waits for the old file finds another in its place.
        path.unlink(missing_ok=True)
        os.close(descriptor)
        if not was_there:
            with contextlib.suppress(OSError):
                folder.rmdir()  # nothing was made in it


def _acquire(path: Path, folder: Path) -> int:
    if fcntl is None:
        return _create(path, folder)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = path.read_text(encoding="utf-8").strip() if path.exists() else ""
            os.close(descriptor)
            raise InputError(_message(folder, holder)) from None
        except OSError as error:
            logger.warning("%s cannot be locked (%s): see to it that nothing else writes there.", folder, error)
            return descriptor
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        os.close(descriptor)


def _create(path: Path, folder: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        mend = f" If it was killed, remove {path}."
        raise InputError(_message(folder, path.read_text(encoding="utf-8").strip()) + mend) from None


def _message(folder: Path, holder: str) -> str:
    process = f" (process {holder})" if holder else ""
    return f"Another process{process} is writing to {folder}. Wait for it to end, or name another folder."
