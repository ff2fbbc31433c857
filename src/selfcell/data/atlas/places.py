"""Where an input of a build is: a file or folder, or a query of the CELLxGENE Census."""

import hashlib
from pathlib import Path
from typing import Any

from selfcell.core.errors import InputError
from selfcell.data.atlas.census import CensusCells

Place = Path | CensusCells
_MIB = 2**20


def as_place(given: str | Path | CensusCells) -> Place:
    """Take a path for what it is."""
    return given if isinstance(given, CensusCells) else Path(given)


def address_of(place: Place) -> str:
    """Give what the place is called in plans and in the atlas; no two have the same."""
    return str(place) if isinstance(place, CensusCells) else str(place.absolute())


def fingerprint(place: Place) -> dict[str, Any]:
    """Give what tells whether an input is still the same one, without reading all of it; for JSON.

    Raises
    ------
    InputError
        If it is no longer there.
    """
    if isinstance(place, CensusCells):
        return place.fingerprint()
    try:
        return _folder_print(place) if place.is_dir() else _file_print(place)
    except OSError as error:
        raise InputError(
            f"{place} cannot be read any more ({error.strerror}). Put it back, or leave it out."
        ) from error


def refuse_changed(place: Place, known: dict[str, Any]) -> None:
    """Refuse an input that is not what it was when the build began.

    Raises
    ------
    InputError
        If it is gone or changed.
    """
    if isinstance(place, Path) and not place.exists():
        raise InputError(f"{place} is gone. Put it back and give the same command again: what is done is kept.")
    if fingerprint(place) == known:
        return
    old = "the old file" if isinstance(place, Path) else "the copy of the census that it began with"
    raise InputError(
        f"{place} has changed since the build began. Put {old} back and give the same command again, or begin anew "
        "(--overwrite)."
    )


def _folder_print(folder: Path) -> dict[str, Any]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        facts = file.stat()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return {"n_files": len(files), "sha256_listing": digest.hexdigest()}


def _file_print(file: Path) -> dict[str, Any]:
    facts = file.stat()
    with file.open("rb") as stream:
        first = stream.read(_MIB)
        stream.seek(max(0, facts.st_size - _MIB))
        ends = hashlib.sha256(first + stream.read(_MIB)).hexdigest()
    return {"size": facts.st_size, "mtime_ns": facts.st_mtime_ns, "sha256_ends": ends}
