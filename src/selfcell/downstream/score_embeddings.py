"""Score embeddings of any model, side by side."""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import anndata
import numpy as np
import pandas as pd

from selfcell.core.errors import InputError, did_you_mean
from selfcell.data.source import obs_column
from selfcell.data.space import obsm_space
from selfcell.downstream.cz_scores import cz_scores
from selfcell.downstream.integration_scores import integration_scores, type_scores
from selfcell.downstream.scib_scores import scib_scores

logger = logging.getLogger(__name__)


class Truth(NamedTuple):
    """What is known of the cells that embeddings are of."""

    labels: pd.Series
    """Type of each."""
    batch_names: pd.Series | None
    unintegrated: np.ndarray | None
    """Embedding before integration, cells x dimensions."""
    seed: int


def score_embeddings(
    adata: anndata.AnnData,
    embeddings: Sequence[str],
    *,
    label_key: str,
    batch_key: str | None = None,
    unintegrated: str | None = None,
    by: str = "selfcell",
    seed: int = 0,
) -> pd.DataFrame:
    """Score embeddings in ``obsm`` as they lie there, whatever model they are of.

    Cells without a label are left out, and counted.

    Parameters
    ----------
    adata
        Cells with embeddings.
    embeddings
        Keys of ``obsm``, such as ``X_selfcell`` and ``X_pca``.
    label_key
        Column of cell types.
    batch_key
        Column of batches. Cells without a value are a batch of their own. Left out: cells are of one batch, and
        selfcell scores types alone; scib-metrics needs batches.
    unintegrated
        Key of ``obsm`` with an embedding before integration, to compare the variance that batches explain with.
    by
        Whose scores: ``selfcell`` (:func:`~selfcell.downstream.integration_scores.integration_scores`),
        ``scib-metrics`` (:func:`~selfcell.downstream.scib_scores.scib_scores`) or ``cz-benchmarks``
        (:func:`~selfcell.downstream.cz_scores.cz_scores`).
    seed
        Of k-means, folds and clusters; scib-metrics has its own.

    Returns
    -------
    A row for each embedding, a column for each score.

    Raises
    ------
    InputError
        If a key or column is not there, an embedding is not finite, there is one type alone, batches are needed, or
        the package is not installed.

    Examples
    --------
    >>> adata = anndata.read_h5ad("cells.h5ad")
    >>> scores = selfcell.score_embeddings(adata, ["X_pca", "X_scGPT"], label_key="cell_type", batch_key="study")
    >>> list(scores.index)
    ['X_pca', 'X_scGPT']
    """
    if by not in SCORERS:
        raise InputError(f"There are no scores by {by!r}. {did_you_mean(by, list(SCORERS))}")
    if batch_key is None and by == "scib-metrics":
        raise InputError("Scores by scib-metrics compare batches: name their column (batch_key, or --batch).")
    if not embeddings:
        raise InputError("Name an embedding to score, such as X_selfcell.")
    known = _known(adata, label_key)
    spaces = {key: obsm_space(adata.obsm, key)[known] for key in dict.fromkeys(embeddings)}
    obs = adata.obs[known]
    truth = Truth(
        labels=obs_column(obs, label_key, role="label"),
        batch_names=None if batch_key is None else obs_column(obs, batch_key, role="batch", missing="own category"),
        unintegrated=None if unintegrated is None else obsm_space(adata.obsm, unintegrated)[known],
        seed=seed,
    )
    rows = {}
    for key, space in spaces.items():
        logger.info("Scoring %s: %s cells, %s dimensions.", key, f"{len(space):,}", space.shape[1])
        rows[key] = SCORERS[by](space, truth)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("embedding")


def _known(adata: anndata.AnnData, label_key: str) -> np.ndarray:
    if label_key not in adata.obs:
        raise InputError(
            f"There is no column {label_key!r} in obs to use as label. {did_you_mean(label_key, list(adata.obs))}"
        )
    known: np.ndarray = adata.obs[label_key].notna().to_numpy()
    if n_left_out := int((~known).sum()):
        logger.warning("%s of %s cells have no label and are left out.", f"{n_left_out:,}", f"{len(known):,}")
    n_types = adata.obs.loc[known, label_key].nunique()
    if n_types < 2:
        raise InputError(f"obs[{label_key!r}] has {n_types} type: there is nothing to tell apart.")
    return known


def _by_selfcell(space: np.ndarray, truth: Truth) -> dict[str, float]:
    if truth.batch_names is None:
        return type_scores(space, label_code=pd.factorize(truth.labels, sort=True)[0], seed=truth.seed)
    batch_code, label_code = _codes(truth)
    return integration_scores(
        space, batch_code=batch_code, label_code=label_code, unintegrated=truth.unintegrated, seed=truth.seed
    )


def _by_scib_metrics(space: np.ndarray, truth: Truth) -> dict[str, float]:
    batch_code, label_code = _codes(truth)
    return scib_scores(space, batch_code=batch_code, label_code=label_code, unintegrated=truth.unintegrated)


def _by_cz_benchmarks(space: np.ndarray, truth: Truth) -> dict[str, float]:
    return cz_scores(space, labels=truth.labels, batch_names=truth.batch_names, seed=truth.seed)


def _codes(truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    if truth.batch_names is None:
        raise ValueError("batches are checked for before")
    return pd.factorize(truth.batch_names, sort=True)[0], pd.factorize(truth.labels, sort=True)[0]


SCORERS: dict[str, Callable[[np.ndarray, Truth], dict[str, float]]] = {
    "selfcell": _by_selfcell,
    "scib-metrics": _by_scib_metrics,
    "cz-benchmarks": _by_cz_benchmarks,
}
"""Whose scores there are."""
