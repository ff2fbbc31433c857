"""The files of a model on the Hub, and the list of their hashes by which they are checked."""

import re
from pathlib import Path

from selfcell.core.digest import sha256_of
from selfcell.core.errors import InputError
from selfcell.core.reading import read_json

LISTING = "sha256.json"
"""Name of each file to its SHA-256 as hex digits."""
CARD = "README.md"
NEEDED = ("manifest.json", "config.toml", "genes.csv", "encoder.safetensors", "heads.safetensors")
ABOUT_CELLS = ("split.json", "cells.safetensors")
"""They name donors, and tell who holds a cell whether it was trained on: they travel if that is asked for."""
TRAVEL = (*NEEDED, "log.csv", *ABOUT_CELLS)
"""All that may travel. Checkpoints to go on training from, and curves for TensorBoard, do not."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*\.(safetensors|json|toml|csv|md)", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def read_listing(file: Path, *, origin: str) -> dict[str, str]:
    """Read the list of hashes.

    Parameters
    ----------
    file
        The list.
    origin
        Whose it is, for messages.

    Raises
    ------
    InputError
        If it is none, names what is no plain file of a model, or lacks one that every model has.
    """
    listing = read_json(file)
    is_whole = isinstance(listing, dict) and all(
        _PLAIN_NAME.fullmatch(name) and isinstance(digest, str) and _SHA256.fullmatch(digest)
        for name, digest in listing.items()
    )
    if not is_whole:
        raise InputError(f"{origin} has a {LISTING} that is no list of a model's files with their SHA-256.")
    if missing := [name for name in NEEDED if name not in listing]:
        raise InputError(f"{origin} is no whole model: its {LISTING} does not name {', '.join(missing)}.")
    return dict(listing)


def find_faults(folder: Path, listing: dict[str, str]) -> dict[str, str]:
    """Compare the files of a folder with the list of their hashes.

    Returns
    -------
    What is wrong with each file that is: ``is missing``, or ``is not the one that was published``.
    """
    faults = {}
    for name, expected in listing.items():
        file = folder / name
        if not file.is_file():
            faults[name] = "is missing"
        elif sha256_of(file) != expected:
            faults[name] = "is not the one that was published"
    return faults
