"""Baselines of data integration from other packages: Harmony, scVI, scANVI."""

from typing import Any

import anndata
import numpy as np
import pandas as pd

from selfcell.baselines.base import Problem
from selfcell.baselines.scvi_session import minibatch_size, scvi_session
from selfcell.core.errors import InputError
from selfcell.core.seeds import derive_seed
from selfcell.downstream.integration import IntegrationTask

N_LATENT, N_LAYERS = 30, 2
"""Of scVI: what its authors' tutorial of integration takes."""
MAX_EPOCHS = 400
"""Of scVI for up to 20,000 cells, by its own rule; fewer for more."""
_MINIBATCH_SIZE = 128
_UNKNOWN = "(unknown)"


def integrate_by_harmony(problem: Problem[IntegrationTask]) -> Any:
    """Correct the principal components for batches :cite:p:`korsunsky2019`.

    Harmony cannot place new cells: it moves the cells that it is given. So it is given the test cells too, with their
    batches, which neither the encoder's regimes nor scVI are.

    Raises
    ------
    InputError
        If harmonypy is not installed.
    """
    try:
        import harmonypy  # noqa: PLC0415 - of an extra
    except ImportError:
        raise InputError("The baseline harmony needs harmonypy: pip install 'selfcell[integration]'.") from None
    space, split = problem.compared.principal_components, problem.split
    rows = np.concatenate([split.train, split.test])
    batch_names = pd.DataFrame({"batch": problem.task.batch_code[rows].astype(str)})
    seed = derive_seed(problem.seed, "harmony") % 2**31
    corrected = harmonypy.run_harmony(space[rows], batch_names, "batch", verbose=False, random_state=seed).Z_corr
    moved = np.zeros_like(space)
    moved[rows] = corrected
    return problem.task.answer_in_space(moved, split)


def integrate_by_scvi(problem: Problem[IntegrationTask]) -> Any:
    """Train scVI on the training cells, and map the others by its encoder, which sees no batch :cite:p:`lopez2018`.

    It is trained on the 2,000 most variable genes, as its authors advise.

    Raises
    ------
    InputError
        If scvi-tools is not installed.
    """
    reference, query = _reference_and_query(problem)
    with scvi_session(problem.seed, "scVI") as scvi:
        model = _trained_scvi(scvi, reference)
        return problem.task.answer_in_space(model.get_latent_representation(query), problem.split)


def integrate_by_scanvi(problem: Problem[IntegrationTask]) -> Any:
    """Train scANVI on the training cells with their types, and map the others :cite:p:`xu2021`.

    It is the one way here that sees types.

    Raises
    ------
    InputError
        If scvi-tools is not installed.
    """
    reference, query = _reference_and_query(problem)
    with scvi_session(problem.seed, "scVI") as scvi:
        labelled = scvi.model.SCANVI.from_scvi_model(
            _trained_scvi(scvi, reference), adata=reference, unlabeled_category=_UNKNOWN, labels_key="label"
        )
        labelled.train(**_training_arguments(reference.n_obs, max_epochs=min(20, MAX_EPOCHS)))
        return problem.task.answer_in_space(labelled.get_latent_representation(query), problem.split)


def _reference_and_query(problem: Problem[IntegrationTask]) -> tuple[anndata.AnnData, anndata.AnnData]:
    """Give the training cells, and all cells as if they were of a batch and a type among these.

    The encoder sees neither, so it matters not which; but scvi-tools knows no others.
    """
    compared, task, train = problem.compared, problem.task, problem.split.train
    counts = compared.cells.counts[:, compared.highly_variable]
    obs = pd.DataFrame(
        {"batch": task.batch_code.astype(str), "label": np.asarray(task.label_code).astype(str)},
        index=np.arange(len(compared.cells)).astype(str),
    )
    reference = anndata.AnnData(counts[train], obs=obs.iloc[train].copy())
    as_first = obs.assign(batch=obs["batch"].iloc[train[0]], label=_UNKNOWN)
    return reference, anndata.AnnData(counts, obs=as_first)


def _trained_scvi(scvi: Any, reference: anndata.AnnData) -> Any:
    scvi.model.SCVI.setup_anndata(reference, batch_key="batch")
    model = scvi.model.SCVI(reference, n_latent=N_LATENT, n_layers=N_LAYERS, gene_likelihood="nb")
    max_epochs = round(MAX_EPOCHS * min(1, 20_000 / reference.n_obs))
    model.train(**_training_arguments(reference.n_obs, max_epochs=max_epochs))
    return model


def _training_arguments(n_cells: int, *, max_epochs: int) -> dict[str, Any]:
    return {
        "max_epochs": max(max_epochs, 1),
        "batch_size": minibatch_size(n_cells),
        "train_size": 1.0,
        "accelerator": "cpu",
        "enable_progress_bar": False,
    }
