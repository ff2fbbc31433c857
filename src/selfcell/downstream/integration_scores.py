"""Scores of data integration: cells of one type should be together, and those of different batches mixed."""

import logging

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from selfcell.core.errors import InputError
from selfcell.core.seeds import derive_seed, numpy_rng
from selfcell.downstream.lisi import clisi, ilisi, lisi
from selfcell.downstream.neighbors import Neighbors, find_neighbors
from selfcell.downstream.silhouettes import bras, silhouette_label

logger = logging.getLogger(__name__)

BIO_CONSERVATION = ("silhouette_label", "clisi", "nmi_kmeans", "ari_kmeans")
BATCH_CORRECTION = ("bras", "ilisi", "graph_connectivity", "pcr_comparison")
BIO_WEIGHT = 0.6
"""Of bio conservation in the total; batch correction has the rest."""
LISI_NEIGHBORS, GRAPH_NEIGHBORS = 90, 15
"""The cell itself is one of them, as in scib-metrics."""
N_STARTS = 5
"""Of k-means, of which the best counts."""


def integration_scores(
    embedding: Float[np.ndarray, "n_cells n_latent"],
    *,
    batch_code: Int[np.ndarray, " n_cells"],
    label_code: Int[np.ndarray, " n_cells"],
    unintegrated: Float[np.ndarray, "n_cells n_features"] | None = None,
    seed: int = 0,
    max_cells: int | None = None,
) -> dict[str, float]:
    """Score an embedding as scIB does :cite:p:`luecken2022`: each score lies between 0 and 1, and more is better.

    The scores are defined as in scib-metrics 0.5 and agree with it, but for k-means, which starts :data:`N_STARTS`
    times here and once there, and neighbors, which are exact here up to 400,000 cells. Of its default set, kBET and the
    silhouette of isolated labels are left out, so that totals of both are not to be compared;
    :func:`selfcell.downstream.scib_scores.scib_scores` gives its own.

    Parameters
    ----------
    embedding
        What to score, of any kind.
    batch_code, label_code
        Batch and cell type of each cell, from 0. Cells whose batch is not known are a category of their own, or left
        out.
    unintegrated
        Embedding of the same cells before integration, such as principal components. Without it there is no
        ``pcr_comparison``, and ``batch_correction`` is the mean of the rest.
    seed
        Seed of k-means and of the choice of cells.
    max_cells
        Score so many cells at most, drawn so that each pair of batch and type keeps its share. None scores all.

    Returns
    -------
    ``silhouette_label``, ``clisi``, ``nmi_kmeans`` and ``ari_kmeans``, whose mean is ``bio_conservation``; ``bras``,
    ``ilisi``, ``graph_connectivity`` and ``pcr_comparison``, whose mean is ``batch_correction``; and ``total``, 0.6
    times the first mean and 0.4 times the second.

    Raises
    ------
    InputError
        If there are fewer than two batches or types, no type is in two batches (twice in one of them), arrays do not
        fit or are not finite, or ``max_cells`` is no number of cells.
    """
    batch_code, label_code = check_integration(
        embedding, batch_code=batch_code, label_code=label_code, unintegrated=unintegrated
    )
    if max_cells is not None and max_cells < 1:
        raise InputError(f"max_cells must be 1 or more, but is {max_cells}.")
    if max_cells is not None and max_cells < len(embedding):
        chosen = cells_to_score(batch_code, label_code, max_cells, seed=seed)
        return integration_scores(
            embedding[chosen],
            batch_code=batch_code[chosen],
            label_code=label_code[chosen],
            unintegrated=None if unintegrated is None else unintegrated[chosen],
            seed=seed,
        )
    near = find_neighbors(embedding, embedding, n_neighbors=LISI_NEIGHBORS, seed=seed)
    scores = _type_scores(embedding, label_code, near, seed=seed) | {
        "bras": bras(embedding, batch_code=batch_code, label_code=label_code),
        "ilisi": ilisi(lisi(*near, batch_code), n_batches=int(batch_code.max()) + 1),
        "graph_connectivity": graph_connectivity(near.indices[:, :GRAPH_NEIGHBORS], label_code=label_code),
    }
    if unintegrated is not None:
        scores["pcr_comparison"] = pcr_comparison(unintegrated, embedding, batch_code=batch_code)
    return scores | _aggregates(scores)


