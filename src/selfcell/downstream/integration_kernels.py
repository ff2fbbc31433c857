"""Loops of the scores of data integration, over rows of which each is one cell.

They are marked ``no_type_check``, since what checks types at run time in tests cannot be compiled.
"""

from typing import Any, no_type_check

import numba
import numpy as np

_ANY_ORDER: Any = {"reassoc", "contract", "nsz"}
"""Leave to sum in any order, so that several roots are taken at once; what is no number stays so."""
_TRIES = 50
_TOLERANCE = 1e-5


@no_type_check
@numba.njit(nogil=True, fastmath=_ANY_ORDER, cache=True)
def add_distances(products, square, other_square, bounds, sums):
    """Add the Euclidean distances from each row to the cells of a block, group by group.

    Parameters
    ----------
    products
        Inner products of the rows and the block's cells.
    square, other_square
        Squared lengths of the rows and of the block's cells.
    bounds
        Where each group begins and ends in the block: groups + 1 places.
    sums
        Sum of distances of each row to each group; changed in place.
    """
    for row in range(len(products)):
        for group in range(len(bounds) - 1):
            total = np.float32(0)
            for cell in range(bounds[group], bounds[group + 1]):
                squared = square[row] + other_square[cell] - np.float32(2) * products[row, cell]
                total += np.sqrt(max(squared, np.float32(0)))
            sums[row, group] += total


@no_type_check
@numba.njit(nogil=True, cache=True)
def inverse_simpson(distances, codes, perplexity, n_codes, start, stop, out):
    """Give the inverse Simpson index of the codes around each cell; see :func:`selfcell.downstream.lisi.lisi`.

    Parameters
    ----------
    distances
        To the neighbors of each cell; infinite for what is none, such as the cell itself.
    codes
        Of the same neighbors.
    start, stop
        The cells to take.
    out
        One number a cell; changed in place.
    """
    wanted = np.log(perplexity)
    weight = np.empty(distances.shape[1])
    share = np.empty(n_codes)
    for cell in range(start, stop):
        # Taking the smallest distance away changes no share, and then never all weights vanish.
        nearest = distances[cell].min()
        rate, low, high = 1.0, 0.0, np.inf
        for attempt in range(_TRIES + 1):
            total, moment = 0.0, 0.0
            for place in range(len(weight)):
                far = distances[cell, place] - nearest
                weight[place] = np.exp(-far * rate)
                total += weight[place]
                if weight[place] > 0:
                    moment += far * weight[place]
            excess = np.log(total) + rate * moment / total - wanted
            if abs(excess) < _TOLERANCE or attempt == _TRIES:
                break
            if excess > 0:
                low = rate
                rate = 2 * rate if high == np.inf else (low + high) / 2
            else:
                high = rate
                rate = (low + high) / 2
        share[:] = 0
        for place in range(len(weight)):
            share[codes[cell, place]] += weight[place] / total
        out[cell] = 1 / np.square(share).sum()
