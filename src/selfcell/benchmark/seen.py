"""What pre-training has seen of the cells that are judged on: only then may they be called unseen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from selfcell.core.words import counted
from selfcell.data.cell_hashes import CellHashes
from selfcell.data.source import Cells
from selfcell.training.run_folder import TrainedModel


@dataclass(frozen=True)
class Seen:
    """How many of the cells that are judged on a model was pre-trained on, without their labels."""

    n_cells: int | None
    """None where the run has kept no list of its cells."""
    n_test: int
    donors: tuple[str, ...] | None
    """Donors of them that pre-training had other cells of, or the same; None where it was not split by donor, or these
    cells do not have the column."""
    donor_column: str | None = None
    """The column that the run was split by."""
    sets_aside: bool = False
    """Whether the run has set cells aside, which could be judged on."""

    @property
    def any(self) -> bool | None:
        """Whether any cell or donor was seen; None where nothing tells."""
        if self.n_cells or self.donors:
            return True
        return None if self.n_cells is None and self.donors is None else False

    def sentence(self) -> str | None:
        """Say what was seen, and how to judge on what was not; None if nothing was."""
        if self.any is None:
            return (
                "Whether pre-training has seen the test cells is not known: its run has kept no list of its cells, and "
                "these do not have the column of donors that it was split by, if it was."
            )
        if not self.any:
            return None
        parts = []
        if self.n_cells:
            parts.append(f"on {self.n_cells:,} of the {self.n_test:,} test cells")
        if self.donors:
            named = ", ".join(self.donors[:3]) + (", ..." if len(self.donors) > 3 else "")
            parts.append(f"on cells of {counted(len(self.donors), 'test donor')} ({named})")
        return (
            f"The encoder was pre-trained {' and '.join(parts)}, though not on their labels: expect less on others. "
            + self._advice()
        )

    def _advice(self) -> str:
        if self.sets_aside and self.donor_column:
            return (
                f"Its run has set donors aside to be judged on: name their column (--donor {self.donor_column}), and "
                "no --test-where."
            )
        if self.sets_aside:
            return "Its run has set cells aside to be judged on: give the very cells of the run, and no --test-where."
        return "Set donors aside when pre-training: --donor COLUMN --set data.test_fraction=0.3."


def what_was_seen(models: Sequence[TrainedModel], cells: Cells, rows: np.ndarray, *, other_set: bool = False) -> Seen:
    """Tell what pre-trained models have seen of some cells.

    Parameters
    ----------
    models
        They differ in their seed alone, so that most often all have seen the same.
    cells
        Cells, aligned to the models' genes, with their own columns of ``obs``.
    rows
        Positions of the cells that are judged on.
    other_set
        Whether they are of another data set, where a donor of the same name may be another person: names then count
        only beside cells that are known, or where the run has kept no list of its cells.

    Returns
    -------
    That of the model that has seen most.
    """
    hashes = CellHashes.of(cells.subset(rows))
    seen = max((_seen_by(model, cells, rows, hashes) for model in models), key=_how_much)
    return replace(seen, donors=()) if other_set and seen.n_cells == 0 and seen.donors else seen


def _how_much(seen: Seen) -> tuple[bool, int, int]:
    return seen.any is not False, seen.n_cells or 0, len(seen.donors or ())


def _seen_by(model: TrainedModel, cells: Cells, rows: np.ndarray, hashes: CellHashes) -> Seen:
    known = model.known_cells
    n_cells = None if known is None else int(hashes.found_in(known.learned_from).sum())
    seen = Seen(n_cells=n_cells, n_test=len(rows), donors=None)
    if (saved := model.split) is None:
        return seen
    if saved["unit"] == "cell":
        return replace(seen, sets_aside=known is not None and len(known.set_aside) > 0)
    column = saved["unit"]
    seen = replace(seen, donor_column=column, sets_aside=bool(saved["donors"]["test"]))
    if column not in cells.obs:
        return seen
    learned_from = {donor for part in ("train", "validation") for donor in saved["donors"][part]}
    donors = set(cells.obs[column].iloc[rows].dropna().astype(str)) & learned_from
    return replace(seen, donors=tuple(sorted(donors)))
