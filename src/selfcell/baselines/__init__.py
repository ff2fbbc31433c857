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
                "PCA fitted on all training cells, then nearest neighbors.",
            ),
            "logistic_regression": Entry(
                "selfcell.baselines.linear:predict_by_logistic_regression",
                "Logistic regression on the expression of all genes.",
            ),
            "hvg_logistic_regression": Entry(
                "selfcell.baselines.linear:predict_by_hvg_logistic_regression",
                "Logistic regression on the expression of the 2,000 most variable genes.",
            ),
            "root_logistic_regression": Entry(
                "selfcell.baselines.linear:predict_by_root_logistic_regression",
                "The first logistic regression with rare types weighed up less: better on other data sets.",
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
                "scVI trained on all training cells, then nearest neighbors. Needs the extra scvi.",
            ),
            "scanvi": Entry(
                "selfcell.baselines.scvi_models:predict_by_scanvi",
                "scANVI: scVI trained on with labels, and its classifier. Needs the extra scvi.",
            ),
        },
    ),
    "reconstruction": Registry(
        "baseline of reconstruction",
        {
            "gene_means": Entry(
                "selfcell.baselines.reconstruction:expect_gene_means",
                "The mean expression of each gene over the training cells, for every cell.",
            ),
            "pca": Entry(
                "selfcell.baselines.reconstruction:expect_by_pca",
                "PCA fitted on all training cells, with as many components as the embedding.",
            ),
            "knn_smoothing": Entry(
                "selfcell.baselines.reconstruction:expect_by_neighbors",
                "The mean expression of the nearest training cells in these components.",
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
                "PCA fitted on all training cells, then ridge regression.",
            ),
            "pca_knn": Entry(
                "selfcell.baselines.spaces:answer_by_pca",
                "PCA fitted on all training cells, then the mean of nearest neighbors.",
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
                "selfcell.baselines.harmony:integrate_by_harmony",
                "Harmony on the principal components of all cells, the test cells too. Needs the extra integration.",
            ),
            "scvi": Entry(
                "selfcell.baselines.scvi_models:answer_by_scvi",
                "scVI trained on the training cells; the others are mapped. Needs the extra scvi.",
            ),
            "scanvi": Entry(
                "selfcell.baselines.scvi_models:integrate_by_scanvi",
                "scANVI trained on the training cells and their labels; the others are mapped. Needs the extra scvi.",
            ),
        },
    ),
}
"""The baselines of each downstream task."""

ON_REQUEST: frozenset[str] = frozenset(
    {"boosted_trees", "celltypist_style", "harmony", "root_logistic_regression", "scanvi", "scvi", "totalvi"}
)
"""Baselines that are run only where they are named: they need a package of an extra, or take long."""

SEEDLESS = frozenset(
    {
        "expression_knn",
        "gene_means",
        "gene_ridge",
        "hvg_logistic_regression",
        "knn_smoothing",
        "logistic_regression",
        "means",
        "pca",
        "pca_knn",
        "pca_ridge",
        "root_logistic_regression",
    }
)
"""Baselines whose answer depends on the labelled cells alone, not on a seed."""

SHARED = {
    "pca_knn": "principal_components",
    "pca_ridge": "principal_components",
    "pca": "principal_components",
    "knn_smoothing": "principal_components",
    "harmony": "principal_components",
    "boosted_trees": "principal_components",
    "hvg_logistic_regression": "highly_variable",
    "scvi": "highly_variable",
    "scanvi": "highly_variable",
}
"""What of :class:`ComparedCells` a baseline takes that is better computed once than in each process."""

MAKE_ONCE = frozenset({"scanvi", "scvi"})
"""Baselines that train without labels first, which is done once for each seed, whatever is labelled."""


def usual_baselines(task: str) -> tuple[str, ...]:
    """Give the baselines that are run for a task where none is named."""
    return tuple(name for name in BASELINES[task] if name not in ON_REQUEST)
