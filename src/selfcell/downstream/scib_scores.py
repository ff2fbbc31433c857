"""Scores of data integration by scib-metrics, the reference: slower, on JAX, and with two more of them."""

import contextlib
import warnings
from collections.abc import Iterator
from types import ModuleType

import anndata
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from selfcell.core.errors import InputError
from selfcell.core.extras import import_extra
from selfcell.downstream.integration_scores import LISI_NEIGHBORS, check_integration

NAMES = {
    "silhouette_label": "silhouette_label",
    "clisi_knn": "clisi",
    "nmi_ari_cluster_labels_kmeans_nmi": "nmi_kmeans",
    "nmi_ari_cluster_labels_kmeans_ari": "ari_kmeans",
    "isolated_labels": "isolated_labels",
    "bras": "bras",
    "ilisi_knn": "ilisi",
    "graph_connectivity": "graph_connectivity",
    "kbet_per_label": "kbet",
    "pcr_comparison": "pcr_comparison",
    "Bio conservation": "bio_conservation",
    "Batch correction": "batch_correction",
    "Total": "total",
}
"""Names of scib-metrics, and ours."""


def scib_scores(
    embedding: Float[np.ndarray, "n_cells n_latent"],
    *,
    batch_code: Int[np.ndarray, " n_cells"],
    label_code: Int[np.ndarray, " n_cells"],
    unintegrated: Float[np.ndarray, "n_cells n_features"] | None = None,
) -> dict[str, float]:
    """Score an embedding by the default set of scib-metrics, with its own neighbors, seeds and means.

    For numbers to set beside published ones. Which depend on the version of scib-metrics: name it. The first call takes
    a minute, since JAX compiles.

    Parameters
    ----------
    embedding, batch_code, label_code, unintegrated
        As in :func:`selfcell.downstream.integration_scores.integration_scores`.

    Returns
    -------
    The same names, and ``isolated_labels`` and ``kbet``, which enter the means: these and the total are those of
    scib-metrics, not of ``integration_scores``.

    Raises
    ------
    InputError
        If scib-metrics is not installed, there are fewer cells than neighbors it wants, or as in
        ``integration_scores``.
    """
    batch_code, label_code = check_integration(
        embedding, batch_code=batch_code, label_code=label_code, unintegrated=unintegrated
    )
    check_scib(len(embedding))
    with _quietly():
        return _scores(embedding, batch_code, label_code, unintegrated)


def check_scib(n_cells: int) -> None:
    """Refuse what scib-metrics cannot do, before hours are spent.

    Raises
    ------
    InputError
        If it is not installed, or there are fewer cells than neighbors it wants.
    """
    if n_cells <= LISI_NEIGHBORS:
        raise InputError(
            f"scib-metrics needs more than {LISI_NEIGHBORS} cells, but there are {n_cells}. "
            "integration_scores takes fewer (--by selfcell, the setting scorer=selfcell)."
        )
    with _quietly():
        _benchmarks()


def _benchmarks() -> ModuleType:
    return import_extra("scib_metrics.benchmark", extra="scib", use="Scoring by the reference")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        # umap, which it imports, tells that TensorFlow is not there; and a comparison below zero is set to zero.
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        warnings.filterwarnings("ignore", "PCR comparison score is negative", UserWarning)
        yield


def _scores(
    embedding: np.ndarray, batch_code: np.ndarray, label_code: np.ndarray, unintegrated: np.ndarray | None
) -> dict[str, float]:
    scib = _benchmarks()
    obs = pd.DataFrame({"batch": batch_code, "label": label_code}).astype("category")
    obs.index = obs.index.astype(str)
    embeddings = {"embedding": embedding, "unintegrated": embedding if unintegrated is None else unintegrated}
    benchmark = scib.Benchmarker(
        anndata.AnnData(obs=obs, obsm=embeddings),
        batch_key="batch",
        label_key="label",
        embedding_obsm_keys=["embedding"],
        pre_integrated_embedding_obsm_key="unintegrated",
        batch_correction_metrics=scib.BatchCorrection(pcr_comparison=unintegrated is not None),
        n_jobs=torch.get_num_threads(),
        progress_bar=False,
    )
    benchmark.benchmark()
    table = benchmark.get_results(min_max_scale=False, clean_names=False)
    return {ours: float(table.at["embedding", theirs]) for theirs, ours in NAMES.items() if theirs in table}
