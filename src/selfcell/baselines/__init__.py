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
    "integration": Registry(
        "baseline of integration",
        {
            "pca": Entry(
                "selfcell.baselines.spaces:answer_by_pca", "PCA fitted on the training cells: no integration."
            ),
            "untrained_encoder": Entry(
                "selfcell.baselines.spaces:answer_by_untrained_encoder", "The same network with random weights."
            ),
            "harmony": Entry(
                "selfcell.baselines.integration:integrate_by_harmony",
                "Harmony on the principal components of all cells, the test cells too. Needs the extra integration.",
            ),
            "scvi": Entry(
                "selfcell.baselines.integration:integrate_by_scvi",
                "scVI trained on the training cells; the others are mapped. Needs the extra scvi.",
            ),
            "scanvi": Entry(
                "selfcell.baselines.integration:integrate_by_scanvi",
                "scANVI trained on the training cells and their labels; the others are mapped. Needs the extra scvi.",
            ),
        },
    ),
}
"""The baselines of each downstream task."""

ON_REQUEST: frozenset[str] = frozenset({"harmony", "scvi", "scanvi"})
"""Baselines that are run only where they are named: they need a package of an extra, or take long."""

SEEDLESS = frozenset({"pca_knn", "logistic_regression", "pca"})
"""Baselines whose answer depends on the labelled cells alone, not on a seed."""

USES_PCA = frozenset({"pca_knn", "pca", "harmony"})
"""Baselines that begin from the principal components of the cells."""


def usual_baselines(task: str) -> tuple[str, ...]:
    """Give the baselines that are run for a task where none is named."""
    return tuple(name for name in BASELINES[task] if name not in ON_REQUEST)
