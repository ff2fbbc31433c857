"""Labels by a vote of the nearest reference cells, and means of what these have."""

import logging
from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from selfcell.core.errors import InputError
from selfcell.core.seeds import derive_seed, numpy_rng
from selfcell.downstream.exact_neighbors import N_SPARE, exact_neighbors
from selfcell.downstream.neighbor_kernels import settle_order

logger = logging.getLogger(__name__)

N_NEIGHBORS = 5
"""Reference cells that vote, as in the paper; more of them drown rare types."""
EXACT_UP_TO = 200_000
"""The search is exact, unless told otherwise, up to this value of r q / (r + q), of r reference and q query cells: up
to 400,000 of both. There the graph took a third of the processor time for cells that spread in few directions; it
loses some neighbors."""
_GRAPH_NEIGHBORS = 30
"""Neighbors of each cell in the graph; pynndescent's default."""
_N_SAMPLE = 2_048
"""Reference cells that show which query cells the graph has led astray."""
_DETOUR = 0.3
"""How far pynndescent strays from the way to the nearest cells (its ``epsilon``)."""

Weights = Literal["uniform", "distance"]


class Neighbors(NamedTuple):
    """The nearest reference cells of each query cell, the nearest first."""

    indices: np.ndarray
    """Rows of the reference; query cells x neighbors."""
    distances: np.ndarray
    """Their Euclidean distances, in double precision."""


class Vote(NamedTuple):
    """What the neighbors of each query cell say."""

    label_code: np.ndarray
    """The label with the most votes; among equals the one whose nearest voter is nearest."""
    confidence: np.ndarray
    """Share of the votes that were for it, between 0 and 1. Not a calibrated probability."""


def find_neighbors(
    reference: Float[np.ndarray, "n_reference n_latent"],
    query: Float[np.ndarray, "n_query n_latent"],
    *,
    n_neighbors: int,
    exact: bool | None = None,
    seed: int = 0,
) -> Neighbors:
    """Find the nearest reference cells of each query cell.

    Exact is the default up to :data:`EXACT_UP_TO`; see :func:`~selfcell.downstream.exact_neighbors.exact_neighbors`.
    Beyond, pynndescent walks a graph of the reference's own neighbors: its time grows with the cells, not with the
    pairs, and it misses some. Query cells for which a sample of the reference holds a nearer cell than those found are
    searched exactly: where types lie far apart, the walk ended at a wrong type for 3 % of the cells without.

    Measured for the 5 nearest at 64 dimensions (``benchmarks/annotation.py``), in seconds of processor time: 100,000
    against 100,000 cells take 16 s exactly, shared by the cores that are free, and 34 to 48 s by the graph, of which
    about 23 s are compiling in a fresh process. The graph found 99.3 % of the neighbors of cells that spread in all 64
    directions and 99.8 % of those that spread in 12; 99.9 % of the votes or more were those of the exact search.

    Parameters
    ----------
    reference, query
        Embeddings.
    n_neighbors
        Cells to find; all of the reference where it has fewer, and a warning is logged.
    exact
        Whether to find the very nearest; None decides by the number of cells.
    seed
        Seed of the graph; the exact search has no use for it.

    Raises
    ------
    InputError
        If the reference is empty, numbers are not finite, or no neighbors are asked for.
    """
    reference, query = _checked(reference, query, n_neighbors)
    if len(reference) < n_neighbors:
        logger.warning(
            "The reference has %d cells, fewer than the %d neighbors asked for: all of them are taken.",
            len(reference),
            n_neighbors,
        )
    n_found = min(n_neighbors, len(reference))
    if exact is None:
        n_reference, n_query = len(reference), len(query)
        exact = n_reference * n_query <= EXACT_UP_TO * (n_reference + n_query)
    # A graph of so few cells would be a complete one.
    if exact or len(reference) <= 2 * _GRAPH_NEIGHBORS + n_found:
        return Neighbors(*exact_neighbors(reference, query, n_neighbors=n_found))
    return _neighbors_by_graph(reference, query, n_neighbors=n_found, seed=seed)


