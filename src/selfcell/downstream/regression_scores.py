"""Scores of predictions of many features of many cells, over a whole test set, in blocks of cells.

Every score but those of ranks over all cells is a function of sums that add up over cells, kept for each unit (test
donor). So a set of any size is scored a few cells at a time, and a bootstrap over donors costs products of matrices.
The paper's code :cite:p:`richter2025` averages scores over minibatches instead, which makes them depend on the order of
the cells.

No torch here: reports and statistics compute from the same sums.
"""

import numpy as np
import scipy.sparse as sp
import scipy.stats
from jaxtyping import Bool, Float, Int, Shaped

from selfcell.downstream.feature_sums import (
    FeatureSums,
    add_by_unit,
    cell_blocks,
    densely,
    feature_blocks,
    of_mask,
)
from selfcell.downstream.moments import Moments

REGRESSION_SCORES = (
    "explained_variance_weighted",
    "explained_variance_uniform",
    "mse",
    "pearson_per_cell",
    "pearson_per_feature",
    "pearson_flattened",
    "spearman_per_cell",
)
"""What :meth:`RegressionTotals.scores` gives."""


class RegressionTotals:
    """Sums over test cells, by unit, from which every score of :data:`REGRESSION_SCORES` is computed.

    ``explained_variance_weighted`` and ``_uniform`` are scikit-learn's ``explained_variance_score`` with
    ``multioutput="variance_weighted"`` and ``"uniform_average"``, constant features included: one whose truth is
    constant weighs nothing in the first, and counts in the second as 1 if its prediction is constant too, else as 0.
    Under a mask a feature weighs in the first by its sum of squares, which comes to the same where all have as many
    entries; features without any entry are left out.

    ``mse`` is the mean over entries. ``pearson_per_cell`` and ``spearman_per_cell`` (tied values share their mean rank)
    are means over cells, ``pearson_per_feature`` is the mean over features, ``pearson_flattened`` is over all entries
    at once. Cells and features whose *truth* is constant have no correlation and are left out; a
    constant *prediction* of one that varies counts as 0. Where nothing is left the score is NaN.

    Parameters
    ----------
    n_features
        Features predicted.
    n_units
        Units: test donors, or 1.
    ranks
        Whether ``spearman_per_cell`` is computed, which takes most of the time; else it is NaN.

    Attributes
    ----------
    features
        The sums of each feature.
    """

    def __init__(self, *, n_features: int, n_units: int, ranks: bool = True) -> None:
        self.features = FeatureSums(n_features=n_features, n_units=n_units)
        self.n_units, self.ranks = n_units, ranks
        # Of each unit: cells, cells whose truth varies, and the sums of the two correlations of these.
        self._of_cells = np.zeros((n_units, 4))

    def add(
        self,
        truth: np.ndarray | sp.csr_matrix,
        predicted: Shaped[np.ndarray, "n_cells n_features"],
        unit_code: Int[np.ndarray, " n_cells"],
        *,
        mask: Bool[np.ndarray, "n_cells n_features"] | None = None,
    ) -> None:
        """Add some cells, or all; they are taken a few at a time.

        Parameters
        ----------
        truth, predicted
            Cells x features.
        unit_code
            The unit of each cell.
        mask
            The entries that count, such as those that were hidden; all by default.

        Raises
        ------
        InputError
            If values that count are NaN or infinite.
        """
        n_features = self.features.n_features
        if truth.shape != predicted.shape or predicted.shape[1] != n_features:
            raise ValueError(f"{truth.shape} true and {predicted.shape} predicted values of {n_features:,} features.")
        if len(unit_code) and not 0 <= unit_code.min() <= unit_code.max() < self.n_units:
            raise ValueError(f"Codes of units must lie between 0 and {self.n_units - 1:,}.")
        for cells in cell_blocks(len(predicted), n_features):
            true, foretold = densely(truth[cells]), densely(predicted[cells])
            counted = None if mask is None else mask[cells]
            self.features.add(true, foretold, unit_code[cells], mask=counted)
            add_by_unit(self._of_cells, self._cell_sums(true, foretold, counted), unit_code[cells])

    def scores(self, weight: Float[np.ndarray, "n_draws n_units"] | None = None) -> dict[str, np.ndarray]:
        """Compute every score, for each draw of units.

        Parameters
        ----------
        weight
            How often each unit counts, such as how often a bootstrap drew it; once by default.

        Returns
        -------
        One value a draw under each name of :data:`REGRESSION_SCORES`.
        """
        weight = np.ones((1, self.n_units)) if weight is None else weight
        sums = np.zeros((8, len(weight)))
        for features in feature_blocks(self.features.n_features, len(weight)):
            sums += _over_features(self.features.moments(weight, features))
        error, n_entries, residual, total, explained, n_features, correlation, n_varying = sums
        _, cells, pearson, spearman = (weight @ self._of_cells).T
        with np.errstate(invalid="ignore", divide="ignore"):
            uniform = explained / n_features
            return {
                "explained_variance_weighted": np.where(total > 0, 1 - residual / total, uniform),
                "explained_variance_uniform": uniform,
                "mse": error / n_entries,
                "pearson_per_cell": pearson / cells,
                "pearson_per_feature": correlation / n_varying,
                "pearson_flattened": self.features.flattened(weight).pearson[:, 0],
                "spearman_per_cell": spearman / cells if self.ranks else np.full(len(weight), np.nan),
            }

    def _cell_sums(self, truth: np.ndarray, predicted: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """Give four numbers a cell: 1, whether its truth varies, and its correlations, 0 where it does not."""
        pearson = correlation_of_rows(truth, predicted, mask)
        spearman = np.zeros_like(pearson)
        if self.ranks:
            spearman = correlation_of_rows(_ranks_of_rows(truth, mask), _ranks_of_rows(predicted, mask), mask)
        varies = ~np.isnan(pearson)
        return np.stack([np.ones(len(truth)), varies, np.nan_to_num(pearson), np.nan_to_num(spearman)], axis=1)


def correlation_of_rows(
    truth: Float[np.ndarray, "n_rows n_columns"],
    predicted: Float[np.ndarray, "n_rows n_columns"],
    mask: Bool[np.ndarray, "n_rows n_columns"] | None = None,
) -> Float[np.ndarray, " n_rows"]:
    """Correlate the entries of each row that count: NaN where the truth is constant, 0 where only the prediction is."""
    truth, truth_varies = _centered(truth, mask)
    predicted, predicted_varies = _centered(predicted, mask)
    spread = np.sqrt(_row_products(truth, truth)) * np.sqrt(_row_products(predicted, predicted))
    correlation = np.clip(_row_products(truth, predicted) / np.where(spread > 0, spread, 1.0), -1.0, 1.0)
    return np.where(truth_varies, np.where(predicted_varies, correlation, 0.0), np.nan)


def _centered(values: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Take its mean off each row, leaving zeros where nothing counts, and tell which rows vary."""
    counted = np.ones((1, 1), dtype=bool) if mask is None else mask
    n = np.broadcast_to(counted, values.shape).sum(axis=1, keepdims=True)
    largest = values.max(axis=1, where=counted, initial=-np.inf)
    smallest = values.min(axis=1, where=counted, initial=np.inf)
    mean = values.sum(axis=1, keepdims=True, where=counted) / np.maximum(n, 1)
    return of_mask(mask, values - mean)[0], largest > smallest


def _row_products(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("cf,cf->c", one, other))


def _ranks_of_rows(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    # What does not count comes last, so that it changes no other rank.
    counted = values if mask is None else np.where(mask, values, np.inf)
    return np.asarray(scipy.stats.rankdata(counted, axis=1))


def _over_features(of_features: Moments) -> np.ndarray:
    """Sum over features, for each draw, the eight things that scores of features are made of."""
    n, known, varies = of_features.n, of_features.n > 0, of_features.variance_truth > 0
    return np.stack(
        [
            np.sum(n * of_features.squared_error, axis=1, where=known),
            n.sum(axis=1),
            np.sum(n * of_features.variance_of_error, axis=1, where=varies),
            np.sum(n * of_features.variance_truth, axis=1, where=varies),
            np.sum(of_features.explained_variance, axis=1, where=known),
            known.sum(axis=1),
            np.sum(of_features.pearson, axis=1, where=varies),
            varies.sum(axis=1),
        ]
    )
