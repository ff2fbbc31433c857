"""Probabilities that mean what they say: 0.9 is right nine times in ten on cells like those it was fitted on."""

import logging

import numpy as np
import scipy.optimize
import scipy.special
from jaxtyping import Float, Int

from selfcell.core.errors import InputError

logger = logging.getLogger(__name__)

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 100.0
"""Where the search for a temperature ends."""


def fit_temperature(
    logits: Float[np.ndarray, "n_cells n_classes"],
    label_code: Int[np.ndarray, " n_cells"],
    *,
    donor_code: Int[np.ndarray, " n_cells"] | None = None,
) -> float:
    r"""Fit the one number that logits are divided by :cite:p:`guo2017`.

    It makes the mean negative log likelihood of held-out cells the smallest. That is convex in the inverse temperature
    :math:`\beta`, and its slope is the mean logit under the predicted probabilities less that of the true class,

    .. math::

        g(\beta) = \sum_i w_i \Big( \sum_c p_{ic} z_{ic} - z_{i y_i} \Big), \quad p_i = \mathrm{softmax}(\beta z_i),

    so the temperature is where the slope crosses zero. No class is predicted otherwise than before.

    Parameters
    ----------
    logits
        Of cells that the classifier was not trained on, nor chosen by. Cells of donors that it was trained on say too
        little about new donors: hold donors out.
    label_code
        True class of each cell, from 0.
    donor_code
        Donor of each cell: each donor then counts equally, however many cells it has. The paper counts cells.

    Returns
    -------
    The temperature, between 0.01 and 100; at either end a warning is logged. The lowest one comes out where the
    logits are right about every cell, the highest one where they are no better than chance.

    Raises
    ------
    InputError
        If there are no cells, a label is no class, or logits are not finite.
    """
    check_labels(label_code, n_cells=len(logits), n_classes=logits.shape[1])
    if not np.isfinite(logits).all():
        raise InputError(
            "Logits must be finite to be calibrated. Shares of votes with zeros go through logits_of_shares first."
        )
    # Only differences count; those to the largest logit lose no digits.
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    true_logit = shifted[np.arange(len(shifted)), label_code]
    weight = _cell_weight(label_code, donor_code)

    def slope(log_temperature: float) -> float:
        probability = scipy.special.softmax(shifted / np.exp(log_temperature), axis=1)
        return float(weight @ ((probability * shifted).sum(axis=1) - true_logit))

    lowest, highest = np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE)
    # The slope falls as the temperature rises.
    if slope(lowest) <= 0:
        logger.warning(
            "On the cells held out to calibrate by, the predictions are right nearly always: confidence is made as "
            "sharp as it can be."
        )
        return LOWEST_TEMPERATURE
    if slope(highest) >= 0:
        logger.warning(
            "On the cells held out to calibrate by, the predictions are no better than chance: confidence is made as "
            "flat as it can be."
        )
        return HIGHEST_TEMPERATURE
    return float(np.exp(scipy.optimize.brentq(slope, lowest, highest, xtol=1e-10)))


def calibrated_probability(
    logits: Float[np.ndarray, "n_cells n_classes"], *, temperature: float
) -> Float[np.ndarray, "n_cells n_classes"]:
    """Give the probability of each class: the softmax of the logits divided by the temperature, in double precision."""
    probability: np.ndarray = scipy.special.softmax(logits.astype(np.float64) / temperature, axis=1)
    return probability


def logits_of_shares(
    shares: Float[np.ndarray, "n_cells n_classes"], *, n_votes: int
) -> Float[np.ndarray, "n_cells n_classes"]:
    """Give the logarithm of shares of votes, which may be zero, as logits to calibrate.

    One vote is added to those that were cast, split equally among the classes: the posterior mean under a Dirichlet
    prior of that weight (Perks). So a class without votes has a small probability, smaller with more voters and more
    classes, and no order among classes changes.

    Parameters
    ----------
    shares
        Rows that add up to one: of :func:`~selfcell.downstream.neighbors.class_shares`, or any probabilities.
    n_votes
        How many votes the shares are of.

    Raises
    ------
    InputError
        If rows are no shares.
    """
    check_probability(shares)
    n_classes = shares.shape[1]
    return np.asarray(np.log((shares.astype(np.float64) * n_votes + 1 / n_classes) / (n_votes + 1)))


def check_probability(probability: np.ndarray) -> None:
    """Refuse rows that are no probabilities: negative, not finite, or not adding up to one."""
    wrong = ~((probability >= 0).all(axis=1) & (np.abs(probability.sum(axis=1) - 1) < 1e-3))
    if wrong.any():
        raise InputError(
            f"Probabilities of classes must not be negative and must add up to one in each cell, but {wrong.sum():,} "
            f"of {len(probability):,} cells are otherwise (the first is cell {np.flatnonzero(wrong)[0]})."
        )


def check_labels(label_code: np.ndarray, *, n_cells: int, n_classes: int) -> None:
    """Refuse labels that are no classes, and no cells."""
    if n_cells == 0:
        raise InputError("There are no held-out cells to calibrate on.")
    wrong = (label_code < 0) | (label_code >= n_classes)
    if wrong.any():
        raise InputError(
            f"{wrong.sum():,} of {n_cells:,} held-out cells have a label that is none of the {n_classes} classes (the "
            f"first is {label_code[wrong][0]}). Leave these cells out."
        )


def _cell_weight(label_code: np.ndarray, donor_code: np.ndarray | None) -> np.ndarray:
    """Weigh cells so that all count alike, or all donors; weights add up to one."""
    if donor_code is None:
        return np.full(len(label_code), 1 / len(label_code))
    _, donor, n_cells = np.unique(donor_code, return_inverse=True, return_counts=True)
    return np.asarray(1 / (len(n_cells) * n_cells[donor]))
