"""Loops of the exact search for neighbors, over rows of which each is one query cell.

They are marked ``no_type_check``, since what checks types at run time in tests cannot be compiled.
"""

from typing import Any, no_type_check

import numba
import numpy as np

LANES = 32
"""Reference cells of a block come in multiples of it."""
_NO_NAN: Any = {"nnan", "nsz"}
"""Leave to take minima of several numbers at once; sums keep their order."""


@no_type_check
@numba.njit(nogil=True, fastmath=_NO_NAN, cache=True)
def keep_nearest(products, half_square, offset, scores, places):
    """Merge a block of reference cells into the best that each query cell has met.

    The score of a pair is half the reference cell's squared length less the product of both, which is half their
    squared distance but for what all pairs of a query cell have in common.

    Parameters
    ----------
    products
        Inner products of query cells and the block's reference cells.
    half_square
        Half the squared length of each reference cell of the block; infinite for what is no cell.
    offset
        Place of the block's first cell in the reference.
    scores, places
        The smallest scores of each query cell, ascending, and whose they are; changed in place.
    """
    last = scores.shape[1] - 1
    for row in range(len(products)):
        best, place = scores[row], places[row]
        worst = best[last]
        for begin in range(0, products.shape[1], LANES):
            product, half = products[row, begin : begin + LANES], half_square[begin : begin + LANES]
            # Most stretches have nothing to offer, which a minimum tells without a branch for each cell.
            least = np.float32(np.inf)
            for cell in range(LANES):
                least = min(least, half[cell] - product[cell])
            if least >= worst:
                continue
            for cell in range(LANES):
                score = half[cell] - product[cell]
                if score < worst:
                    at = last
                    while at > 0 and best[at - 1] > score:
                        best[at], place[at] = best[at - 1], place[at - 1]
                        at -= 1
                    best[at], place[at] = score, offset + begin + cell
                    worst = best[last]


@no_type_check
@numba.njit(nogil=True, cache=True)
def settle_order(reference, query, places, indices, squared):
    """Sort the candidates of each query cell by distance, then by index, and keep the first ones.

    Parameters
    ----------
    reference, query
        Cells.
    places
        Candidates of each query cell, as rows of ``reference``, without repeats.
    indices, squared
        Where to write the nearest and their squared distances, computed in double precision.
    """
    n_candidates, n_kept = places.shape[1], indices.shape[1]
    for row in range(len(query)):
        n_met = 0
        for at in range(n_candidates):
            place = places[row, at]
            total = 0.0
            for dimension in range(query.shape[1]):
                gap = np.float64(query[row, dimension]) - np.float64(reference[place, dimension])
                total += gap * gap
            n_met = _insert(indices[row], squared[row], n_met, n_kept, place, total)


@no_type_check
@numba.njit(nogil=True, cache=True)
def search_all(reference, query, rows, indices, squared):
    """Look through the whole reference in double precision, for some query cells.

    Parameters
    ----------
    reference, query
        Cells.
    rows
        The query cells to look at, as rows of ``query``.
    indices, squared
        Where to write, as in :func:`settle_order`.
    """
    n_kept = indices.shape[1]
    for row in rows:
        n_met = 0
        for place in range(len(reference)):
            total = 0.0
            for dimension in range(query.shape[1]):
                gap = np.float64(query[row, dimension]) - np.float64(reference[place, dimension])
                total += gap * gap
            n_met = _insert(indices[row], squared[row], n_met, n_kept, place, total)


@no_type_check
@numba.njit(nogil=True, inline="always")
def _insert(indices, squared, n_met, n_kept, place, value):
    """Put a cell where it belongs among those met so far; give how many there are."""
    if n_met == n_kept and (value, place) >= (squared[n_kept - 1], indices[n_kept - 1]):
        return n_met
    at = n_met if n_met < n_kept else n_kept - 1
    n_met = min(n_met + 1, n_kept)
    while at > 0 and (squared[at - 1], indices[at - 1]) > (value, place):
        squared[at], indices[at] = squared[at - 1], indices[at - 1]
        at -= 1
    squared[at], indices[at] = value, place
    return n_met
