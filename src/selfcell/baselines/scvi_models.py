"""Baselines that are networks themselves: scVI and scANVI, trained by scvi-tools on all training cells."""

import math
from types import ModuleType
from typing import Any

import anndata
import numpy as np
import pandas as pd

from selfcell.baselines.base import ComparedCells, Problem
from selfcell.baselines.kept_networks import trained_or_kept
from selfcell.baselines.scvi_session import known_experiments, minibatch_size, n_epochs, scvi_session
from selfcell.core.code_version import code_version
from selfcell.data.source import encode
from selfcell.downstream.cell_type import CellTypeTask
from selfcell.downstream.integration import IntegrationTask

N_LATENT, N_LAYERS, LIKELIHOOD = 30, 2, "nb"
"""Of scVI: what its authors' tutorial of integration takes."""
MAX_EPOCHS = 400
"""Epochs of scVI at most, as scvi-tools has it."""
CELLS_SEEN = 1_000_000
"""Cells of all epochs of scVI at most. On donors of ``liu_covid_pbmc`` never seen, three seeds each, neighbors in its
embedding named types as well as after two million (macro F1 0.673 and 0.672; scANVI, which goes on from it, 0.734 and
0.741, with a standard deviation of 0.006 over seeds), and better than after six (0.654)."""
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
    dimensions, negative binomial; for 400 epochs at most, fewer where there are more than 2,500 cells
    (``CELLS_SEEN``), stopped early by a tenth of the cells. The encoder does not see the batch, so it embeds
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
    classes = problem.task.classes
    model = _trained_scanvi(problem, np.array([*classes, None], dtype=object)[label_code])
    with scvi_session(problem.seed, "naming by scANVI"):
        predicted = model.predict(_as_adata(problem.compared, problem.split.test))
    return encode(pd.Series(predicted), classes)


def integrate_by_scanvi(problem: Problem[IntegrationTask]) -> Any:
    """Take the embedding of scANVI :cite:p:`xu2021`, which is told the types of the training cells.

    It is the one way of integrating here that sees types.

    Raises
    ------
    InputError
        If scvi-tools is not installed, or the cells have no labels.
    """
    code = np.asarray(problem.task.label_code)
    names = np.array([str(one) if one >= 0 else None for one in code], dtype=object)
    model = _trained_scanvi(problem, names)
    with scvi_session(problem.seed, "embedding by scANVI"):
        return problem.task.answer_in_space(_space(model, problem.compared), problem.split)


def _trained_scvi(problem: Problem[Any]) -> Any:
    """Give scVI, trained once for each seed, whatever the labels."""
    compared = problem.compared

    def trained() -> Any:
        with scvi_session(problem.seed, "scVI") as scvi:
            adata = _as_adata(compared, compared.unlabelled)
            scvi.model.SCVI.setup_anndata(adata, batch_key=_BATCH)
            return trained_or_kept(
                lambda: scvi.model.SCVI(adata, n_latent=N_LATENT, n_layers=N_LAYERS, gene_likelihood=LIKELIHOOD),
                adata,
                compared=compared,
                identity=f"scVI, {_identity(scvi, problem.seed)}",
                train=_train_scvi,
            )

    return compared.made_once(("scVI", problem.seed), trained)


def _train_scvi(model: Any) -> None:
    n_cells = model.adata.n_obs
    size = minibatch_size(math.ceil(_TRAIN_SIZE * n_cells))
    epochs = n_epochs(n_cells, at_most=MAX_EPOCHS, cells_seen=CELLS_SEEN)
    model.train(max_epochs=epochs, early_stopping=True, batch_size=size, **_TRAINING)


def _trained_scanvi(problem: Problem[Any], names: np.ndarray) -> Any:
    """Give scANVI, trained on all unlabelled cells, of which those of the split's training part bear labels.

    Parameters
    ----------
    names
        The label of each cell, None where it has none.
    """
    compared, train = problem.compared, problem.split.train
    label = np.full(len(compared.cells), _UNLABELLED, dtype=object)
    label[train] = [_UNLABELLED if name is None else name for name in names[train]]
    trained = _trained_scvi(problem)
    with scvi_session(problem.seed, "scANVI") as scvi:
        adata = _as_adata(compared, compared.unlabelled, label=label)
        kind = scvi.model.SCANVI
        return trained_or_kept(
            lambda: kind.from_scvi_model(trained, adata=adata, unlabeled_category=_UNLABELLED, labels_key=_LABEL),
            adata,
            compared=compared,
            identity=f"scANVI, {_identity(scvi, problem.seed)}",
            train=_train_scanvi,
        )


def _train_scanvi(model: Any) -> None:
    n_labelled = int((model.adata.obs[_LABEL] != _UNLABELLED).sum())
    parts = [math.ceil(_TRAIN_SIZE * n) for n in (n_labelled, model.adata.n_obs - n_labelled)]
    size = minibatch_size(parts[0], sum(parts))
    model.train(max_epochs=MAX_SCANVI_EPOCHS, n_samples_per_label=N_CELLS_PER_LABEL, batch_size=size, **_TRAINING)


def _identity(scvi: ModuleType, seed: int) -> str:
    return f"seed {seed}, scvi-tools {scvi.__version__}, {MAX_EPOCHS} epochs, code {code_version([__name__])}"


def _space(model: Any, compared: ComparedCells) -> np.ndarray:
    everyone = _as_adata(compared, np.arange(len(compared.cells)))
    return np.asarray(model.get_latent_representation(everyone), dtype=np.float32)


def _as_adata(compared: ComparedCells, rows: np.ndarray, *, label: np.ndarray | None = None) -> anndata.AnnData:
    """Give cells as scvi-tools takes them; those of batches that training did not see get one that it did."""
    is_told = compared.batch_key is not None
    batch = known_experiments(compared) if is_told else np.full(len(compared.cells), "all", dtype=object)
    obs = pd.DataFrame({_BATCH: pd.Categorical(batch[rows])}, index=rows.astype(str))
    obs[_LABEL] = _UNLABELLED if label is None else label[rows]
    return anndata.AnnData(compared.cells.counts[rows][:, compared.highly_variable], obs=obs)
