"""Labels by a vote of the nearest reference cells."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.neighbors import NearestNeighbors

from selfcell.core.errors import InputError

N_NEIGHBORS = 5
"""Reference cells that vote, as in the paper; more of them drown rare types."""


class Vote(NamedTuple):
    """What the neighbors of each query cell say."""

    label_code: np.ndarray
    """The label with the most votes; among equals the one whose nearest voter is nearest."""
    confidence: np.ndarray
    """Share of the neighbors that voted for it, between 0 and 1. Not a calibrated probability."""


def vote_of_neighbors(
    reference: Float[np.ndarray, "n_reference n_latent"],
    reference_code: Int[np.ndarray, " n_reference"],
    query: Float[np.ndarray, "n_query n_latent"],
    *,
    n_neighbors: int = N_NEIGHBORS,
) -> Vote:
    """Give each query cell the label that most of its nearest reference cells bear.

    The neighbors are the ``n_neighbors`` reference cells at the smallest Euclidean distance, none dropped. (The paper's
    released code drops the nearest one, as if the query were part of the reference, and breaks ties by class number.)

    Parameters
    ----------
    reference, query
        Embeddings.
    reference_code
        Label of each reference cell, from 0.
    n_neighbors
        Cells that vote; all of the reference where it has fewer.

    Raises
    ------
    InputError
        If the reference is empty.
    """
    if len(reference) == 0:
        raise InputError("The reference has no cells.")
    index = NearestNeighbors(n_neighbors=min(n_neighbors, len(reference)), algorithm="brute").fit(reference)
    return vote(reference_code[index.kneighbors(query, return_distance=False)])


def vote(voters: Int[np.ndarray, "n_query n_voters"]) -> Vote:
    """Count the votes of the neighbors of each query cell.

    Parameters
    ----------
    voters
        Label of each neighbor, from 0; the nearest neighbor first.
    """
    n_cells, n_voters = voters.shape
    votes = np.zeros((n_cells, int(voters.max(initial=0)) + 1), dtype=np.int64)
    np.add.at(votes, (np.arange(n_cells)[:, None], voters), 1)
    # Voters stand in order of distance: the first whose label has the most votes decides.
    votes_of_voter = np.take_along_axis(votes, voters, axis=1)
    most = votes_of_voter.max(axis=1)
    deciding = (votes_of_voter == most[:, None]).argmax(axis=1)
    return Vote(voters[np.arange(n_cells), deciding], most / n_voters)
