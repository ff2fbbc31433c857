"""Baselines: what an encoder must beat to be worth its training. One family, one file."""

from typing import TYPE_CHECKING

from selfcell.core.registry import Entry, Registry

if TYPE_CHECKING:
    from selfcell.baselines.base import Baseline

BASELINES: "dict[str, Registry[Baseline]]" = {
    "cell_type": Registry(
        "baseline of cell_type",
        {
            "pca_knn": Entry(
                "selfcell.baselines.spaces:answer_by_pca",
                "PCA fitted on the cells that pre-training saw, then nearest neighbors.",
            ),
            "logistic_regression": Entry(
                "selfcell.baselines.linear:predict_by_logistic_regression",
                "Logistic regression on the expression of all genes.",
            ),
            "untrained_encoder": Entry(
                "selfcell.baselines.spaces:answer_by_untrained_encoder",
                "The same network with random weights, then nearest neighbors.",
            ),
        },
    ),
    "cross_modality": Registry(
        "baseline of cross_modality",
        {
            "gene_ridge": Entry(
                "selfcell.baselines.cross_modality:predict_by_genes", "Ridge regression on the expression of all genes."
            ),
            "pca_ridge": Entry(
                "selfcell.baselines.cross_modality:predict_by_pca",
                "PCA fitted on the cells that pre-training saw, then ridge regression.",
            ),
            "pca_knn": Entry(
                "selfcell.baselines.spaces:answer_by_pca",
                "PCA fitted on the cells that pre-training saw, then the mean of nearest neighbors.",
            ),
            "untrained_encoder": Entry(
                "selfcell.baselines.spaces:answer_by_untrained_encoder",
                "The same network with random weights, then the mean of nearest neighbors.",
            ),
            "means": Entry(
                "selfcell.baselines.cross_modality:predict_by_means", "The mean of the training cells for every cell."
            ),
            "totalvi": Entry(
                "selfcell.baselines.totalvi:predict_by_totalvi",
                "totalVI, given no protein of a test cell (on request: extra scvi, slow).",
            ),
        },
    ),
}
"""The baselines of each downstream task."""

ON_REQUEST: frozenset[str] = frozenset({"totalvi"})
"""Baselines that are run only where they are named: they need a package of an extra, or take long."""

SEEDLESS = frozenset({"pca_knn", "logistic_regression", "gene_ridge", "pca_ridge", "means"})
"""Baselines whose answer depends on the labelled cells alone, not on a seed."""


def usual_baselines(task: str) -> tuple[str, ...]:
    """Give the baselines that are run for a task where none is named."""
    return tuple(name for name in BASELINES[task] if name not in ON_REQUEST)
