"""Baselines that are networks themselves: scVI and scANVI, trained by scvi-tools on the cells that pre-training saw."""

import math
from types import ModuleType
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from selfcell.baselines.base import ComparedCells, Problem
from selfcell.baselines.scvi_session import minibatch_size, scvi_session
from selfcell.data.source import obs_column
from selfcell.downstream.cell_type import CellTypeTask

N_LATENT = 10
"""Dimensions of scVI's embedding, as scvi-tools has it."""

MAX_EPOCHS: int | None = None
"""Epochs of scVI; None for as many as scvi-tools chooses."""

_BATCH, _LABEL = "batch", "label"
_UNLABELLED = "unlabelled"
_QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
_TRAIN_SIZE = 0.9


def answer_by_scvi(problem: Problem[Any]) -> Any:
    """Take the embedding of scVI :cite:p:`lopez2018`, with the ten dimensions that scvi-tools gives it.

    The network is trained on the counts of the unlabelled cells with the settings and the number of epochs that
    scvi-tools chooses (20,000 / cells x 400, at most 400), without stopping early, and with the experiment as batch
    where the comparison names one. The encoder does not see the batch, so it embeds test cells of any batch, at the
    mean of its posterior, and nothing is trained on them.

    Raises
    ------
    InputError
        If scvi-tools is not installed.
    """
    return _answer_by_scvi(problem, n_latent=N_LATENT)


def answer_by_wide_scvi(problem: Problem[Any]) -> Any:
    """Take the same with as many dimensions as the embedding that is compared with; see :func:`answer_by_scvi`."""
    return _answer_by_scvi(problem, n_latent=problem.compared.network.n_latent)


def predict_by_scanvi(problem: Problem[CellTypeTask]) -> np.ndarray:
    """Let scANVI name the types :cite:p:`xu2021`: scVI that goes on with the labels of the labelled cells.

    It begins from :func:`answer_by_scvi`'s network and takes scvi-tools' own settings, ten epochs at most, every cell
    alike (rare types are not drawn more often). The labels of test cells are not given to it.

    Raises
    ------
    InputError
        If scvi-tools is not installed.
    """
    compared, labelled = problem.compared, problem.split.train
    label_code = problem.task.label_code
    if len(np.unique(label_code[labelled])) == 1:
        return np.full(len(problem.split.test), label_code[labelled[0]])
    label = np.full(len(compared.cells), _UNLABELLED, dtype=object)
    label[labelled] = label_code[labelled].astype(str)
    with scvi_session(problem.seed, "scANVI") as scvi:
        trained = _train_scvi(scvi, compared, n_latent=N_LATENT, label=label)
        model = scvi.model.SCANVI.from_scvi_model(trained, unlabeled_category=_UNLABELLED, labels_key=_LABEL)
        n_labelled = int((label[compared.unlabelled] != _UNLABELLED).sum())
        parts = [math.ceil(_TRAIN_SIZE * n) for n in (n_labelled, len(compared.unlabelled) - n_labelled)]
        size = minibatch_size(parts[0], sum(parts))
        model.train(train_size=_TRAIN_SIZE, batch_size=size, **_QUIET)
        label[:] = _UNLABELLED
        predicted = model.predict(_as_adata(compared, problem.split.test, label=label))
    return np.asarray(predicted).astype(np.int64)


def _answer_by_scvi(problem: Problem[Any], *, n_latent: int) -> Any:
    compared = problem.compared
    with scvi_session(problem.seed, "scVI") as scvi:
        model = _train_scvi(scvi, compared, n_latent=n_latent)
        everyone = _as_adata(compared, np.arange(len(compared.cells)))
        space = np.asarray(model.get_latent_representation(everyone), dtype=np.float32)
    return problem.task.answer_in_space(space, problem.split)


def _train_scvi(scvi: ModuleType, compared: ComparedCells, *, n_latent: int, label: np.ndarray | None = None) -> Any:
    adata = _as_adata(compared, compared.unlabelled, label=label)
    scvi.model.SCVI.setup_anndata(adata, batch_key=_BATCH, labels_key=None if label is None else _LABEL)
    model = scvi.model.SCVI(adata, n_latent=n_latent)
    n_trained = math.ceil(_TRAIN_SIZE * adata.n_obs)
    model.train(max_epochs=MAX_EPOCHS, train_size=_TRAIN_SIZE, batch_size=minibatch_size(n_trained), **_QUIET)
    return model


def _as_adata(compared: ComparedCells, rows: np.ndarray, *, label: np.ndarray | None = None) -> anndata.AnnData:
    """Give cells as scvi-tools takes them; those of batches that training did not see get one that it did."""
    batch = np.full(len(compared.cells), "all", dtype=object)
    if compared.batch_key is not None:
        batch = obs_column(compared.cells.obs, compared.batch_key, role="batch").to_numpy(dtype=object)
        known = np.unique(batch[compared.unlabelled].astype(str))
        batch = np.where(np.isin(batch.astype(str), known), batch, known[0])
    obs = pd.DataFrame({_BATCH: pd.Categorical(batch[rows])}, index=rows.astype(str))
    if label is not None:
        obs[_LABEL] = pd.Categorical(label[rows])
    return anndata.AnnData(sp.csr_matrix(compared.cells.counts[rows]), obs=obs)
