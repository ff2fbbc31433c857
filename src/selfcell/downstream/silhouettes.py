"""Silhouettes: how much nearer a cell is to its own kind than to others."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from selfcell.downstream.integration_kernels import add_distances

_ROWS_AT_ONCE, _CELLS_AT_ONCE = 256, 2_048
"""A block of products stays in the cache of a core."""


def silhouettes(
    embedding: Float[np.ndarray, "n_cells n_latent"], code: Int[np.ndarray, " n_cells"]
) -> Float[np.ndarray, " n_cells"]:
    """Compute the silhouette of each cell with Euclidean distances :cite:p:`rousseeuw1987`.

    With the mean distance ``a`` to the other cells of its group and ``b`` to those of the nearest other group it is
    ``(b - a) / max(a, b)``; 0 for a cell that is alone in its group. All pairs of cells count, a block at a time:
    distances come from products of matrices in single precision of the centered embedding.

    Parameters
    ----------
    embedding
        One vector a cell.
    code
        Group of each cell: every number from 0 to the largest occurs.

    Returns
    -------
    Between -1 and 1.
    """
    order = np.argsort(code, kind="stable")
    sums = np.empty((len(code), int(code.max()) + 1))
    sums[order] = _summed_distances(_centered(embedding)[order], code[order])
    n_cells = np.bincount(code)
    own = np.arange(len(code)), code
    with np.errstate(invalid="ignore", divide="ignore"):
        within = sums[own] / (n_cells[code] - 1)
        sums /= n_cells
        sums[own] = np.inf
        return _relative(within, sums.min(axis=1))


def silhouette_label(
    embedding: Float[np.ndarray, "n_cells n_latent"], *, label_code: Int[np.ndarray, " n_cells"]
) -> float:
    """Average the silhouettes of labels over cells, moved from -1..1 to 0..1 :cite:p:`luecken2022`."""
    return float((silhouettes(embedding, label_code).mean() + 1) / 2)


def bras(
    embedding: Float[np.ndarray, "n_cells n_latent"],
    *,
    batch_code: Int[np.ndarray, " n_cells"],
    label_code: Int[np.ndarray, " n_cells"],
) -> float:
    """Compute the batch removal adapted silhouette (BRAS): how little batches lie apart within labels.

    Within each label the silhouettes of batches are taken with cosine distances, and against all other batches together
    in place of the nearest, which would hide a batch that only some others mix with :cite:p:`rautenstrauch2025`. The
    score is one less their size, averaged over the cells of a label, then over labels. Labels of one batch do not
    count, nor those with a single cell of each batch.

    The mean cosine distance to a group is one less the product with its mean direction, so no pairs are formed.

    Returns
    -------
    1 where batches mix, lower where they do not. NaN if no label counts.
    """
    length = np.linalg.norm(embedding, axis=1, keepdims=True).astype(np.float64)
    direction = np.divide(embedding, length, out=np.zeros(embedding.shape), where=length > 0)
    scores = []
    for label in np.unique(label_code):
        chosen = label_code == label
        _, batch, n_cells = np.unique(batch_code[chosen], return_inverse=True, return_counts=True)
        if 1 < len(n_cells) < len(batch):
            scores.append(np.mean(1 - np.abs(_cosine_silhouettes(direction[chosen], batch, n_cells))))
    return float(np.mean(scores)) if scores else float("nan")


def _cosine_silhouettes(direction: np.ndarray, code: np.ndarray, n_cells: np.ndarray) -> np.ndarray:
    total = np.zeros((len(n_cells), direction.shape[1]))
    np.add.at(total, code, direction)
    itself = np.square(direction).sum(axis=1)
    towards_own = (direction * total[code]).sum(axis=1)
    towards_others = direction @ total.sum(axis=0) - towards_own
    n_others = len(code) - n_cells[code]
    with np.errstate(invalid="ignore", divide="ignore"):
        within = 1 - (towards_own - itself) / (n_cells[code] - 1)
        return _relative(within, 1 - towards_others / n_others)


def _relative(within: np.ndarray, between: np.ndarray) -> np.ndarray:
    # A cell alone in its group has no distance within, and equal cells have none at all: no number, hence 0.
    return np.asarray(np.nan_to_num((between - within) / np.maximum(within, between)))


def _centered(embedding: np.ndarray) -> np.ndarray:
    """Move the middle to zero and the longest vector to one, which changes no silhouette and saves precision."""
    moved = embedding - embedding.mean(axis=0, dtype=np.float64)
    longest = np.sqrt(np.square(moved).sum(axis=1).max())
    return np.asarray(moved / (longest or 1), dtype=np.float32)


def _summed_distances(cells: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Sum the distances of each cell to each group. Cells stand in order of their group."""
    square = np.square(cells).sum(axis=1)
    bounds = np.searchsorted(code, np.arange(code[-1] + 2))
    sums = np.zeros((len(cells), len(bounds) - 1))

    def add(first: int) -> None:
        rows = slice(first, first + _ROWS_AT_ONCE)
        for start in range(0, len(cells), _CELLS_AT_ONCE):
            others = slice(start, start + _CELLS_AT_ONCE)
            products = cells[rows] @ cells[others].T
            # A cell is at distance zero from itself, whatever rounding says.
            itself = np.arange(max(first, start), min(rows.stop, others.stop, len(cells)))
            products[itself - first, itself - start] = square[itself]
            within = np.clip(bounds - start, 0, products.shape[1])
            add_distances(products, square[rows], square[others], within, sums[rows])

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(add, range(0, len(cells), _ROWS_AT_ONCE)))
    return sums