def vote_of_neighbors(
    reference: Float[np.ndarray, "n_reference n_latent"],
    reference_code: Int[np.ndarray, " n_reference"],
    query: Float[np.ndarray, "n_query n_latent"],
    *,
    n_neighbors: int = N_NEIGHBORS,
    weights: Weights = "uniform",
    exact: bool | None = None,
    seed: int = 0,
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
        Cells that vote; all of the reference where it has fewer, and a warning is logged.
    weights
        As in :func:`count_votes`.
    exact, seed
        As in :func:`find_neighbors`.

    Raises
    ------
    InputError
        If a label is negative, or as in :func:`find_neighbors`.
    """
    neighbors = find_neighbors(reference, query, n_neighbors=n_neighbors, exact=exact, seed=seed)
    return count_votes(neighbors, reference_code, weights=weights)


def count_votes(neighbors: Neighbors, reference_code: Int[np.ndarray, " n_reference"], *, weights: Weights) -> Vote:
    """Let neighbors vote that were found already.

    Parameters
    ----------
    neighbors
        What :func:`find_neighbors` gave.
    reference_code
        Label of each reference cell, from 0.
    weights
        ``uniform``: every neighbor has one vote. ``distance``: one over its distance, as in scikit-learn; where some
        lie at distance zero, these alone vote, one vote each.

    Raises
    ------
    InputError
        If a neighbor's label is negative.
    """
    voters, vote = _voters(neighbors, reference_code), _votes(neighbors, weights)
    votes_for = np.zeros_like(vote)
    for voter in range(voters.shape[1]):
        votes_for += np.where(voters == voters[:, [voter]], vote[:, [voter]], 0.0)
    most = votes_for.max(axis=1)
    # Voters stand in order of distance: the first whose label has the most votes decides.
    deciding = (votes_for == most[:, None]).argmax(axis=1)
    return Vote(voters[np.arange(len(voters)), deciding], most / vote.sum(axis=1))


def class_shares(
    neighbors: Neighbors, reference_code: Int[np.ndarray, " n_reference"], *, n_classes: int, weights: Weights
) -> Float[np.ndarray, "n_query n_classes"]:
    """Give the share of the votes that each class got, for each query cell; rows add up to one.

    Parameters
    ----------
    neighbors
        What :func:`find_neighbors` gave.
    reference_code
        Label of each reference cell, from 0 up to below ``n_classes``.
    n_classes
        Number of classes.
    weights
        As in :func:`count_votes`.

    Raises
    ------
    InputError
        As in :func:`count_votes`, or if a label is not below ``n_classes``.
    """
    if len(reference_code) and reference_code.max() >= n_classes:
        raise InputError(f"There are {n_classes} classes, but a reference cell has the label {reference_code.max()}.")
    voters, vote = _voters(neighbors, reference_code), _votes(neighbors, weights)
    shares = np.zeros((len(voters), n_classes))
    np.add.at(shares, (np.arange(len(voters))[:, None], voters), vote / vote.sum(axis=1, keepdims=True))
    return shares


def mean_of_neighbors(
    neighbors: Neighbors, values: Float[np.ndarray, "n_reference n_values"], *, weights: Weights
) -> Float[np.ndarray, "n_query n_values"]:
    """Give each query cell the mean of what its neighbors have.

    Parameters
    ----------
    neighbors
        What :func:`find_neighbors` gave.
    values
        What is known of each reference cell.
    weights
        As in :func:`count_votes`.
    """
    weight = _votes(neighbors, weights)
    weight = weight / weight.sum(axis=1, keepdims=True)
    n_query, n_voters = weight.shape
    rows = np.repeat(np.arange(n_query), n_voters)
    share = sp.csr_matrix((weight.ravel(), (rows, neighbors.indices.ravel())), shape=(n_query, len(values)))
    return np.asarray(share @ values, dtype=np.float32)


def _voters(neighbors: Neighbors, reference_code: np.ndarray) -> np.ndarray:
    voters: np.ndarray = reference_code[neighbors.indices]
    if (voters < 0).any():
        raise InputError("A reference cell has a negative label. Leave out the cells that have no label.")
    return voters


def _votes(neighbors: Neighbors, weights: Weights) -> np.ndarray:
    distances = neighbors.distances
    if weights == "uniform":
        return np.ones_like(distances)
    # In units of the nearest, which changes no share and keeps the inverse finite.
    nearest = distances[:, :1]
    equal = distances == 0
    return np.where(nearest > 0, nearest / np.where(equal, 1.0, distances), equal)


def _neighbors_by_graph(reference: np.ndarray, query: np.ndarray, *, n_neighbors: int, seed: int) -> Neighbors:
    # It takes seconds to import and compile, and only large searches need it.
    from pynndescent import NNDescent  # noqa: PLC0415

    random_state = derive_seed(seed, "neighbors") % 2**31
    graph = NNDescent(reference.astype(np.float32, copy=False), n_neighbors=_GRAPH_NEIGHBORS, random_state=random_state)
    places, _ = graph.query(query.astype(np.float32, copy=False), k=n_neighbors + N_SPARE, epsilon=_DETOUR)
    indices = np.empty((len(query), n_neighbors), dtype=np.int64)
    squared = np.empty((len(query), n_neighbors))
    lost = (places < 0).any(axis=1)
    settle_order(reference, query, np.where(lost[:, None], 0, places).astype(np.int64), indices, squared)
    distances = np.sqrt(squared)
    # Where types lie apart, the graph falls into pieces, and a walk that begins in the wrong one stays there.
    sample = np.sort(numpy_rng(seed, "neighbors sample").choice(len(reference), min(_N_SAMPLE, len(reference)), False))
    place, distance = exact_neighbors(reference[sample], query, n_neighbors=1)
    lost |= (distance[:, 0] < distances[:, -1]) & (indices != sample[place]).all(axis=1)
    indices[lost], distances[lost] = exact_neighbors(reference, query[lost], n_neighbors=n_neighbors)
    return Neighbors(indices, distances)


def _checked(reference: np.ndarray, query: np.ndarray, n_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
    if len(reference) == 0:
        raise InputError("The reference has no cells.")
    if n_neighbors < 1:
        raise InputError(f"At least one neighbor must be asked for, not {n_neighbors}.")
    for name, cells in (("reference", reference), ("query", query)):
        if not np.isfinite(cells).all():
            rows = np.flatnonzero(~np.isfinite(cells).all(axis=1))
            raise InputError(
                f"The embedding of the {name} holds numbers that are not finite, in {len(rows):,} of {len(cells):,} "
                f"cells (the first is cell {rows[0]}). Leave these cells out, or embed them anew."
            )
    return _searchable(reference), _searchable(query)


def _searchable(cells: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(cells, dtype=np.float64 if cells.dtype == np.float64 else np.float32)
