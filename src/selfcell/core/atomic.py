"""Write files so that a reader sees either the old content or the whole of the new."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfcell.core.exchange import exchange
from selfcell.core.write_errors import writing


@contextlib.contextmanager
def atomic_path(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a temporary path beside ``path``, and move it into place when the block ends without an error.

    Parameters
    ----------
    path
        Where the file is to be. Its folder is made if need be. Of a symbolic link, what it points to is replaced.
    durable
        Wait until the file is on the disk before it takes the place of the old one, so that a power cut leaves one of
        the two.

    Yields
    ------
    The path to write to. It has the suffix of ``path``, since some writers choose the format by it.

    Raises
    ------
    CannotWriteError
        If the disk is full or nothing may be written there; what was there before is as it was.
    """
    with writing(path):
        place = _followed(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(place, "partial", suffix=place.suffix)
        try:
            yield temporary
            if durable:
                _flush(temporary)
            temporary.replace(place)
            if durable and os.name == "posix":
                _flush(place.parent)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``path``, and move it into place when the block ends without an error.

    Parameters
    ----------
    path
        Where the folder is to be. What is there is replaced as a whole; of a symbolic link, what it points to.

    Yields
    ------
    The folder to write into, empty.

    Raises
    ------
    CannotWriteError
        As :func:`atomic_path`.
    """
    with writing(path):
        place = _followed(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(place, "partial")
        temporary.mkdir()
        try:
            yield temporary
            if place.exists():
                exchange(temporary, place)
            else:
                temporary.replace(place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _followed(path: Path) -> Path:
    """Give where a symbolic link leads, so that the link stays, and a folder such as ``..`` by its name."""
    return Path(os.path.realpath(path)) if path.is_symlink() or path.name in {"", ".."} else path


def _beside(place: Path, kind: str, *, suffix: str = "") -> Path:
    """Give a hidden path of its own, in the same folder. The name is cut: with what is added it may become too long."""
    stem = place.name.removesuffix(suffix).encode()[:100].decode(errors="ignore")
    return place.with_name(f".{stem}.{uuid.uuid4().hex[:8]}.{kind}{suffix}")


def _flush(path: Path) -> None:
    """Have what was written to a file, or renamed in a folder, put on the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically, indented for people."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
