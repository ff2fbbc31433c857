"""Scores of an embedding by the tasks of cz-benchmarks, to set beside the figures of other models."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from selfcell.core.errors import InputError

MIN_CELLS_OF_A_TYPE = 10
"""Fewer, and the package's label prediction leaves a type out."""
N_NEIGHBORS = 100
"""Over which the package looks at batches."""


def cz_scores(
    embedding: Float[np.ndarray, "n_cells n_latent"],
    *,
    labels: pd.Series,
    batch_names: pd.Series | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Score an embedding by cz-benchmarks: label prediction, clustering, silhouettes, and mixing of batches.

    The package draws its folds by cell, not by donor, so label prediction is scored on donors it has learned from:
    good for setting beside figures that were made the same way, not for what to expect of new donors.

    Parameters
    ----------
    embedding
        What to score, of any kind.
    labels
        Type of each cell.
    batch_names
        Batch of each cell; without it integration is not scored.
    seed
        Of folds, forests and clusters.

    Returns
    -------
    Scores by the package's names of them, such as ``mean_fold_f1 (lr)``.

    Raises
    ------
    InputError
        If cz-benchmarks is not installed, or no two types have :data:`MIN_CELLS_OF_A_TYPE` cells, or, with
        batches, there are fewer than :data:`N_NEIGHBORS` cells.
    """
    with _quiet():
        tasks = _import_tasks()
    if (labels.value_counts() >= MIN_CELLS_OF_A_TYPE).sum() < 2:
        raise InputError(f"cz-benchmarks needs two types of {MIN_CELLS_OF_A_TYPE} cells or more to predict labels.")
    if batch_names is not None and len(labels) < N_NEIGHBORS:
        raise InputError(
            f"cz-benchmarks needs {N_NEIGHBORS} cells or more to score batches, but there are {len(labels)}."
        )
    labels = pd.Series(labels.to_numpy(), index=[f"cell {place}" for place in range(len(labels))])
    space = np.ascontiguousarray(embedding, dtype=np.float32)
    runs: list[tuple[Any, Any]] = [
        (tasks.MetadataLabelPredictionTask, tasks.MetadataLabelPredictionTaskInput(labels=labels)),
        (
            tasks.ClusteringTask,
            tasks.ClusteringTaskInput(obs=pd.DataFrame({"label": labels}), input_labels=labels, use_rep="X"),
        ),
        (tasks.EmbeddingTask, tasks.EmbeddingTaskInput(input_labels=labels.to_numpy())),
    ]
    if batch_names is not None:
        mixing = tasks.BatchIntegrationTaskInput(batch_labels=batch_names.to_numpy(), labels=labels.to_numpy())
        runs.append((tasks.BatchIntegrationTask, mixing))
    with _quiet():
        results = [result for task, given in runs for result in task(random_seed=seed).run(space, given)]
    return {_name(result): float(result.value) for result in results}


def _name(result: Any) -> str:
    classifier = (result.params or {}).get("classifier")
    name = str(result.metric_type.value)
    if classifier is None:
        return name
    return f"{name} (mean)" if classifier.startswith("MEAN(") else f"{name} ({classifier})"


def _import_tasks() -> ModuleType:
    try:
        from czbenchmarks import tasks  # noqa: PLC0415 (not a dependency, and it takes seconds)
    except ModuleNotFoundError as error:
        raise InputError(
            f"cz-benchmarks cannot be used ({error}). Install it beside this package: pip install cz-benchmarks. "
            "It has no wheels of hnswlib, so a C++ compiler must be there."
        ) from None
    module: ModuleType = tasks
    return module


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the package's steps, and warnings of what it calls, out of the log; what goes wrong is raised."""
    logger = logging.getLogger("czbenchmarks")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
