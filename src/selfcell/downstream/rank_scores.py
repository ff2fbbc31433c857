"""Spearman's correlation over all cells of a test set: of each feature, and of all entries at once.

Ranks over cells need all cells, so these are computed from whole arrays, some features at a time, where
:mod:`selfcell.downstream.regression_scores` needs sums alone.
"""

import logging
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import scipy.stats
from jaxtyping import Bool, Float, Int, Shaped

from selfcell.downstream.feature_sums import FeatureSums, cell_blocks, densely, feature_blocks

logger = logging.getLogger(__name__)

MAX_FLATTENED = 20_000_000
"""Entries (cells x features) up to which all are ranked at once, in under a gigabyte."""


def rank_scores(
    truth: np.ndarray | sp.csr_matrix,
    predicted: Shaped[np.ndarray, "n_cells n_features"],
    unit_code: Int[np.ndarray, " n_cells"],
    *,
    weight: Float[np.ndarray, "n_draws n_units"] | None = None,
    mask: Bool[np.ndarray, "n_cells n_features"] | None = None,
) -> dict[str, np.ndarray]:
    """Compute ``spearman_per_feature``, a mean over features, and ``spearman_flattened``, for each draw of units.

    Values are ranked once, over the whole test set, and tied ones share their mean rank. With units counted otherwise
    than once, these same ranks are correlated anew, as if they were the data: the values drawn are not ranked anew
    among themselves, so a resampled score is not exactly that of the resampled cells.

    Parameters
    ----------
    truth, predicted
        Cells x features.
    unit_code
        The unit (test donor) of each cell.
    weight
        How often each unit counts; once by default.
    mask
        The entries that count; all by default.

    Returns
    -------
    One value a draw under each name. What is constant is treated as in
    :class:`selfcell.downstream.regression_scores.RegressionTotals`. Where there are more entries than
    :data:`MAX_FLATTENED`, ``spearman_flattened`` is NaN and a line is logged.
    """
    n_units = int(unit_code.max()) + 1 if weight is None else weight.shape[1]
    weight = np.ones((1, n_units)) if weight is None else weight
    correlation, n_varying = np.zeros(len(weight)), np.zeros(len(weight))
    for _, ranked in _ranked_features(truth, predicted, unit_code, n_units=n_units, mask=mask):
        pearson = ranked.moments(weight).pearson
        correlation += np.nansum(pearson, axis=1)
        n_varying += (~np.isnan(pearson)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        per_feature = correlation / n_varying
    flattened = _flattened(truth, predicted, unit_code, weight=weight, mask=mask)
    return {"spearman_per_feature": per_feature, "spearman_flattened": flattened}


def _ranked_features(
    truth: np.ndarray | sp.csr_matrix,
    predicted: np.ndarray,
    unit_code: np.ndarray,
    *,
    n_units: int,
    mask: np.ndarray | None,
) -> Iterator[tuple[slice, FeatureSums]]:
    """Give the sums over the ranks of the cells, some features at a time."""
    n_cells, n_features = predicted.shape
    by_feature = sp.csc_matrix(truth) if sp.issparse(truth) else truth
    for features in feature_blocks(n_features, n_cells):
        counted = None if mask is None else mask[:, features]
        of_truth, of_predicted = (_ranks(densely(values[:, features]), counted) for values in (by_feature, predicted))
        sums = FeatureSums(n_features=of_truth.shape[1], n_units=n_units)
        sums.add(of_truth, of_predicted, unit_code, mask=counted)
        yield features, sums


def _flattened(
    truth: np.ndarray | sp.csr_matrix,
    predicted: np.ndarray,
    unit_code: np.ndarray,
    *,
    weight: np.ndarray,
    mask: np.ndarray | None,
) -> np.ndarray:
    if predicted.size > MAX_FLATTENED:
        logger.info(
            "Spearman's correlation of all %s entries at once is left out: ranking more than %s takes too much memory.",
            f"{predicted.size:,}",
            f"{MAX_FLATTENED:,}",
        )
        return np.full(len(weight), np.nan)
    unit, counted = np.repeat(unit_code, predicted.shape[1]), None if mask is None else mask.reshape(-1, 1)
    ranks = [_ranks(densely(values).reshape(-1, 1), counted) for values in (truth, predicted)]
    sums = FeatureSums(n_features=1, n_units=weight.shape[1])
    for entries in cell_blocks(predicted.size, 1):
        of_block = None if counted is None else counted[entries]
        sums.add(ranks[0][entries], ranks[1][entries], unit[entries], mask=of_block)
    return sums.moments(weight).pearson[:, 0]


def _ranks(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Rank each column; what does not count comes last, so that it changes no other rank."""
    return np.asarray(scipy.stats.rankdata(values if mask is None else np.where(mask, values, np.inf), axis=0))
