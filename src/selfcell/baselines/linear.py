"""Linear baselines of cell types: logistic regression on genes."""

from typing import Any

import numpy as np

from selfcell.baselines.base import Problem
from selfcell.downstream.cell_type import CellTypeTask
from selfcell.downstream.logistic_regression import fit_logistic_regression
from selfcell.downstream.type_classifier import ClassWeights

GENE_INVERSE_PENALTY = 0.001
"""The best of 1, 0.1, 0.01 and 0.001 on validation donors of ``liu_covid_pbmc``, with two labelled donors and all.

0.003 and 0.01 differ from it by less than 0.01 of macro F1 with two donors (the mean of ten draws) and 0.02 with all.
"""

VARIABLE_GENE_INVERSE_PENALTY = 0.003
"""The best of 0.1 to 0.0001, in steps of about 3, in the same way on the 500 most variable of its 1,000 genes."""


def predict_by_logistic_regression(problem: Problem[CellTypeTask]) -> np.ndarray:
    """Fit a multinomial logistic regression on the ``log1p`` expression of all genes, scaled to unit variance."""
    return _predict(problem, genes=slice(None), inverse_penalty=GENE_INVERSE_PENALTY)


def predict_by_root_logistic_regression(problem: Problem[CellTypeTask]) -> np.ndarray:
    """Fit the same with the class weights that fine-tuning has by default.

    On new donors of ``liu_covid_pbmc`` balanced weights are better for it, at any penalty; on other data these are.
    """
    return _predict(problem, genes=slice(None), inverse_penalty=GENE_INVERSE_PENALTY, class_weights="root")


def predict_by_hvg_logistic_regression(problem: Problem[CellTypeTask]) -> np.ndarray:
    """Fit the first on the 2,000 most variable genes, chosen on the unlabelled cells."""
    return _predict(problem, genes=problem.compared.highly_variable, inverse_penalty=VARIABLE_GENE_INVERSE_PENALTY)


def _predict(
    problem: Problem[CellTypeTask], *, genes: Any, inverse_penalty: float, class_weights: ClassWeights = "balanced"
) -> np.ndarray:
    expression, labelled = problem.compared.expression[:, genes], problem.split.train
    return fit_logistic_regression(
        expression[labelled],
        problem.task.label_code[labelled],
        expression[problem.split.test],
        class_weights=class_weights,
        inverse_penalty=inverse_penalty,
    )
