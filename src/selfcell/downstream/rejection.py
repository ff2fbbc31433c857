"""What is gained by leaving out the cells that a classifier is least sure of.

No torch here: reports compute from the same functions.
"""

import numpy as np
import pandas as pd
import scipy.stats
from jaxtyping import Bool, Float

from selfcell.core.errors import InputError

RISK_COLUMNS = ("threshold", "coverage", "risk")


def risk_coverage(confidence: Float[np.ndarray, " n_cells"], correct: Bool[np.ndarray, " n_cells"]) -> pd.DataFrame:
    """Tabulate the share of errors against the share of cells that are given a label :cite:p:`elyaniv2010`.

    Parameters
    ----------
    confidence
        Any number that is larger where the prediction is surer.
    correct
        Whether the prediction was right.

    Returns
    -------
    One row for each confidence that occurs, the surest first, with the columns of :data:`RISK_COLUMNS`: if the cells of
    at least this confidence keep their label, the share of all cells that they are, and the share of errors among them.

    Raises
    ------
    InputError
        If there are no cells.
    """
    ordered, errors = _by_confidence(confidence, correct)
    last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    n_kept = last + 1
    columns = (ordered[last], n_kept / len(ordered), np.cumsum(errors)[last] / n_kept)
    return pd.DataFrame(dict(zip(RISK_COLUMNS, columns, strict=True)))


def area_under_risk_coverage(confidence: Float[np.ndarray, " n_cells"], correct: Bool[np.ndarray, " n_cells"]) -> float:
    """Mean share of errors among the surest cells, over all numbers of cells :cite:p:`geifman2019`; smaller is better.

    Equally sure cells come in a random order: the area is its mean over all orders. A confidence that says nothing has
    the share of errors among all cells.

    Raises
    ------
    InputError
        If there are no cells.
    """
    ordered, errors = _by_confidence(confidence, correct)
    _, group, n_equal = np.unique(ordered, return_inverse=True, return_counts=True)
    expected = (np.bincount(group, weights=errors) / n_equal)[group]
    return float((np.cumsum(expected) / np.arange(1, len(expected) + 1)).mean())


def auroc_of_unseen(score: Float[np.ndarray, " n_cells"], is_unseen: Bool[np.ndarray, " n_cells"]) -> float:
    """Probability that a cell of an unseen type scores higher than one of a known type; equal scores count half.

    Parameters
    ----------
    score
        Larger where a cell is more unfamiliar: such as a distance, or one less a confidence.
    is_unseen
        Whether the cell's true type was absent from the reference.

    Raises
    ------
    InputError
        If all cells are of unseen types, or none.
    """
    n_unseen = int(is_unseen.sum())
    n_known = len(is_unseen) - n_unseen
    if not n_unseen or not n_known:
        raise InputError(
            f"Cells of known and of unseen types are needed, but {n_known:,} are of known and {n_unseen:,} of unseen "
            "types."
        )
    ranks = scipy.stats.rankdata(score)
    return float((ranks[is_unseen].sum() - n_unseen * (n_unseen + 1) / 2) / (n_unseen * n_known))


def _by_confidence(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give confidence and errors of the cells, the surest first."""
    if len(confidence) == 0:
        raise InputError("There are no cells to judge confidence on.")
    order = np.argsort(-confidence, kind="stable")
    return confidence[order], (~correct[order]).astype(np.float64)
