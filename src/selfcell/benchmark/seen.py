"""What pre-training has seen of the cells that are judged on: only then may they be called unseen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from selfcell.benchmark.study_split import CHANCE
from selfcell.core.words import counted
from selfcell.data.cell_hashes import CellHashes
from selfcell.data.source import Cells
from selfcell.training.run_folder import TrainedModel

Relation: TypeAlias = Literal["own", "transfer", "named", "query", "seen", "unknown"]
"""What pre-training was given: ``seen``, of the cells that are judged on; of these none, but of those that are learned
from (``own``) or not (``transfer``); none of a part that the plan names (``named``) or of another data set
(``query``)."""


@dataclass(frozen=True)
class Seen:
    """What pre-training was given of the cells that are judged on, without their labels."""

    n_cells: int | None
    """At least so many; None where nothing tells: the run has kept no list of its cells, or some of its genes are
    missing here, so that counts cannot be compared, and no name is known."""
    n_test: int
    donors: tuple[str, ...] | None
    """Donors of them that it was given cells of; None where it was not split by donor, or these cells do not have the
    column."""
    namesakes: tuple[str, ...] = ()
    """Donors of another data set that bear the names of some that it was given: the same people, or not."""
    donor_column: str | None = None
    """The column that the run was split by."""
    sets_aside: bool = False
    """Whether the run has set cells aside, which could be judged on."""
    is_imported: bool = False
    """Whether the model is a checkpoint of others, which does not say what it was trained on."""

    @property
    def any(self) -> bool | None:
        """Whether any cell or donor was seen; None where nothing tells."""
        if self.n_cells or self.donors:
            return True
        return None if self.namesakes or (self.n_cells is None and self.donors is None) else False

    def sentence(self) -> str | None:
        """Say what was seen, and how to judge on what was not; None if nothing was."""
        if self.any is False:
            return None
        if self.any is None and self.namesakes:
            return (
                f"Pre-training was given donors of the same names ({_listed(self.namesakes)}). Whether they are the "
                "same people is not known; if so, expect less on others."
            )
        if self.any is None and self.is_imported:
            return (
                "The model is an imported checkpoint, which does not say which cells it was trained on: the test "
                "cells, or others of their donors, may be among them; if so, expect less on others."
            )
        if self.any is None:
            return (
                "Whether pre-training was given the test cells is not known: its run has kept no list of its cells, or "
                "genes of it are missing here, and no donor tells."
            )
        parts = [f"at least {self.n_cells:,} of the {self.n_test:,} test cells"] if self.n_cells else []
        if self.donors:
            parts.append(f"cells of {counted(len(self.donors), 'test donor')} ({_listed(self.donors)})")
        return (
            f"Pre-training was given {' and '.join(parts)}, to train on or to watch the loss on, though not "
            f"their labels: expect less on others. {self._advice()}"
        )

    def _advice(self) -> str:
        if not self.sets_aside:
            return "Set donors aside when pre-training: --donor COLUMN --set data.test_fraction=0.3."
        by = f" (by the donors in obs[{self.donor_column!r}])" if self.donor_column else ""
        return f"Its run has set cells aside{by}: judge on those, of the file it was trained on."


def _listed(donors: tuple[str, ...]) -> str:
    return ", ".join(donors[:3]) + (", ..." if len(donors) > 3 else "")


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
        Whether they are of another data set, where a donor of the same name may be another person: beside cells that
        are known it is the same one.

    Returns
    -------
    That of the model that has seen most.
    """
    hashes = CellHashes.of(cells.subset(rows))
    seen = max((_seen_by(model, cells, rows, hashes) for model in models), key=_how_much)
    return replace(seen, donors=None, namesakes=seen.donors) if other_set and seen.donors and not seen.n_cells else seen


def learned_from(models: Sequence[TrainedModel], cells: Cells, rows: np.ndarray) -> bool | None:
    """Tell whether pre-training was given cells that a target learns from; None where nothing tells.

    Parameters
    ----------
    models, cells, rows
        As in :func:`what_was_seen`; of cells that are not known by themselves, donors tell.
    """
    hashes = CellHashes.of(cells.subset(rows))
    told = [_has_learned(_seen_by(model, cells, rows, hashes)) for model in models]
    return True if any(told) else None if None in told else False


def _has_learned(seen: Seen) -> bool | None:
    if seen.n_cells is not None:
        return seen.n_cells > CHANCE * seen.n_test
    return None if seen.donors is None else bool(seen.donors)


def relation_of(seen: Seen, *, is_query: bool, is_named: bool, has_learned: bool | None) -> Relation:
    """Tell what the cells of pre-training are to those of a target.

    Parameters
    ----------
    seen
        What pre-training was given of the cells that are judged on.
    is_query, is_named
        Whether these are another data set, or cells that the plan names.
    has_learned
        Whether it was given cells that the target learns from; see :func:`learned_from`.
    """
    if seen.any is not False:
        return "seen" if seen.any else "unknown"
    if is_query or is_named:
        return "query" if is_query else "named"
    if has_learned is None:
        return "unknown"
    return "own" if has_learned else "transfer"


def _how_much(seen: Seen) -> tuple[bool, int, int]:
    return seen.any is not False, seen.n_cells or 0, len(seen.donors or ())


def _seen_by(model: TrainedModel, cells: Cells, rows: np.ndarray, hashes: CellHashes) -> Seen:
    known = model.known_cells
    n_cells = None if known is None else int(hashes.found_in(known.learned_from).sum())
    if n_cells == 0 and cells.alignment is not None and cells.alignment.missing:
        n_cells = None
    seen = Seen(n_cells=n_cells, n_test=len(rows), donors=None, is_imported="imported" in model.manifest)
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
