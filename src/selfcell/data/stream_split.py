"""Parts of cells on disk that share no donor; what :mod:`selfcell.data.splits` is for cells in memory."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from selfcell.core.atomic import write_json
from selfcell.core.errors import InputError
from selfcell.core.seeds import numpy_rng
from selfcell.data.atlas.obs import UNKNOWN
from selfcell.data.splits import (
    PARTS,
    choose_donors,
    count_parts,
    part_by_rule,
    refuse_donor_fraction,
    with_share_of_donors,
)
from selfcell.data.streamed import StreamedCells
from selfcell.data.subset import CellSubset

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StreamSplit:
    """Which cells are for training, for choosing when to stop, and for judging: one bit a cell each."""

    train: CellSubset
    validation: CellSubset
    test: CellSubset
    unit: str
    """``cell``, or the obs column that was split by."""
    donors: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rule: dict[str, int | float] = field(default_factory=dict)
    """Split by cell: the shares, and the seed of a draw by position."""

    def to_json(self) -> dict[str, Any]:
        """Give what ``split.json`` holds: the donors of each part or, split by cell, the rule."""
        if self.unit == "cell":
            return {"unit": "cell", "rule": self.rule}
        return {"unit": self.unit, "donors": {part: list(named) for part, named in self.donors.items()}}

    def write(self, path: Path) -> None:
        """Write the split as JSON, atomically."""
        write_json(path, self.to_json())


def split_stream(
    cells: StreamedCells,
    donor_key: str | None,
    *,
    validation_fraction: float,
    test_fraction: float = 0.0,
    train_donor_fraction: float = 1.0,
    seed: int,
) -> StreamSplit:
    """Split by the donors of an obs column where one is named, else by cell.

    By donor, the parts have the donors that :func:`selfcell.data.splits.split_cells` gives them for the same cells in
    memory. By cell, the part of a cell depends on its position alone, so cells that are appended to an atlas leave the
    others where they were.

    Raises
    ------
    InputError
        As for cells in memory.
    """
    n_parts = count_parts(validation_fraction, test_fraction)
    if donor_key is None:
        refuse_donor_fraction(train_donor_fraction)
        return _by_rule(
            cells, {"seed": seed, "validation_fraction": validation_fraction, "test_fraction": test_fraction}
        )
    column = cells.coded(donor_key, role="donor")
    sizes = pd.Series(column.sizes, index=list(column.names))
    if sizes.get(UNKNOWN, 0):
        logger.warning(
            "%s of %s cells are of donor %r, as cells are whose input lacks the column: they are taken for one donor. "
            "Leave them out: --where \"%s != '%s'\".",
            f"{sizes[UNKNOWN]:,}",
            f"{len(cells):,}",
            UNKNOWN,
            donor_key,
            UNKNOWN,
        )
    rng = numpy_rng(seed, "split")
    chosen = choose_donors(sizes[sizes > 0], donor_key, validation_fraction, test_fraction, n_parts=n_parts, rng=rng)
    chosen = with_share_of_donors(chosen, train_donor_fraction)
    train, validation, test = (cells.of_codes(column, chosen[part]) for part in PARTS)
    donors = {part: tuple(named) for part, named in chosen.items()}
    return StreamSplit(train, validation, test, unit=donor_key, donors=donors)


def _by_rule(cells: StreamedCells, rule: dict[str, int | float]) -> StreamSplit:
    def chosen(part: str) -> CellSubset:
        def belongs(positions: np.ndarray) -> np.ndarray:
            return np.asarray(part_by_rule(positions, rule) == part)

        return cells.chosen_by(belongs)

    parts = {part: chosen(part) for part in PARTS}
    asked = ["train", *(part for part in PARTS[1:] if rule[f"{part}_fraction"] > 0)]
    if not all(len(parts[part]) for part in asked):
        raise InputError(f"{len(cells):,} cells are too few to split into {len(asked)} parts.")
    return StreamSplit(parts["train"], parts["validation"], parts["test"], unit="cell", rule=rule)
