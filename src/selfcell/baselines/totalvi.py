"""totalVI as a baseline of protein prediction, by scvi-tools (the extra ``scvi``)."""

import anndata
import numpy as np
import pandas as pd

from selfcell.baselines.base import Problem
from selfcell.baselines.scvi_session import known_experiments, n_epochs, scvi_session
from selfcell.core.errors import InputError
from selfcell.data.target_transforms import TRANSFORMS
from selfcell.downstream.cross_modality import CrossModalityTask
from selfcell.downstream.target_space import TargetPrediction

MAX_EPOCHS = 400
"""Epochs at most, as scvi-tools has it; fewer where there are more than 5,000 cells (``CELLS_SEEN``)."""
CELLS_SEEN = 2_000_000
"""Cells of all epochs at most. On donors of ``liu_covid_pbmc`` never seen proteins came out at a correlation within a
cell of 0.904 (three seeds), after half as many at 0.902 (two), and by protein at 0.601 and 0.612; in an earlier version
four million were no better than two (0.887 and 0.893, against 0.892)."""
N_SAMPLES = 25
"""Draws from the posterior of each cell over which proteins are averaged, as in the tutorial of scvi-tools."""

_EXPERIMENT = "experiment"


def predict_by_totalvi(problem: Problem[CrossModalityTask]) -> TargetPrediction:
    """Impute the proteins of test cells with totalVI :cite:p:`gayoso2021`.

    Training and test cells are two batches, and the proteins of the second are zeros, which scvi-tools takes for not
    measured: nothing of them enters, while the genes of the test cells do, without which totalVI cannot place them. A
    cell's proteins are the posterior means of counts, background included, as if it were of the training batch. Where
    the comparison names experiments, totalVI is told that of each cell as a covariate; cells of one that training did
    not see get one that it did.

    On ``liu_covid_pbmc`` these came out near three times the measured counts, of the cells that were trained on as of
    others, and whether means are taken of counts or of their logarithms. Correlations do not see that, squared errors
    do: its ``mse`` says little.

    Departs from the paper's :cite:p:`richter2025` run, which gave totalVI the proteins of the test cells.

    Raises
    ------
    InputError
        If scvi-tools is not there, or the targets are not counts of proteins.
    """
    task, split = problem.task, problem.split
    if task.targets.kind != "protein_counts":
        raise InputError(
            f"totalVI is a model of protein counts, but {task.targets.origin} has {task.targets.kind}. Leave the "
            "baseline totalvi out."
        )
    adata = _two_batches(problem)
    with scvi_session(problem.seed, "totalVI") as scvi:
        # That all proteins of the test cells are zero is how they are said to be missing.
        scvi.model.TOTALVI.setup_anndata(
            adata,
            batch_key="part",
            categorical_covariate_keys=None if problem.compared.batch_key is None else [_EXPERIMENT],
            protein_expression_obsm_key="proteins",
        )
        model = scvi.model.TOTALVI(adata)
        max_epochs = n_epochs(adata.n_obs, at_most=MAX_EPOCHS, cells_seen=CELLS_SEEN)
        model.train(max_epochs=max_epochs, accelerator="cpu", enable_progress_bar=False)
        _, proteins = model.get_normalized_expression(
            indices=np.arange(len(split.train), adata.n_obs),
            transform_batch="training",
            n_samples=N_SAMPLES,
            return_mean=True,
            include_protein_background=True,
            sample_protein_mixing=False,
            return_numpy=True,
        )
    space = task.space(split.train)
    transform = TRANSFORMS["log1p"]() if space.name == "counts" else space.transform
    values = transform.transform(np.asarray(proteins, dtype=np.float32))
    return TargetPrediction(np.asarray(values), None, np.zeros(values.shape[1], dtype=np.float32))


def _two_batches(problem: Problem[CrossModalityTask]) -> anndata.AnnData:
    """Give the training cells, then the test cells without proteins."""
    split, targets = problem.split, problem.task.targets
    n_test, names = len(split.test), list(targets.names)
    rows = np.concatenate([split.train, split.test])
    cells = problem.compared.cells.subset(rows)
    known = np.asarray(targets.matrix[split.train])
    index = [f"cell {place}" for place in range(len(cells))]
    proteins = pd.DataFrame(np.concatenate([known, np.zeros((n_test, len(names)))]), columns=names, index=index)
    part = pd.Categorical(["training"] * len(split.train) + ["test"] * n_test)
    obs = pd.DataFrame({"part": part}, index=index)
    if problem.compared.batch_key is not None:
        obs[_EXPERIMENT] = pd.Categorical(known_experiments(problem.compared)[rows])
    measured = cells.measured
    counts = cells.counts if measured is None else cells.counts[:, measured]
    return anndata.AnnData(X=counts.copy(), obs=obs, obsm={"proteins": proteins})