def type_scores(
    embedding: Float[np.ndarray, "n_cells n_latent"], *, label_code: Int[np.ndarray, " n_cells"], seed: int = 0
) -> dict[str, float]:
    """Score how well an embedding keeps cell types apart, where there are no batches to mix.

    Parameters
    ----------
    embedding
        The cells.
    label_code
        The cell type of each, numbered without gaps; two at least.
    seed
        Of k-means.

    Returns
    -------
    The scores of types of :func:`integration_scores`, and their mean, ``bio_conservation``.
    """
    near = find_neighbors(embedding, embedding, n_neighbors=LISI_NEIGHBORS, seed=seed)
    scores = _type_scores(embedding, label_code, near, seed=seed)
    return scores | {"bio_conservation": float(np.mean(list(scores.values())))}


def _type_scores(embedding: np.ndarray, label_code: np.ndarray, near: Neighbors, *, seed: int) -> dict[str, float]:
    nmi, ari = kmeans_agreement(embedding, label_code=label_code, seed=seed)
    return {
        "silhouette_label": silhouette_label(embedding, label_code=label_code),
        "clisi": clisi(lisi(*near, label_code), n_labels=int(label_code.max()) + 1),
        "nmi_kmeans": nmi,
        "ari_kmeans": ari,
    }


def check_integration(
    embedding: Float[np.ndarray, "n_cells n_latent"],
    *,
    batch_code: Int[np.ndarray, " n_codes"],
    label_code: Int[np.ndarray, " n_labels"],
    unintegrated: Float[np.ndarray, "n_unintegrated n_features"] | None,
) -> tuple[Int[np.ndarray, " n_cells"], Int[np.ndarray, " n_cells"]]:
    """Refuse what cannot be scored.

    Returns
    -------
    Codes of batches and of labels, numbered without gaps.

    Raises
    ------
    InputError
        As in :func:`integration_scores`.
    """
    for name, values in {"batch_code": batch_code, "label_code": label_code, "unintegrated": unintegrated}.items():
        if values is not None and len(values) != len(embedding):
            raise InputError(f"{name} has {len(values):,} cells, but the embedding has {len(embedding):,}.")
    for name, table in {"embedding": embedding, "unintegrated": unintegrated}.items():
        if table is not None:
            _check_table(table, name)
    batch_code = _renumbered(batch_code, "batch_code", "batch", "Integration needs at least two")
    label_code = _renumbered(label_code, "label_code", "cell type", "Scores of integration need at least two")
    pairs = np.unique(np.stack([label_code, batch_code]), axis=1)
    n_batches = np.bincount(pairs[0])
    if not ((n_batches > 1) & (n_batches < np.bincount(label_code))).any():
        raise InputError(
            "No cell type is found in two batches, and twice in one of them, so effects of batches cannot be told from "
            "cell types. Choose another batch column, or coarser types."
        )
    return batch_code, label_code


def kmeans_agreement(
    embedding: Float[np.ndarray, "n_cells n_latent"], *, label_code: Int[np.ndarray, " n_cells"], seed: int
) -> tuple[float, float]:
    """Cluster by k-means into as many clusters as there are labels, and compare.

    scIB clusters by Louvain and looks for the best resolution; scib-metrics has k-means, which is quicker.

    Returns
    -------
    Normalized mutual information (by the arithmetic mean of entropies) and adjusted Rand index.
    """
    kmeans = KMeans(
        n_clusters=int(label_code.max()) + 1, n_init=N_STARTS, random_state=derive_seed(seed, "k-means") % 2**32
    )
    clusters = kmeans.fit_predict(embedding.astype(np.float32))
    nmi = normalized_mutual_info_score(label_code, clusters)
    return float(nmi), float(adjusted_rand_score(label_code, clusters))


