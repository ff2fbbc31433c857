"""Sets of labels that hold the true one with a probability that is promised."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from selfcell.core.errors import InputError
from selfcell.downstream.calibration import check_labels, check_probability


@dataclass(frozen=True, kw_only=True)
class PredictionSets:
    """A rule that gives each cell a set of labels, fitted by :func:`fit_prediction_sets`."""

    threshold: float
    """The largest strangeness of a label that is still in the set; infinite where all are."""

    def predict(self, probability: Float[np.ndarray, "n_cells n_classes"]) -> Bool[np.ndarray, "n_cells n_classes"]:
        """Tell which labels are in the set of each cell.

        Raises
        ------
        InputError
            If rows are no probabilities.
        """
        return np.asarray(_strangeness(probability) <= self.threshold)


def fit_prediction_sets(
    probability: Float[np.ndarray, "n_cells n_classes"],
    label_code: Int[np.ndarray, " n_cells"],
    *,
    alpha: float,
) -> PredictionSets:
    r"""Fit sets of labels that miss the true one in no more than a share ``alpha`` of cells.

    A label is as strange to a cell as its probability falls short of one, which makes the smallest sets on average
    :cite:p:`sadinle2019`; they may be empty. Of :math:`n` held-out cells the true labels' strangeness is sorted, and of
    these values the one at place :math:`\lceil (n + 1)(1 - \alpha)\rceil` is the threshold. For a cell that is
    exchangeable with the held-out ones the set holds the true label with a probability of at least :math:`1 - \alpha`,
    whatever the classifier :cite:p:`vovk2005`. Cells of new donors are not quite exchangeable with those of others:
    measure the coverage on whole donors.

    Parameters
    ----------
    probability
        Of held-out cells; calibrated or not, the promise holds.
    label_code
        True class of each cell, from 0.
    alpha
        Share of cells whose set may miss the true label, between 0 and 1, both excluded.

    Raises
    ------
    InputError
        If there are no cells, a label is no class, rows are no probabilities, or ``alpha`` is out of range.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha must lie between 0 and 1, both excluded, but is {alpha:g}.")
    n_classes = probability.shape[1]
    check_labels(label_code, n_cells=len(probability), n_classes=n_classes)
    of_truth = _strangeness(probability)[np.arange(len(probability)), label_code]
    return PredictionSets(threshold=_conformal_quantile(of_truth, alpha))


def _strangeness(probability: np.ndarray) -> np.ndarray:
    check_probability(probability)
    return 1 - probability.astype(np.float64)


def _conformal_quantile(strangeness: np.ndarray, alpha: float) -> float:
    # 1 - alpha is rounded; a product that is a whole number shall stay one.
    rank = int(np.ceil((len(strangeness) + 1) * (1 - alpha) - 1e-9))
    return float(np.sort(strangeness)[rank - 1]) if 0 < rank <= len(strangeness) else np.inf
