"""Cells that are like none of the reference: how unfamiliar each query cell is, and which are to be called unknown."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from selfcell.core.errors import InputError
from selfcell.downstream.neighbors import find_neighbors, neighbors_within

N_NEAR = 10
"""Neighbors whose distance tells how familiar a cell is."""

Reach = Literal["mean", "farthest"]

UNKNOWN_RULE = (
    "A cell is unknown if no label is in its prediction set, or if less than a share alpha of the reference cells of "
    "its predicted type lie as far from their neighbors as it does from its own."
)


class Familiarity(NamedTuple):
    """How near each query cell is to the reference, and what that means for its predicted type."""

    distance: np.ndarray
    """To its neighbors in the reference; larger is more unfamiliar."""
    share_farther: np.ndarray
    """Share of the reference cells of its predicted type that lie as far or farther, above 0 and at most 1."""


def measure_familiarity(
    reference: Float[np.ndarray, "n_reference n_latent"],
    reference_code: Int[np.ndarray, " n_reference"],
    query: Float[np.ndarray, "n_query n_latent"],
    predicted_code: Int[np.ndarray, " n_query"],
    *,
    donor_code: Int[np.ndarray, " n_reference"] | None = None,
    n_neighbors: int = N_NEAR,
    reach: Reach = "mean",
    exact: bool | None = None,
) -> Familiarity:
    """Compare how far each query cell lies from the reference with how far reference cells of its type do.

    Parameters
    ----------
    reference, query
        Embeddings.
    reference_code
        Type of each reference cell, from 0.
    predicted_code
        Type that each query cell was given.
    donor_code
        Donor, or batch, of each reference cell. Query cells of a new donor lie farther from the reference than its
        own cells from each other. With donors, each reference cell is therefore measured against those of all other
        donors, as if its own donor were new. Without, against all other cells: then cells of a new donor look more
        unfamiliar than they are. A type that a single donor has looks farther away than it is, and its cells more
        familiar.
    n_neighbors
        Neighbors to measure the distance to; fewer where there are fewer.
    reach
        ``mean``: the mean distance to these neighbors; ``farthest``: the distance to the last of them, which is
        more robust to a few mislabelled strays and noisier.
    exact
        As in :func:`~selfcell.downstream.neighbors.find_neighbors`.

    Returns
    -------
    Distances, and shares by :func:`share_farther`.

    Raises
    ------
    InputError
        If there are not two reference cells, or not two donors where donors are given.
    """
    within = _distance_within(reference, donor_code, n_neighbors=n_neighbors, reach=reach, exact=exact)
    distance = _reach(find_neighbors(reference, query, n_neighbors=n_neighbors, exact=exact).distances, reach)
    share = share_farther(within, reference_code, distance, predicted_code)
    return Familiarity(distance, share)


def share_farther(
    reference_distance: Float[np.ndarray, " n_reference"],
    reference_code: Int[np.ndarray, " n_reference"],
    query_distance: Float[np.ndarray, " n_query"],
    predicted_code: Int[np.ndarray, " n_query"],
) -> Float[np.ndarray, " n_query"]:
    """Give the share of the reference cells of the predicted type that lie as far as a query cell, or farther.

    The query cell itself is counted among them, as in a conformal p-value :cite:p:`bates2023`: if it is exchangeable
    with the reference cells of its predicted type, the share is below ``alpha`` in no more than a share ``alpha`` of
    such cells. It cannot be below 1 / (cells of the type + 1): a type of few cells calls none unfamiliar at a small
    ``alpha``, and a type of none never does.

    Parameters
    ----------
    reference_distance
        Distance of each reference cell to its neighbors, itself left out.
    reference_code
        Type of each reference cell.
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
        Only the score ``least_ambiguous`` leaves sets empty.
    share
        :attr:`Familiarity.share_farther`.
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


def _distance_within(
    cells: np.ndarray, donor_code: np.ndarray | None, *, n_neighbors: int, reach: Reach, exact: bool | None
) -> np.ndarray:
    """Give the distance of each cell to its neighbors among the others, or among those of other donors."""
    if donor_code is None:
        return _reach(neighbors_within(cells, n_neighbors=n_neighbors, exact=exact).distances, reach)
    donors = np.unique(donor_code)
    if len(donors) < 2:
        raise InputError(
            "All reference cells are of one donor: how far a new donor's cells lie cannot be told. Give cells of "
            "several donors, or no donors."
        )
    distance = np.empty(len(cells))
    for donor in donors:
        own = donor_code == donor
        others = find_neighbors(cells[~own], cells[own], n_neighbors=n_neighbors, exact=exact)
        distance[own] = _reach(others.distances, reach)
    return distance


def _reach(distances: np.ndarray, reach: Reach) -> np.ndarray:
    return np.asarray(distances.mean(axis=1) if reach == "mean" else distances[:, -1])