def graph_connectivity(
    indices: Int[np.ndarray, "n_cells n_neighbors"], *, label_code: Int[np.ndarray, " n_cells"]
) -> float:
    """Give the share of the cells of a label that hang together in the graph of neighbors, averaged over labels.

    The largest part counts in which each cell can be reached from every other, over neighbors of the same label only.
    """
    same = label_code[indices] == label_code[:, None]
    rows = np.broadcast_to(np.arange(len(indices))[:, None], indices.shape)[same]
    graph = sp.csr_matrix((np.ones(len(rows), dtype=np.int8), (rows, indices[same])), shape=(len(indices),) * 2)
    _, part = sp.csgraph.connected_components(graph, connection="strong")
    n_in_part, label_of_part = np.bincount(part), np.empty(part.max() + 1, dtype=np.int64)
    label_of_part[part] = label_code
    largest = np.zeros(label_code.max() + 1)
    np.maximum.at(largest, label_of_part, n_in_part)
    return float((largest / np.bincount(label_code)).mean())


def pcr_comparison(
    before: Float[np.ndarray, "n_cells n_features"],
    after: Float[np.ndarray, "n_cells n_latent"],
    *,
    batch_code: Int[np.ndarray, " n_cells"],
) -> float:
    """Give the share of the variance between batches that integration took away; 0 where it grew.

    The comparison of principal component regressions :cite:p:`buttner2019`: the share of variance that batches explain
    in each component, weighted by its variance. Over all components that is the variance between batches divided by
    all variance, whatever the axes, so none are computed.
    """
    first, then = (_share_between(table, batch_code) for table in (before, after))
    return max(0.0, (first - then) / first) if first > 0 else 0.0


def _share_between(table: np.ndarray, code: np.ndarray) -> float:
    moved = table - table.mean(axis=0, dtype=np.float64)
    total = np.zeros((int(code.max()) + 1, table.shape[1]))
    np.add.at(total, code, moved)
    return float((np.square(total).sum(axis=1) / np.bincount(code)).sum() / np.square(moved).sum())


def _aggregates(scores: dict[str, float]) -> dict[str, float]:
    bio = float(np.mean([scores[name] for name in BIO_CONSERVATION]))
    batch = float(np.mean([scores[name] for name in BATCH_CORRECTION if name in scores]))
    return {
        "bio_conservation": bio,
        "batch_correction": batch,
        "total": BIO_WEIGHT * bio + (1 - BIO_WEIGHT) * batch,
    }


def _check_table(table: Float[np.ndarray, "n_cells n_features"], name: str) -> None:
    if not np.isfinite(table).all():
        raise InputError(f"{name} has values that are not finite.")
    if (table == table[:1]).all():
        raise InputError(f"{name} is the same for all {len(table):,} cells: there is nothing to score.")


def _renumbered(code: np.ndarray, name: str, what: str, needed: str) -> np.ndarray:
    n_missing = int((code < 0).sum())
    if n_missing:
        raise InputError(
            f"{name} is negative for {n_missing:,} cells, as pandas codes what is missing. "
            "Make them a category of their own, or leave them out."
        )
    known, renumbered = np.unique(code, return_inverse=True)
    if len(known) < 2:
        raise InputError(f"All cells are of one {what}. {needed}.")
    return renumbered


def cells_to_score(
    batch_code: Int[np.ndarray, " n_cells"], label_code: Int[np.ndarray, " n_cells"], max_cells: int, *, seed: int = 0
) -> Int[np.ndarray, " n_chosen"]:
    """Draw the cells that are scored where there are too many, each pair of batch and type keeping its share.

    Parameters
    ----------
    batch_code, label_code
        Batch and type of each, from 0.
    max_cells
        How many to draw; all where there are no more.
    seed
        Of the draw.
    """
    if max_cells >= len(batch_code):
        return np.arange(len(batch_code))
    logger.info("Integration is scored on %d of %d cells.", max_cells, len(batch_code))
    return _stratified(batch_code * (label_code.max() + 1) + label_code, max_cells, seed=seed)


def _stratified(stratum: Int[np.ndarray, " n_cells"], n_chosen: int, *, seed: int) -> Int[np.ndarray, " n_chosen"]:
    """Draw cells at even steps along the strata, within which they stand in random order."""
    rng = numpy_rng(seed, "cells to score")
    order = np.lexsort((rng.random(len(stratum)), stratum))
    steps = (np.arange(n_chosen) + rng.random()) * (len(stratum) / n_chosen)
    return np.sort(order[steps.astype(np.int64)])
