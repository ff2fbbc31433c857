"""Baselines that put other vectors in the place of the encoder's, and ask the task's zero-shot question of them."""

from typing import Any

import numpy as np

from selfcell.baselines.base import ComparedCells, Problem
from selfcell.data.source import Cells
from selfcell.data.space import obsm_space
from selfcell.downstream.embed import embed_counts
from selfcell.network.encoder import MlpEncoder
from selfcell.training.fit import seeded


def answer_by_pca(problem: Problem[Any]) -> Any:
    """Take principal components, fitted on all training cells."""
    return problem.task.answer_in_space(problem.compared.principal_components, problem.split)


def answer_by_untrained_encoder(problem: Problem[Any]) -> Any:
    """Take the same network with random weights."""
    return problem.task.answer_in_space(untrained_embedding(problem.compared, seed=problem.seed), problem.split)


def answer_by_precomputed(problem: Problem[Any], *, key: str) -> Any:
    """Take an embedding that the cells bring along in ``obsm``, from whatever model.

    Raises
    ------
    InputError
        As :func:`precomputed_space`.
    """
    return problem.task.answer_in_space(precomputed_space(problem.compared.cells, key), problem.split)


def precomputed_space(cells: Cells, key: str) -> np.ndarray:
    """Give an embedding from ``obsm``.

    Raises
    ------
    InputError
        If there is no such key, or it does not hold a finite vector for each cell.
    """
    return obsm_space(cells.obsm, key)


def untrained_embedding(compared: ComparedCells, *, seed: int) -> np.ndarray:
    """Embed all cells by the network with random weights."""
    with seeded(seed, "untrained weights"):
        encoder = MlpEncoder(compared.network, n_genes=len(compared.cells.genes))
    return embed_counts(encoder, compared.cells.counts)
