"""Baselines of cross-modality prediction: linear models of the genes, and what needs no genes."""

import numpy as np

from selfcell.baselines.base import Problem
from selfcell.downstream.cross_modality import CrossModalityTask
from selfcell.downstream.target_space import TargetPrediction


def predict_by_genes(problem: Problem[CrossModalityTask]) -> TargetPrediction:
    """Fit a ridge regression on the ``log1p`` expression of all genes; see :mod:`selfcell.downstream.ridge`."""
    return problem.task.predict_by_ridge(problem.compared.expression, problem.split)


def predict_by_pca(problem: Problem[CrossModalityTask]) -> TargetPrediction:
    """Fit a ridge regression on as many principal components as the embedding has dimensions."""
    return problem.task.predict_by_ridge(problem.compared.principal_components, problem.split)


def predict_by_means(problem: Problem[CrossModalityTask]) -> TargetPrediction:
    """Predict the mean of the training cells for every cell, whatever its genes."""
    space = problem.task.space(problem.split.train)
    return space.prediction(np.zeros((len(problem.split.test), space.n_directions), dtype=np.float32))
