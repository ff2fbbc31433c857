"""Cells that are like none of the reference: how unfamiliar each query cell is, and which are to be called unknown."""

import numpy as np
from jaxtyping import Bool, Float, Int

from selfcell.core.errors import InputError

UNKNOWN_RULE = (
    "A cell is unknown if no label is in its prediction set, or if less than a share alpha of the reference cells that "
    "were taken for the same type lie as far from their neighbors as it does from its own."
)


def share_farther(
    reference_distance: Float[np.ndarray, " n_reference"],
    reference_code: Int[np.ndarray, " n_reference"],
    query_distance: Float[np.ndarray, " n_query"],
    predicted_code: Int[np.ndarray, " n_query"],
) -> Float[np.ndarray, " n_query"]:
    """Give the share of the reference cells taken for the same type that lie as far as a query cell, or farther.

    The query cell itself is counted among them, as in a conformal p-value :cite:p:`bates2023`: if it is exchangeable
    with the reference cells that were asked about and given that type, rightly or wrongly, the share is below ``alpha``
    in no more than a share ``alpha`` of such cells. It cannot be below 1 / (cells of the type + 1): a type of few cells
    calls none unfamiliar at a small ``alpha``, and a type of none never does.

    Parameters
    ----------
    reference_distance
        Distance of each reference cell to its neighbors, itself left out.
    reference_code
        Type that each reference cell was given when it was asked about, as query cells are. Not its true type: cells
        that are named wrongly lie elsewhere, among query cells too.
    query_distance
        Distance of each query cell to its neighbors in the reference.
    predicted_code
        Type that each query cell was given.
    """
    share = np.ones(len(query_distance))
    for code in np.unique(predicted_code):
        chosen = predicted_code == code
        of_type = np.sort(reference_distance[reference_code == code])
        n_nearer = np.searchsorted(of_type, query_distance[chosen], side="left")
        share[chosen] = (1 + len(of_type) - n_nearer) / (1 + len(of_type))
    return share


def call_unknown(
    sets: Bool[np.ndarray, "n_query n_classes"], share: Float[np.ndarray, " n_query"], *, alpha: float
) -> Bool[np.ndarray, " n_query"]:
    """Tell which cells are unknown, by :data:`UNKNOWN_RULE`.

    Either part is wrong about a known cell with a probability of at most its own ``alpha``, both together with at most
    the sum.

    Parameters
    ----------
    sets
        Labels in the prediction set of each cell, of :meth:`~selfcell.downstream.conformal.PredictionSets.predict`.
        An empty one is one of the two reasons to call a cell unknown.
    share
        Of :func:`share_farther`.
    alpha
        Share of known cells that may be called unknown for their distance, between 0 and 1, both excluded.

    Raises
    ------
    InputError
        If ``alpha`` is out of range.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha must lie between 0 and 1, both excluded, but is {alpha:g}.")
    return np.asarray(~sets.any(axis=1) | (share < alpha))
