"""Baselines: what an encoder must beat to be worth its training. One family, one file."""

from typing import TYPE_CHECKING

from selfcell.core.registry import Entry, Registry

if TYPE_CHECKING:
    from selfcell.baselines.base import Baseline

BASELINES: "Registry[Baseline]" = Registry(
    "baseline",
    {
        "pca_knn": Entry(
            "selfcell.baselines.linear:predict_by_pca_knn",
            "PCA fitted on the cells that pre-training saw, then nearest neighbors.",
        ),
        "logistic_regression": Entry(
            "selfcell.baselines.linear:predict_by_logistic_regression",
            "Logistic regression on the expression of all genes.",
        ),
        "untrained_encoder": Entry(
            "selfcell.baselines.untrained:predict_by_untrained_encoder",
            "The same network with random weights, then nearest neighbors.",
        ),
    },
)

SEEDLESS = frozenset({"pca_knn", "logistic_regression"})
"""Baselines whose answer depends on the labelled cells alone, not on a seed."""
