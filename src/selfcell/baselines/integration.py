"""Baselines of data integration from other packages: Harmony, scVI, scANVI."""

import contextlib
import logging
import random
from collections.abc import Iterator
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch

from selfcell.baselines.base import Problem
from selfcell.core.errors import InputError
from selfcell.core.seeds import derive_seed
from selfcell.downstream.integration import IntegrationTask

N_VARIABLE_GENES = 4_000
"""Genes that scVI is trained on, where there are more: its authors advise a few thousand of the most variable."""
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

    Raises
    ------
    InputError
        If scvi-tools is not installed.
    """
    scvi, reference, query = _import_scvi("scvi"), *_reference_and_query(problem)
    with _quiet_and_seeded(scvi, problem.seed):
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
    scvi, reference, query = _import_scvi("scanvi"), *_reference_and_query(problem)
    with _quiet_and_seeded(scvi, problem.seed):
        labelled = scvi.model.SCANVI.from_scvi_model(
            _trained_scvi(scvi, reference), adata=reference, unlabeled_category=_UNKNOWN, labels_key="label"
        )
        labelled.train(**_training_arguments(reference.n_obs, max_epochs=min(20, MAX_EPOCHS)))
        return problem.task.answer_in_space(labelled.get_latent_representation(query), problem.split)


def _import_scvi(name: str) -> Any:
    try:
        import scvi  # noqa: PLC0415 - of an extra
    except ImportError:
        raise InputError(f"The baseline {name} needs scvi-tools: pip install 'selfcell[scvi]'.") from None
    return scvi


def _reference_and_query(problem: Problem[IntegrationTask]) -> tuple[anndata.AnnData, anndata.AnnData]:
    """Give the training cells, and all cells as if they were of a batch and a type among these.

    The encoder sees neither, so it matters not which; but scvi-tools knows no others.
    """
    compared, task, train = problem.compared, problem.task, problem.split.train
    genes = _variable_genes(problem)
    counts = compared.cells.counts[:, genes]
    obs = pd.DataFrame(
        {"batch": task.batch_code.astype(str), "label": np.asarray(task.label_code).astype(str)},
        index=np.arange(len(compared.cells)).astype(str),
    )
    reference = anndata.AnnData(counts[train], obs=obs.iloc[train].copy())
    as_first = obs.assign(batch=obs["batch"].iloc[train[0]], label=_UNKNOWN)
    return reference, anndata.AnnData(counts, obs=as_first)


def _variable_genes(problem: Problem[IntegrationTask]) -> np.ndarray:
    """Give the genes whose expression varies most between training cells, beside others of their mean."""
    expression = problem.compared.expression[problem.split.train]
    if expression.shape[1] <= N_VARIABLE_GENES:
        return np.arange(expression.shape[1])
    mean = np.asarray(expression.mean(axis=0)).ravel()
    variance = np.asarray(expression.multiply(expression).mean(axis=0)).ravel() - mean**2
    dispersion = np.log(np.where(mean > 0, variance, 1.0) / np.where(mean > 0, mean, 1.0))
    bins = pd.qcut(mean, 20, labels=False, duplicates="drop")
    of_bins = pd.Series(dispersion).groupby(bins)
    relative = (dispersion - of_bins.transform("mean")) / of_bins.transform("std").replace(0, 1).fillna(1)
    relative = np.where(mean > 0, relative, -np.inf)
    return np.sort(np.argsort(-relative, kind="stable")[:N_VARIABLE_GENES])


def _trained_scvi(scvi: Any, reference: anndata.AnnData) -> Any:
    scvi.model.SCVI.setup_anndata(reference, batch_key="batch")
    model = scvi.model.SCVI(reference, n_latent=N_LATENT, n_layers=N_LAYERS, gene_likelihood="nb")
    max_epochs = round(MAX_EPOCHS * min(1, 20_000 / reference.n_obs))
    model.train(**_training_arguments(reference.n_obs, max_epochs=max_epochs))
    return model


def _training_arguments(n_cells: int, *, max_epochs: int) -> dict[str, Any]:
    # A last minibatch of one or two cells breaks the batch norm.
    sizes = range(_MINIBATCH_SIZE, 0, -1)
    minibatch_size = next(size for size in sizes if n_cells % size not in {1, 2})
    return {
        "max_epochs": max(max_epochs, 1),
        "batch_size": minibatch_size,
        "train_size": 1.0,
        "accelerator": "cpu",
        "enable_progress_bar": False,
    }


@contextlib.contextmanager
def _quiet_and_seeded(scvi: Any, seed: int) -> Iterator[None]:
    """Seed all global random numbers, which scvi-tools draws from, and give them back as they were."""
    loggers = [logging.getLogger(name) for name in ("lightning.fabric", "lightning.pytorch", "scvi")]
    levels, numpy_state, state = [one.level for one in loggers], np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        for one in loggers:
            one.setLevel(logging.ERROR)
        with torch.random.fork_rng():
            scvi.settings.seed = derive_seed(seed, "scvi") % 2**31
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(state)
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
