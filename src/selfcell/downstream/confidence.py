"""What is said of cells whose type is known, how surely, and whether types that nothing has seen are noticed."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from selfcell.core.seeds import numpy_rng
from selfcell.downstream.confidence_scores import CONFIDENCE_COLUMNS
from selfcell.downstream.labelled_reference import Assigned, Naming, calibrated_reference
from selfcell.downstream.rejection import auroc_of_unseen

UNSEEN_COLUMNS = (
    "class",
    "n_cells",
    "auroc_familiarity",
    "auroc_distance",
    "auroc_confidence",
    "called_unknown",
    "known_called_unknown",
)
"""Columns of the table of types that were left out of the reference, one row each."""
LEAST_UNSEEN = 30
"""Test cells below which a type is not left out: too few to say whether they are noticed."""
N_MOST = 20_000
"""Reference and test cells at most that types are left out of: each time all neighbors are searched again."""


class Answer(NamedTuple):
    """What a classifier says of cells, and how surely; of a reference it is an :class:`Assigned`."""

    label_code: Int[np.ndarray, " n_cells"]
    confidence: Float[np.ndarray, " n_cells"]
    uncalibrated: Float[np.ndarray, " n_cells"]
    sets: Bool[np.ndarray, "n_cells n_classes"]
    is_unknown: Bool[np.ndarray, " n_cells"]


class Reference(NamedTuple):
    """Labelled cells that are asked about others, as :func:`~selfcell.downstream.labelled_reference` has them."""

    embedding: Float[np.ndarray, "n_cells n_latent"]
    label_code: Int[np.ndarray, " n_cells"]
    donor_code: Int[np.ndarray, " n_cells"] | None
    naming: Naming

    def ask(self, query: Float[np.ndarray, "n_query n_latent"]) -> Assigned:
        """Calibrate on these cells alone, and name the types of others."""
        calibrated = calibrated_reference(self.embedding, self.label_code, self.naming, donor_code=self.donor_code)
        return calibrated.assign(query)

    def subset(self, rows: np.ndarray) -> "Reference":
        """Give some of the cells."""
        donor_code = None if self.donor_code is None else self.donor_code[rows]
        return self._replace(embedding=self.embedding[rows], label_code=self.label_code[rows], donor_code=donor_code)


def leave_types_out(
    reference: Reference,
    query: Float[np.ndarray, "n_query n_latent"],
    label_code: Int[np.ndarray, " n_query"],
    classes: tuple[str, ...],
) -> pd.DataFrame:
    """Take one type at a time out of the reference, and see whether query cells of that type stand out.

    Parameters
    ----------
    reference
        Labelled cells; at most :data:`N_MOST` of them are used.
    query
        Embedding of cells of which at most :data:`N_MOST` are asked about.
    label_code
        Their true types, all of which the whole reference has.
    classes
        Names of the types.

    Returns
    -------
    One row a type with :data:`LEAST_UNSEEN` query cells or more, and the columns of :data:`UNSEEN_COLUMNS`. An
    ``auroc`` is the probability that a cell of the missing type looks less like the reference than one of another
    type: by familiarity (its distance, measured by what is usual for the type it was given), by the distance as it is,
    and by confidence; 0.5 is chance. ``called_unknown`` is the share of its cells that :func:`selfcell.annotate`
    would call unknown with ``alpha`` = 0.05, ``known_called_unknown`` that of all others.
    """
    reference = reference.subset(_at_most(len(reference.label_code)))
    asked = _at_most(len(label_code))
    query, label_code = query[asked], label_code[asked]
    codes = [code for code in np.unique(label_code) if (label_code == code).sum() >= LEAST_UNSEEN]
    rows = []
    for code in codes:
        rest = np.flatnonzero(reference.label_code != code)
        is_unseen = label_code == code
        if is_unseen.all() or len(np.unique(reference.label_code[rest])) < 2:
            continue
        assigned = reference.subset(rest).ask(query)
        rows.append(
            (
                classes[code],
                int(is_unseen.sum()),
                auroc_of_unseen(1 - assigned.share_farther, is_unseen),
                auroc_of_unseen(assigned.distance, is_unseen),
                auroc_of_unseen(1 - assigned.confidence, is_unseen),
                assigned.is_unknown[is_unseen].mean(),
                assigned.is_unknown[~is_unseen].mean(),
            )
        )
    return pd.DataFrame(rows, columns=list(UNSEEN_COLUMNS))


def confidence_table(
    method: str, answer: Answer | Assigned, *, donors: np.ndarray, truth: np.ndarray, classes: tuple[str, ...]
) -> pd.DataFrame:
    """Put what a method says of cells, and their true types, into a table of :data:`CONFIDENCE_COLUMNS`.

    Parameters
    ----------
    method
        A regime.
    answer
        What it says.
    donors, truth
        Donor and code of the true type of each cell.
    classes
        Names of the types.
    """
    names = np.array(classes, dtype=object)
    columns = (
        method,
        donors,
        names[truth],
        names[answer.label_code],
        answer.confidence,
        answer.uncalibrated,
        answer.sets.sum(axis=1),
        answer.sets[np.arange(len(truth)), truth],
        answer.is_unknown,
    )
    return pd.DataFrame(dict(zip(CONFIDENCE_COLUMNS, columns, strict=True)))


def _at_most(n_cells: int) -> np.ndarray:
    return np.sort(numpy_rng(0, "types left out", n_cells).permutation(n_cells)[:N_MOST])
