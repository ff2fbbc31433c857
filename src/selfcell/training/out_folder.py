"""The folder that a command writes into: what it may replace, and how what stands there is not lost."""

import logging
import re
import shutil
from pathlib import Path

from selfcell.core.errors import InputError
from selfcell.core.reading import read_json
from selfcell.core.write_errors import writing

logger = logging.getLogger(__name__)

MARKER = ".selfcell"
"""An empty file in every output folder; only folders that have it are ever deleted."""

_OF_A_BEGINNING = {MARKER, ".trials"}
"""What a folder may hold of a command that did not come to its end, and go on with."""

_NOBODYS = re.compile(r"\.DS_Store|\..+\.[0-9a-f]{8}\.partial(\.(?!old)\w+)?")
"""Files that nobody would miss: macOS's own, and what a command that was killed was writing."""


def claim_folder(path: Path, *, overwrite: bool) -> None:
    """Make sure, before hours are spent, that a folder can be written; what is in it is left until it is replaced.

    Raises
    ------
    InputError
        As :func:`check_folder`.
    """
    check_folder(path, overwrite=overwrite)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        (path / MARKER).touch()


def prepare_folder(path: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Make a run's folder; of one that is to be replaced, a finished run is kept beside until the new one is finished.

    Raises what :func:`check_folder` does.
    """
    check_folder(path, resume=resume, overwrite=overwrite)
    with writing(path):
        if overwrite:
            _make_way(path)
        path.resolve().mkdir(parents=True, exist_ok=True)
        (path / MARKER).touch()


def replaced_run(path: Path) -> Path:
    """Give where a finished run is kept while the one that replaces it is trained: hidden, beside it."""
    place = path.resolve()
    return place.with_name(f".{place.name}.replaced")


def drop_replaced(path: Path) -> None:
    """Remove the run that a finished one has replaced; a folder of that name that is none of ours stays."""
    before = replaced_run(path)
    if (before / MARKER).exists():
        shutil.rmtree(before, ignore_errors=True)


def _make_way(path: Path) -> None:
    """Put a finished run beside, and empty the folder of any other."""
    if not is_finished_run(path):
        _empty(path)
        return
    before = replaced_run(path)
    drop_replaced(path)
    try:
        path.resolve().rename(before)
    except OSError:
        # A folder that is a disk of its own cannot be moved.
        _empty(path)
        return
    logger.info("The run that is replaced is kept until the new one is finished: %s.", before)


def is_finished_run(path: Path) -> bool:
    """Tell whether a folder holds a run that came to its end."""
    try:
        return bool(read_json(path / "manifest.json")["status"] == "finished")
    except (InputError, KeyError, TypeError):
        return False


def _empty(path: Path) -> None:
    """Remove all that is in a folder of ours: what makes it a whole one first, and never what says that it is ours."""
    if not path.exists():
        return
    whole = [path / name for name in ("manifest.json", "study.json", "benchmark.json")]
    for entry in [*whole, *path.iterdir()]:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != MARKER:
            entry.unlink(missing_ok=True)


def check_folder(path: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Refuse an output folder that holds something already; nothing is changed.

    Raises
    ------
    InputError
        If there is something in it and neither ``resume`` nor ``overwrite`` is asked for, or nothing to resume; if
        what is in it, hidden or not, is none of ours; or if it is the current folder or one above it.
    """
    if resume and overwrite:
        raise InputError("--resume and --overwrite contradict each other: go on with the run, or replace it.")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, but a folder is needed.")
    if resume:
        if not (path / "manifest.json").exists():
            raise InputError(f"There is no run to resume in {path}.")
        return
    _refuse_around(path)
    names = {entry.name for entry in path.iterdir()} if path.exists() else set()
    content = sorted(name for name in names if not _NOBODYS.fullmatch(name))
    go_on = "go on with an interrupted run (--resume), " if "manifest.json" in names else ""
    if content and MARKER not in names:
        raise InputError(
            f"{path} does not look like a folder that selfcell made: {content[0]!r} is in it, and no {MARKER}. Nothing "
            f"in it is touched. {go_on.capitalize()}{'or name' if go_on else 'Name'} another folder."
        )
    if not overwrite and not _OF_A_BEGINNING.issuperset(content):
        raise InputError(f"{path} exists already. Name another folder, {go_on}or replace what is there (--overwrite).")


def _refuse_around(path: Path) -> None:
    """Refuse the current folder and those above it, which cannot be replaced from within."""
    place, here = path.resolve(), Path.cwd()
    if here.is_relative_to(place):
        which = "the current folder" if here == place else "above the current folder"
        raise InputError(f"{str(path)!r} is {which}, which cannot be replaced. Name a folder in it, as in --out NAME.")
