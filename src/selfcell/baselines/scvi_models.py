"""Baselines that are networks themselves: scVI and scANVI, trained by scvi-tools on the cells that pre-training saw."""

import math
from types import ModuleType
from typing import Any

import anndata
import numpy as np
import pandas as pd

from selfcell.baselines.base import ComparedCells, Problem
from selfcell.baselines.scvi_session import minibatch_size, n_epochs, scvi_session
from selfcell.data.source import obs_column
from selfcell.downstream.cell_type import CellTypeTask
from selfcell.downstream.integration import IntegrationTask

N_LATENT, N_LAYERS, LIKELIHOOD = 30, 2, "nb"
"""Of scVI: what its authors' tutorial of integration takes."""
MAX_EPOCHS = 400
"""Epochs of scVI at most, as scvi-tools has it."""
MAX_SCANVI_EPOCHS, N_CELLS_PER_LABEL = 20, 100
"""Of scANVI, as in the same tutorial."""

_BATCH, _LABEL = "batch", "label"
_UNLABELLED = "(unlabelled)"
_TRAIN_SIZE = 0.9
_TRAINING = {"train_size": _TRAIN_SIZE, "accelerator": "cpu", "enable_progress_bar": False}


def answer_by_scvi(problem: Problem[Any]) -> Any:
    """Take the embedding of scVI :cite:p:`lopez2018` for the embedding of the encoder.

    The network is trained on the counts of the 2,000 most variable genes of the unlabelled cells, with the experiment
    as batch where the comparison names one, with the settings of its authors' tutorial of integration: two layers, 30
    dimensions, negative binomial; for 400 epochs at most, fewer where there are more than 5,000 cells
    (``MAX_CELLS_SEEN``), stopped early by a tenth of the cells. The encoder does not see the batch, so it embeds
    test cells of any batch, at the mean of its posterior, and nothing is trained on them.

    Raises
    ------
    InputError
        If scvi-tools is not installed.
    """
    trained = _trained_scvi(problem)
    with scvi_session(problem.seed, "embedding by scVI"):
        return problem.task.answer_in_space(_space(trained, problem.compared), problem.split)


def predict_by_scanvi(problem: Problem[CellTypeTask]) -> np.ndarray:
    """Let scANVI name the types :cite:p:`xu2021`: scVI that goes on with the labels of the labelled cells.

    It begins from :func:`answer_by_scvi`'s network; every epoch sees 100 labelled cells of each type at most, as its
    authors advise. The labels of test cells are not given to it.

    Raises
    ------
    InputError
        If scvi-tools is not installed.
    """
    labelled = problem.split.train
    label_code = problem.task.label_code
    if len(np.unique(label_code[labelled])) == 1:
        return np.full(len(problem.split.test), label_code[labelled[0]])
    trained = _trained_scvi(problem)
    with scvi_session(problem.seed, "scANVI") as scvi:
        model = _trained_scanvi(scvi, trained, problem, label_code)
        predicted = model.predict(_as_adata(problem.compared, problem.split.test))
    return np.asarray(predicted).astype(np.int64)


def integrate_by_scanvi(problem: Problem[IntegrationTask]) -> Any:
    """Take the embedding of scANVI :cite:p:`xu2021`, which is told the types of the training cells.

    It is the one way of integrating here that sees types.

    Raises
    ------
    InputError
        If scvi-tools is not installed, or the cells have no labels.
    """
    trained = _trained_scvi(problem)
    with scvi_session(problem.seed, "scANVI") as scvi:
        model = _trained_scanvi(scvi, trained, problem, np.asarray(problem.task.label_code))
        return problem.task.answer_in_space(_space(model, problem.compared), problem.split)


def _trained_scvi(problem: Problem[Any]) -> Any:
    """Give scVI, trained once for each seed, whatever the labels."""
    compared = problem.compared

    def train() -> Any:
        with scvi_session(problem.seed, "scVI") as scvi:
            adata = _as_adata(compared, compared.unlabelled)
            scvi.model.SCVI.setup_anndata(adata, batch_key=_BATCH)
            model = scvi.model.SCVI(adata, n_latent=N_LATENT, n_layers=N_LAYERS, gene_likelihood=LIKELIHOOD)
            size = minibatch_size(math.ceil(_TRAIN_SIZE * adata.n_obs))
            max_epochs = n_epochs(adata.n_obs, at_most=MAX_EPOCHS)
            model.train(max_epochs=max_epochs, early_stopping=True, batch_size=size, **_TRAINING)
        return model

    return compared.made_once(("scVI", problem.seed), train)


def _trained_scanvi(scvi: ModuleType, trained: Any, problem: Problem[Any], label_code: np.ndarray) -> Any:
    """Give scANVI, trained on all unlabelled cells, of which those of the split's training part bear labels."""
    compared, labelled = problem.compared, problem.split.train[label_code[problem.split.train] >= 0]
    label = np.full(len(compared.cells), _UNLABELLED, dtype=object)
    label[labelled] = label_code[labelled].astype(str)
    adata = _as_adata(compared, compared.unlabelled, label=label)
    model = scvi.model.SCANVI.from_scvi_model(trained, adata=adata, unlabeled_category=_UNLABELLED, labels_key=_LABEL)
    n_labelled = int((adata.obs[_LABEL] != _UNLABELLED).sum())
    parts = [math.ceil(_TRAIN_SIZE * n) for n in (n_labelled, adata.n_obs - n_labelled)]
    size = minibatch_size(parts[0], sum(parts))
    model.train(max_epochs=MAX_SCANVI_EPOCHS, n_samples_per_label=N_CELLS_PER_LABEL, batch_size=size, **_TRAINING)
    return model


def _space(model: Any, compared: ComparedCells) -> np.ndarray:
    everyone = _as_adata(compared, np.arange(len(compared.cells)))
    return np.asarray(model.get_latent_representation(everyone), dtype=np.float32)


def _as_adata(compared: ComparedCells, rows: np.ndarray, *, label: np.ndarray | None = None) -> anndata.AnnData:
    """Give cells as scvi-tools takes them; those of batches that training did not see get one that it did."""
    batch = np.full(len(compared.cells), "all", dtype=object)
    if compared.batch_key is not None:
        batch = obs_column(compared.cells.obs, compared.batch_key, role="batch").to_numpy(dtype=object).astype(str)
        known = np.unique(batch[compared.unlabelled])
        batch = np.where(np.isin(batch, known), batch, known[0])
    obs = pd.DataFrame({_BATCH: pd.Categorical(batch[rows])}, index=rows.astype(str))
    obs[_LABEL] = _UNLABELLED if label is None else label[rows]
    return anndata.AnnData(compared.cells.counts[rows][:, compared.highly_variable], obs=obs)
