"""What people read for methods and scores."""

from collections.abc import Sequence

from selfcell.benchmark.results import GIVEN

METHOD_NAMES = {
    "zero_shot": "zero-shot",
    "probe": "probe",
    "fine_tuned": "fine-tuned",
    "from_scratch": "from scratch",
    "pca_knn": "PCA + neighbors",
    "logistic_regression": "logistic regression",
    "hvg_logistic_regression": "regression on HVGs",
    "root_logistic_regression": "regression, root weights",
    "celltypist_style": "CellTypist's recipe",
    "boosted_trees": "boosted trees",
    "expression_knn": "genes + neighbors",
    "untrained_encoder": "untrained encoder",
    "gene_means": "gene means",
    "pca": "PCA",
    "knn_smoothing": "neighbors' mean",
    "gene_ridge": "ridge regression on genes",
    "pca_ridge": "ridge regression on PCA",
    "means": "means of training cells",
    "totalvi": "totalVI",
    "harmony": "Harmony",
    "scvi": "scVI",
    "scanvi": "scANVI",
}
METRIC_NAMES = {
    "macro_f1": "Macro F1",
    "macro_f1_frequent": "Macro F1 without types of few test cells",
    "pearson_per_cell": "Pearson correlation of each cell",
    "explained_variance_weighted": "Explained variance",
    "pearson_per_feature": "Pearson correlation of each target",
    "hidden_mse": "Squared error of hidden expression",
    "total": "Total score of integration",
    "bio_conservation": "Conservation of types",
    "batch_correction": "Mixing of batches",
    "all_total": "Total over training and test cells",
    "hidden_pearson_per_cell": "Pearson correlation of hidden expression, by cell",
    "mse": "Squared error",
}
METRIC_HELP = {
    "macro_f1": "Macro F1 over the types present among the test cells.",
    "explained_variance_weighted": (
        "Share of the variance of log1p expression that is explained, all genes together, of cells that are seen whole."
    ),
    "pearson_per_cell": (
        "Pearson correlation across the targets of a cell, averaged over test cells. How much there is of each target "
        "in all cells makes most of it; what distinguishes cells shows in the correlation of each target across cells "
        "(pearson_per_feature in scores.csv)."
    ),
    "total": "Total of scIB over the test cells: 0.6 times the conservation of types, 0.4 times the mixing of batches.",
}

SECOND_OPINION = {"reconstruction": "hidden_pearson_per_cell"}
"""The score by which comparisons are told once more: to explain counts that are seen, copying is enough."""
VISIBLE_FROM = (
    "Visible from: the difference of which there would have been a verdict with a probability of 0.8, given this "
    "spread. Pairs that agree: pairs of seeds of which the difference has the sign of the mean."
)
"""What two columns of tables of differences tell."""

BUDGET_WORDS = {"cell_type": "labelled", "cross_modality": "measured"}
"""What the donors of a budget have that others have not; where tasks need nothing of them, they are trained on."""


def budget_word(task: str) -> str:
    """Give what the donors of a budget are called: "with 2 donors labelled"."""
    return BUDGET_WORDS.get(task, "trained on")


def fullest(budgets: Sequence[str]) -> str:
    """Give the largest label budget: all, or else the one that was named last."""
    return next((budget for budget in budgets if budget.startswith("all ")), budgets[-1])


def encoder_name(encoder: str, corpus: str) -> str:
    """Give what people read for an encoder of a benchmark: with its corpus, where it was trained there."""
    return encoder if corpus == GIVEN else f"{encoder} on {corpus}"


def method_name(method: str) -> str:
    """Give what people read for a regime or a baseline."""
    return METHOD_NAMES.get(method, method)


def metric_name(metric: str) -> str:
    """Give what people read for a score."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))
