"""How far confidence can be trusted: scores of calibration, and the table behind a reliability plot.

No torch here: reports compute from the same functions.
"""

import numpy as np
import pandas as pd
import scipy.stats
from jaxtyping import Bool, Float, Int

from selfcell.core.errors import InputError

N_BINS = 15
"""Bins of confidence, as Guo et al. have them."""
RELIABILITY_COLUMNS = ("bin", "n_cells", "mean_confidence", "accuracy", "low", "high")


def expected_calibration_error(
    confidence: Float[np.ndarray, " n_cells"],
    correct: Bool[np.ndarray, " n_cells"],
    *,
    n_bins: int = N_BINS,
) -> float:
    """Mean gap between confidence and accuracy over bins of confidence, weighted by their cells :cite:p:`guo2017`.

    Chance alone makes it larger than zero, the more so the fewer cells a bin has: compare at equal numbers of cells.

    Parameters
    ----------
    confidence
        Probability of the predicted class, between 0 and 1.
    correct
        Whether the prediction was right.
    n_bins
        Number of bins of equal width, as in the paper.

    Raises
    ------
    InputError
        If there are no cells, or a confidence is not between 0 and 1.
    """
    table = reliability_table(confidence, correct, n_bins=n_bins)
    gap = (table["accuracy"] - table["mean_confidence"]).abs()
    return float((gap * table["n_cells"]).sum() / table["n_cells"].sum())


def reliability_table(
    confidence: Float[np.ndarray, " n_cells"],
    correct: Bool[np.ndarray, " n_cells"],
    *,
    n_bins: int = N_BINS,
) -> pd.DataFrame:
    """Tabulate confidence against accuracy.

    Parameters
    ----------
    confidence, correct, n_bins
        As in :func:`expected_calibration_error`.

    Returns
    -------
    One row a bin that has cells, with the columns of :data:`RELIABILITY_COLUMNS`: the bin's number from 0, its cells,
    their mean confidence and their accuracy with its 95 % interval after Wilson. The interval takes cells for
    independent; those of one donor are not, so it is too narrow over few donors.

    Raises
    ------
    InputError
        If there are no cells, or a confidence is not between 0 and 1.
    """
    _check_confidence(confidence)
    # A bin takes in its upper end, as in the paper.
    bin_of_cell = np.clip(np.ceil(confidence.astype(np.float64) * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    n_cells = np.bincount(bin_of_cell, minlength=n_bins)
    present = np.flatnonzero(n_cells)
    n_cells = n_cells[present]
    n_correct = np.bincount(bin_of_cell, weights=correct, minlength=n_bins)[present]
    total_confidence = np.bincount(bin_of_cell, weights=confidence, minlength=n_bins)[present]
    low, high = wilson_interval(n_correct, n_cells)
    columns = (present, n_cells, total_confidence / n_cells, n_correct / n_cells, low, high)
    return pd.DataFrame(dict(zip(RELIABILITY_COLUMNS, columns, strict=True)))


def wilson_interval(
    n_correct: Float[np.ndarray, " n_bins"], n_cells: Int[np.ndarray, " n_bins"], *, level: float = 0.95
) -> tuple[Float[np.ndarray, " n_bins"], Float[np.ndarray, " n_bins"]]:
    """Give the interval of a share after Wilson :cite:p:`wilson1927`, which stays between 0 and 1 for few cells too."""
    z = scipy.stats.norm.ppf((1 + level) / 2)
    share = n_correct / n_cells
    middle = (share + z**2 / (2 * n_cells)) / (1 + z**2 / n_cells)
    half = z / (1 + z**2 / n_cells) * np.sqrt(share * (1 - share) / n_cells + (z / (2 * n_cells)) ** 2)
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)


def _check_confidence(confidence: np.ndarray) -> None:
    if len(confidence) == 0:
        raise InputError("There are no cells to judge confidence on.")
    wrong = ~((confidence >= 0) & (confidence <= 1))
    if wrong.any():
        raise InputError(
            f"Confidence must lie between 0 and 1, but {wrong.sum():,} of {len(confidence):,} cells have another (the "
            f"first is {confidence[wrong][0]:g})."
        )
