"""How well predicted distributions of counts fit held-out cells: likelihood and zeros.

As in :mod:`selfcell.downstream.regression_scores` scores are functions of sums by unit, added a few cells at a time.
"""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from selfcell.core.errors import InputError
from selfcell.downstream.count_distribution import CountDistribution
from selfcell.downstream.feature_sums import add_by_unit, densely

COUNT_SCORES = ("log_likelihood_per_cell", "log_likelihood_per_entry", "zero_calibration_error")
"""What :meth:`CountTotals.scores` gives."""


class CountTotals:
    """Sums over test cells, by unit, from which the scores of :data:`COUNT_SCORES` are computed.

    ``log_likelihood_per_cell`` is the mean over cells of the summed log-probability (natural logarithm, with its
    constants) of the counts that count, ``log_likelihood_per_entry`` the mean over entries: comparable between
    likelihoods, since all are probabilities of the same counts. ``zero_calibration_error`` is the mean over genes of
    the absolute difference between the share of zeros and the mean predicted probability of zero.

    Parameters
    ----------
    n_genes
        Genes.
    n_units
        Units: test donors, or 1.
    """

    def __init__(self, *, n_genes: int, n_units: int) -> None:
        self.n_genes, self.n_units = n_genes, n_units
        # Of each unit: cells, entries, log-probability. Of each unit and gene: entries, zeros, probability of zero.
        self._of_cells = np.zeros((n_units, 3))
        self._of_genes = np.zeros((3, n_units, n_genes))

    def add(
        self,
        counts: np.ndarray | sp.csr_matrix,
        predicted: CountDistribution,
        unit_code: Int[np.ndarray, " n_cells"],
        *,
        mask: Bool[np.ndarray, "n_cells n_genes"] | None = None,
    ) -> None:
        """Add a few cells.

        Parameters
        ----------
        counts
            What was measured, cells x genes.
        predicted
            What was predicted of these cells.
        unit_code
            The unit of each cell.
        mask
            The entries that count; all by default.

        Raises
        ------
        InputError
            If a count that counts was given no probability, or none that is a number.
        """
        truth = densely(counts)
        if truth.shape != predicted.mean.shape:
            raise ValueError(f"{truth.shape} counts, but predictions of {predicted.mean.shape}.")
        mask = np.ones(truth.shape, dtype=bool) if mask is None else mask
        log_probability = np.where(mask, predicted.log_probability(truth), 0.0)
        _refuse_the_impossible(log_probability)
        of_cells = np.stack([mask.any(axis=1), mask.sum(axis=1), log_probability.sum(axis=1)], axis=1)
        add_by_unit(self._of_cells, of_cells, unit_code)
        zero_probability = np.where(mask, predicted.zero_probability(), 0.0)
        for sums, values in zip(self._of_genes, (mask, mask & (truth == 0), zero_probability), strict=True):
            add_by_unit(sums, values, unit_code)

    def scores(self, weight: Float[np.ndarray, "n_draws n_units"] | None = None) -> dict[str, np.ndarray]:
        """Compute every score, for each draw of units.

        Parameters
        ----------
        weight
            How often each unit counts; once by default.

        Returns
        -------
        One value a draw under each name of :data:`COUNT_SCORES`.
        """
        weight = np.ones((1, self.n_units)) if weight is None else weight
        n_cells, n_entries, log_probability = (weight @ self._of_cells).T
        n, zeros, zero_probability = weight @ self._of_genes
        with np.errstate(invalid="ignore", divide="ignore"):
            off = np.abs(zeros - zero_probability) / n
            return {
                "log_likelihood_per_cell": log_probability / n_cells,
                "log_likelihood_per_entry": log_probability / n_entries,
                "zero_calibration_error": np.sum(off, axis=1, where=n > 0) / (n > 0).sum(axis=1),
            }


def _refuse_the_impossible(log_probability: np.ndarray) -> None:
    n_faulty = log_probability.size - int(np.isfinite(log_probability).sum())
    if n_faulty:
        raise InputError(
            f"{n_faulty:,} counts have a predicted probability of 0 or none at all (a mean that is 0 or NaN), so their "
            "likelihood cannot be computed. Predict means above 0; if the model diverged, train it anew with a smaller "
            "learning rate."
        )
