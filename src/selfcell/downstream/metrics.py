"""Scores of classification, all from one table: how many cells of each true type were given each type.

No torch here: reports and statistics compute from the same functions.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Num

FEW_CELLS = 30
"""A class with fewer test cells is marked as rare: its F1 hangs on a few cells."""
CLASSIFICATION_METRICS = ("macro_f1", "macro_f1_union", "micro_f1", "balanced_accuracy")


class PerClass(NamedTuple):
    """Scores of each class; the last axis is the class."""

    f1: np.ndarray
    """NaN for a class that is neither in the truth nor predicted."""
    recall: np.ndarray
    """NaN for a class that is not in the truth."""
    n_cells: np.ndarray
    """Test cells that are truly of the class."""


def confusion_matrix(
    truth: Int[np.ndarray, " n_cells"], predicted: Int[np.ndarray, " n_cells"], *, n_classes: int
) -> Int[np.ndarray, "n_classes n_classes"]:
    """Count cells by (true class, predicted class)."""
    counted: np.ndarray = np.bincount(truth * n_classes + predicted, minlength=n_classes**2)
    return counted.reshape(n_classes, n_classes)


def per_class(confusion: Num[np.ndarray, "*studies n_classes n_classes"]) -> PerClass:
    """Compute F1 and recall of each class from a confusion matrix, or from a stack of them."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    n_true, n_predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return PerClass(f1=2 * hits / (n_true + n_predicted), recall=hits / n_true, n_cells=n_true)


def macro_f1(
    confusion: Num[np.ndarray, "*studies n_classes n_classes"], *, among: Bool[np.ndarray, " n_classes"] | None = None
) -> np.ndarray:
    """Mean F1 over the classes present in the truth, so that it does not depend on which others were predicted.

    Parameters
    ----------
    confusion
        One matrix, or a stack of them.
    among
        Average over these classes alone; NaN where none of them is present.
    """
    scores = per_class(confusion)
    counted = scores.n_cells > 0 if among is None else (scores.n_cells > 0) & among
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(counted, np.nan_to_num(scores.f1), 0).sum(axis=-1) / counted.sum(axis=-1))


def classification_scores(confusion: Num[np.ndarray, "*studies n_classes n_classes"]) -> dict[str, np.ndarray]:
    """Compute every score of :data:`CLASSIFICATION_METRICS` from a confusion matrix, or from a stack of them.

    ``macro_f1`` and ``balanced_accuracy`` average over the classes in the truth. ``macro_f1_union`` averages over those
    in the truth or in the prediction, as the paper does: one stray prediction adds a class with F1 of zero.
    """
    scores = per_class(confusion)
    return {
        "macro_f1": macro_f1(confusion),
        "macro_f1_union": np.nanmean(scores.f1, axis=-1),
        "micro_f1": np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum(axis=(-2, -1)),
        "balanced_accuracy": np.nanmean(scores.recall, axis=-1),
    }
