"""Baselines of reconstruction: gene means, principal components, nearest cells."""

import numpy as np
import scipy.sparse as sp
from sklearn.neighbors import NearestNeighbors

from selfcell.baselines.base import Problem
from selfcell.downstream.reconstruction import ReconstructionTask
from selfcell.downstream.reconstruction_scores import Forecast, Forecaster, Reconstruction


def expect_gene_means(problem: Problem[ReconstructionTask]) -> Reconstruction:
    """Expect the mean expression of each gene over the training cells, whatever the cell."""
    training = problem.compared.expression[problem.split.train]
    means = np.asarray(training.mean(axis=0, dtype=np.float64), dtype=np.float32).reshape(1, -1)
    return _answer(problem, lambda counts: Forecast(np.repeat(means, counts.shape[0], axis=0)))


def expect_by_pca(problem: Problem[ReconstructionTask]) -> Reconstruction:
    """Expect what the principal components of all training cells keep of a cell.

    As many components as the embedding has dimensions. Cells with hidden counts are projected as they are seen.
    """
    pca, normalized = problem.compared.pca, problem.compared.log_normalized

    def forecast(counts: sp.csr_matrix) -> Forecast:
        return Forecast(np.asarray(pca.inverse_transform(pca.transform(normalized(counts))), dtype=np.float32))

    return _answer(problem, forecast)


def expect_by_neighbors(problem: Problem[ReconstructionTask]) -> Reconstruction:
    """Expect the mean expression of the nearest training cells in principal components, found by what is visible.

    A cell itself is no part of the mean, unlike in published kNN smoothing, which is made for the cells at hand.
    """
    compared, train = problem.compared, problem.split.train
    training = compared.expression[train]
    n_neighbors = min(problem.task.settings.n_neighbors, len(train))
    index = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(compared.principal_components[train])

    def forecast(counts: sp.csr_matrix) -> Forecast:
        space = np.asarray(compared.pca.transform(compared.log_normalized(counts)), dtype=np.float32)
        nearest = index.kneighbors(space, return_distance=False)
        offsets = np.arange(0, nearest.size + 1, n_neighbors)
        share = np.full(nearest.size, 1 / n_neighbors, dtype=np.float32)
        averaging = sp.csr_matrix((share, nearest.ravel(), offsets), shape=(len(nearest), len(train)))
        return Forecast((averaging @ training).toarray())

    return _answer(problem, forecast)


def _answer(problem: Problem[ReconstructionTask], forecast: Forecaster) -> Reconstruction:
    return Reconstruction.of(problem.compared.cells, problem.split.test, forecast)
