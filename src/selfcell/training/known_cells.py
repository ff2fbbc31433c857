"""Which cells a run was given: hashes of each, kept with the run, so that none is taken for a new one later."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from selfcell.core.atomic import atomic_path
from selfcell.core.errors import InputError
from selfcell.data.cell_hashes import CellHashes
from selfcell.data.source import Cells
from selfcell.data.splits import Split

FILE = "cells.safetensors"
"""In the run folder. Runs on cells streamed from disk have none."""
_NUMBERED = "are_numbered"


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
        columns = {
            "contents": np.concatenate([part.contents for part in parts]),
            "names": np.concatenate([part.names for part in parts]),
            "is_test": np.repeat([False, True], [len(parts[0]), sum(map(len, parts[1:]))]),
        }
        safetensors.numpy.save_file(columns, temporary, metadata={_NUMBERED: str(hashes.are_numbered)})


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
        with safetensors.safe_open(file, framework="numpy") as content:
            are_numbered = content.metadata()[_NUMBERED] == str(True)
            hashes = CellHashes(content.get_tensor("contents"), content.get_tensor("names"), are_numbered)
            is_test = content.get_tensor("is_test")
        known = KnownCells(hashes[~is_test], hashes[is_test])
    except (OSError, LookupError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{file} is damaged ({error}). Delete it: the run can be used without, but then cells it has seen may be "
            "taken for new ones."
        ) from error
    return known
