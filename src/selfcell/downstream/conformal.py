"""Sets of labels that hold the true one with a probability that is promised."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from selfcell.core.errors import InputError
from selfcell.downstream.calibration import check_labels, check_probability

ConformalScore = Literal["least_ambiguous", "adaptive"]


@dataclass(frozen=True, kw_only=True)
class PredictionSets:
    """A rule that gives each cell a set of labels, fitted by :func:`fit_prediction_sets`."""

    score: ConformalScore
    """Which strangeness of a label was used."""
    threshold: Float[np.ndarray, " n_classes"]
    """The largest strangeness of each label that is still in the set; infinite where all are."""

    def predict(self, probability: Float[np.ndarray, "n_cells n_classes"]) -> Bool[np.ndarray, "n_cells n_classes"]:
        """Tell which labels are in the set of each cell.

        Raises
        ------
        InputError
            If rows are no probabilities.
        """
        return np.asarray(_strangeness(probability, self.score) <= self.threshold)


def fit_prediction_sets(
    probability: Float[np.ndarray, "n_cells n_classes"],
    label_code: Int[np.ndarray, " n_cells"],
    *,
    alpha: float,
    score: ConformalScore = "least_ambiguous",
    by_class: bool = False,
) -> PredictionSets:
    r"""Fit sets of labels that miss the true one in no more than a share ``alpha`` of cells.

    Of :math:`n` held-out cells the true labels' strangeness is sorted, and of these values the one at place
    :math:`\lceil (n + 1)(1 - \alpha)\rceil` is the threshold. For a cell that is exchangeable with the held-out ones
    the set holds the true label with a probability of at least :math:`1 - \alpha`, whatever the classifier
    :cite:p:`vovk2005`. Cells of new donors are not quite exchangeable with those of others: measure the coverage on
    whole donors (:func:`coverage`).

    Parameters
    ----------
    probability
        Of held-out cells; calibrated or not, the promise holds.
    label_code
        True class of each cell, from 0.
    alpha
        Share of cells whose set may miss the true label, between 0 and 1, both excluded.
    score
        ``least_ambiguous``: one less the probability of the label :cite:p:`sadinle2019`, the smallest sets on
        average; they may be empty. ``adaptive``: the probability of all labels that are more probable, after
        :cite:t:`romano2020`, sets that grow where a cell is hard. It is not randomized as theirs is, so the most
        probable label is always in and easy cells may be covered more often than promised.
    by_class
        Keep the promise within each true class (Mondrian), by a threshold for each. A class with too few held-out cells
        to promise anything, fewer than 1 / ``alpha`` - 1, is in every set.

    Raises
    ------
    InputError
        If there are no cells, a label is no class, rows are no probabilities, or ``alpha`` is out of range.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha must lie between 0 and 1, both excluded, but is {alpha:g}.")
    n_classes = probability.shape[1]
    check_labels(label_code, n_cells=len(probability), n_classes=n_classes)
    of_truth = _strangeness(probability, score)[np.arange(len(probability)), label_code]
    if by_class:
        threshold = np.array([_conformal_quantile(of_truth[label_code == code], alpha) for code in range(n_classes)])
    else:
        threshold = np.full(n_classes, _conformal_quantile(of_truth, alpha))
    return PredictionSets(score=score, threshold=threshold)


def coverage(sets: Bool[np.ndarray, "n_cells n_classes"], label_code: Int[np.ndarray, " n_cells"]) -> float:
    """Share of cells whose set holds the true label."""
    return float(sets[np.arange(len(sets)), label_code].mean())


def _strangeness(probability: np.ndarray, score: ConformalScore) -> np.ndarray:
    check_probability(probability)
    probability = probability.astype(np.float64)
    if score == "least_ambiguous":
        return 1 - probability
    order = np.argsort(-probability, axis=1, kind="stable")
    descending = np.take_along_axis(probability, order, axis=1)
    before = np.zeros_like(descending)
    before[:, 1:] = np.cumsum(descending, axis=1)[:, :-1]
    # Equally probable labels are equally strange: only what is truly more probable counts.
    equal = np.zeros_like(before, dtype=bool)
    equal[:, 1:] = descending[:, 1:] == descending[:, :-1]
    before = np.maximum.accumulate(np.where(equal, 0.0, before), axis=1)
    strangeness = np.empty_like(before)
    np.put_along_axis(strangeness, order, before, axis=1)
    return strangeness


def _conformal_quantile(strangeness: np.ndarray, alpha: float) -> float:
    # 1 - alpha is rounded; a product that is a whole number shall stay one.
    rank = int(np.ceil((len(strangeness) + 1) * (1 - alpha) - 1e-9))
    return float(np.sort(strangeness)[rank - 1]) if 0 < rank <= len(strangeness) else np.inf
