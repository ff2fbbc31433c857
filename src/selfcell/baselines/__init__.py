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
            "hvg_logistic_regression": Entry(
                "selfcell.baselines.linear:predict_by_hvg_logistic_regression",
                "Logistic regression on the expression of the 2,000 most variable genes.",
            ),
            "celltypist_style": Entry(
                "selfcell.baselines.celltypist_style:predict_by_celltypist_style",
                "CellTypist's recipe: logistic regressions that choose 300 genes a type, and then predict by them.",
            ),
            "boosted_trees": Entry(
                "selfcell.baselines.gradient_boosting:predict_by_boosted_trees",
                "Gradient-boosted trees on 64 principal components.",
            ),
            "expression_knn": Entry(
                "selfcell.baselines.expression_knn:predict_by_expression_knn",
                "Nearest neighbors by the cosine of the expression of all genes.",
            ),
            "untrained_encoder": Entry(
                "selfcell.baselines.spaces:answer_by_untrained_encoder",
                "The same network with random weights, then nearest neighbors.",
            ),
            "scvi": Entry(
                "selfcell.baselines.scvi_models:answer_by_scvi",
                "scVI trained on the cells that pre-training saw, then nearest neighbors; needs selfcell[scvi].",
            ),
            "wide_scvi": Entry(
                "selfcell.baselines.scvi_models:answer_by_wide_scvi",
                "scVI with as many dimensions as the embedding, then nearest neighbors; needs selfcell[scvi].",
            ),
            "scanvi": Entry(
                "selfcell.baselines.scvi_models:predict_by_scanvi",
                "scANVI: scVI trained on with labels, and its classifier; needs selfcell[scvi].",
            ),
        },
    ),
}
"""The baselines of each downstream task."""

ON_REQUEST = frozenset({"celltypist_style", "boosted_trees", "scvi", "wide_scvi", "scanvi"})
"""Baselines that are run only where they are named: they need a package of an extra, or take long."""

SEEDLESS = frozenset({"pca_knn", "logistic_regression", "hvg_logistic_regression", "expression_knn"})
"""Baselines whose answer depends on the labelled cells alone, not on a seed."""

SHARED = {
    "pca_knn": "principal_components",
    "boosted_trees": "principal_components",
    "hvg_logistic_regression": "highly_variable",
}
"""What of :class:`ComparedCells` a baseline takes that is better computed once than in each process."""


def usual_baselines(task: str) -> tuple[str, ...]:
    """Give the baselines that are run for a task where none is named."""
    return tuple(name for name in BASELINES[task] if name not in ON_REQUEST)
