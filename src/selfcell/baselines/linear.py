"""Linear baselines: PCA with nearest neighbors, and logistic regression on genes."""

import numpy as np

from selfcell.baselines.base import LabelProblem
from selfcell.downstream.cell_type import fit_logistic_regression
from selfcell.downstream.neighbors import vote_of_neighbors

GENE_INVERSE_PENALTY = 0.001
"""The best of 1, 0.1, 0.01 and 0.001 on validation donors of ``liu_covid_pbmc``, with two labelled donors and all."""


def predict_by_pca_knn(problem: LabelProblem) -> np.ndarray:
    """Let the nearest labelled cells vote in the space of principal components."""
    space = problem.compared.principal_components
    return vote_of_neighbors(
        space[problem.labelled],
        problem.label_code[problem.labelled],
        space[problem.test],
        n_neighbors=problem.n_neighbors,
    ).label_code


def predict_by_logistic_regression(problem: LabelProblem) -> np.ndarray:
    """Fit a multinomial logistic regression on the ``log1p`` expression of all genes, scaled to unit variance."""
    expression = problem.compared.expression
    return fit_logistic_regression(
        expression[problem.labelled],
        problem.label_code[problem.labelled],
        expression[problem.test],
        inverse_penalty=GENE_INVERSE_PENALTY,
    )
