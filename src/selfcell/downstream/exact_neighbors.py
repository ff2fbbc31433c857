"""The nearest cells, exactly: products of matrices in single precision find candidates, double precision decides."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from selfcell.downstream.neighbor_kernels import LANES, keep_nearest, search_all, settle_order

QUERIES_AT_ONCE, REFERENCES_AT_ONCE = 256, 2_048
"""A block of products stays in the cache of a core."""
N_SPARE = 8
"""Candidates beyond the neighbors asked for: room for errors of rounding."""
_ROUNDING = float(np.finfo(np.float32).eps) / 2


class _Centered(NamedTuple):
    """The reference in single precision, moved and scaled so that its middle is zero and its longest cell one."""

    middle: np.ndarray
    scale: float
    cells: np.ndarray
    """Rows at the end that are no cells make a multiple of :data:`LANES`."""
    half_square: np.ndarray
    """Half the squared length of each; infinite for what is no cell."""

    def place(self, cells: np.ndarray) -> np.ndarray:
        """Move and scale cells alike."""
        # What is too far away for single precision turns infinite, and is then searched in double precision.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray((cells - self.middle) / self.scale, dtype=np.float32)


def exact_neighbors(
    reference: Float[np.ndarray, "n_reference n_latent"],
    query: Float[np.ndarray, "n_query n_latent"],
    *,
    n_neighbors: int,
) -> tuple[Int[np.ndarray, "n_query n_neighbors"], Float[np.ndarray, "n_query n_neighbors"]]:
    """Give the nearest reference cells of each query cell and their Euclidean distances.

    Distances are sums of squared differences in double precision, and among equal distances the smaller index comes
    first. So the answer is a function of the numbers alone, whatever the threads, the blocks and the library.

    Single precision only proposes: for each query cell the ``n_neighbors + N_SPARE`` cells with the smallest scores.
    Rounding moves a score by no more than a known bound. Where a cell that was not proposed could be nearer within
    that bound, as among many equal cells, the whole reference is looked through in double precision.

    Parameters
    ----------
    reference, query
        Embeddings, finite, in rows that are contiguous.
    n_neighbors
        At most the number of reference cells.
    """
    indices = np.empty((len(query), n_neighbors), dtype=np.int64)
    squared = np.empty((len(query), n_neighbors))
    centered = _center(reference)

    def search(start: int) -> None:
        rows = slice(start, start + QUERIES_AT_ONCE)
        _search_block(reference, centered, query[rows], indices[rows], squared[rows])

    # A thread for each block of query cells: threads within products would wait for each other at every block.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(search, range(0, len(query), QUERIES_AT_ONCE)))
    return indices, np.sqrt(squared)


def _center(reference: np.ndarray) -> _Centered:
    middle = reference.mean(axis=0, dtype=np.float64)
    moved = reference - middle
    scale = float(np.sqrt(np.square(moved).sum(axis=1).max())) or 1.0
    padding = -len(reference) % LANES
    cells = np.pad((moved / scale).astype(np.float32), ((0, padding), (0, 0)))
    half_square = (np.square(cells, dtype=np.float64).sum(axis=1) / 2).astype(np.float32)
    half_square[len(reference) :] = np.inf
    return _Centered(middle, scale, cells, half_square)


def _search_block(
    reference: np.ndarray, centered: _Centered, query: np.ndarray, indices: np.ndarray, squared: np.ndarray
) -> None:
    n_candidates = min(indices.shape[1] + N_SPARE, len(reference))
    block = centered.place(query)
    scores = np.full((len(query), n_candidates), np.inf, dtype=np.float32)
    places = np.zeros((len(query), n_candidates), dtype=np.int64)
    room = np.empty(len(query) * REFERENCES_AT_ONCE, dtype=np.float32)
    for start in range(0, len(centered.cells), REFERENCES_AT_ONCE):
        cells = centered.cells[start : start + REFERENCES_AT_ONCE]
        products = room[: len(query) * len(cells)].reshape(len(query), len(cells))
        with np.errstate(over="ignore", invalid="ignore"):
            np.matmul(block, cells.T, out=products)
        keep_nearest(products, centered.half_square[start : start + REFERENCES_AT_ONCE], start, scores, places)
    settle_order(reference, query, places, indices, squared)
    unsure = _may_be_missed(block, scores, np.sqrt(squared[:, -1]) / centered.scale, n_reference=len(reference))
    search_all(reference, query, np.flatnonzero(unsure), indices, squared)


def _may_be_missed(query: np.ndarray, scores: np.ndarray, farthest: np.ndarray, *, n_reference: int) -> np.ndarray:
    """Tell the query cells of which a cell that is no candidate could be as near as the farthest neighbor."""
    square = np.square(query, dtype=np.float64).sum(axis=1)
    if scores.shape[1] == n_reference:
        # All are candidates, unless scores were no numbers.
        return np.asarray(~np.isfinite(scores).all(axis=1))
    # Rounding of both vectors, of a sum of n_latent products, of half the square and of the difference; doubled.
    error = 2 * _ROUNDING * ((query.shape[1] + 4) * np.sqrt(square) + 2)
    with np.errstate(over="ignore", invalid="ignore"):
        nearest_left = 2 * (scores[:, -1] - error) + square
        # What is no number is not safe either.
        return np.asarray(~(nearest_left > np.square(farthest) * (1 + 1e-9)))
