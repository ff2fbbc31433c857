"""Which cells a run was given: hashes of each, kept with the run, so that none is taken for a new one later."""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from selfcell.core.atomic import atomic_path
from selfcell.core.errors import InputError
from selfcell.data.cell_hashes import CellHashes
from selfcell.data.source import Cells
from selfcell.data.splits import Split

FILE = "cells.npz"
"""In the run folder. Runs on cells streamed from disk have none."""


class KnownCells(NamedTuple):
    """The cells of a run, aligned to its genes."""

    learned_from: CellHashes
    """Training and validation cells."""
    set_aside: CellHashes
    """Test cells."""


def write_known_cells(out: Path, cells: Cells, split: Split, *, before: KnownCells | None = None) -> None:
    """Write the hashes of the cells of a run, atomically.

    Parameters
    ----------
    out
        The run folder.
    cells
        Cells, aligned to the genes of the run.
    split
        Which of them are for what; cells in no part are not written.
    before
        Those of the run that this one begins from: what it set aside stays so.
    """
    hashes = CellHashes.of(cells)
    parts = [hashes[np.concatenate([split.train, split.validation])], hashes[split.test]]
    if before is not None:
        parts.append(before.set_aside)
    with atomic_path(out / FILE) as temporary:
        np.savez_compressed(
            temporary,
            contents=np.concatenate([part.contents for part in parts]),
            names=np.concatenate([part.names for part in parts]),
            is_test=np.repeat([False, True], [len(parts[0]), sum(map(len, parts[1:]))]),
            are_numbered=np.array(hashes.are_numbered),
        )


def read_known_cells(run: Path) -> KnownCells | None:
    """Read the hashes of the cells of a run; None if it has kept none.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    file = run / FILE
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as content:
            hashes = CellHashes(content["contents"], content["names"], bool(content["are_numbered"]))
            is_test = content["is_test"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{file} is damaged ({error}). Delete it: the run can be used without, but then cells it has seen may be "
            "taken for new ones."
        ) from error
    return KnownCells(hashes[~is_test], hashes[is_test])
