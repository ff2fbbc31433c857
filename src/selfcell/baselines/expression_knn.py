"""A baseline of cell types without any model: the nearest labelled cells by the expression of all genes."""

import numpy as np
import scipy.sparse as sp
from sklearn.preprocessing import normalize

from selfcell.baselines.base import Problem
from selfcell.downstream.cell_type import CellTypeTask
from selfcell.downstream.neighbors import Neighbors, count_votes

BLOCK_ENTRIES = 2**24
"""Entries of a dense block of query cells x genes or x reference cells: 64 MB."""

DENSE_FROM = 0.1
"""Share of entries that are not zero from which dense products are the quicker ones."""


def predict_by_expression_knn(problem: Problem[CellTypeTask]) -> np.ndarray:
    """Let the labelled cells vote whose ``log1p`` expression is the most like the cell's, by the cosine.

    As many vote as in zero_shot, and as much weight. No principal components, no choice of genes.
    """
    expression, split = problem.compared.expression, problem.split
    nearest = most_similar(
        expression[split.train], expression[split.test], n_neighbors=problem.task.settings.n_neighbors
    )
    code, weights = problem.task.label_code[split.train], problem.task.settings.weights
    return count_votes(nearest, code, weights=weights).label_code


def most_similar(reference: sp.csr_matrix, query: sp.csr_matrix, *, n_neighbors: int) -> Neighbors:
    """Find the reference cells with the largest cosine to each query cell.

    The products are those of sparse matrices, or of dense ones where more than a tenth of the entries are not zero, as
    in cells of chosen genes.

    Parameters
    ----------
    reference, query
        Cells x genes.
    n_neighbors
        Reference cells to find; all of them, where there are fewer.

    Returns
    -------
    Rows of the reference, the most similar first, with their Euclidean distances where all cells have length one.
    """
    reference, query = normalize(reference), normalize(query)
    n_neighbors = min(n_neighbors, reference.shape[0])
    dense = reference.nnz > DENSE_FROM * reference.shape[0] * reference.shape[1]
    across = reference.toarray().T if dense else reference.T.tocsr()
    n_rows = max(BLOCK_ENTRIES // max(reference.shape), 1)
    indices, distances = [], []
    for start in range(0, query.shape[0], n_rows):
        block = query[start : start + n_rows]
        cosine = block.toarray() @ across if dense else (block @ across).toarray()
        best = np.argpartition(-cosine, n_neighbors - 1, axis=1)[:, :n_neighbors]
        similarity = np.take_along_axis(cosine, best, axis=1)
        order = np.argsort(-similarity, axis=1, kind="stable")
        indices.append(np.take_along_axis(best, order, axis=1))
        squared = 2 - 2 * np.take_along_axis(similarity, order, axis=1).astype(np.float64)
        distances.append(np.sqrt(np.maximum(squared, 0)))
    return Neighbors(np.concatenate(indices), np.concatenate(distances))
