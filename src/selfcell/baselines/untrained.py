"""The control for the network itself: random weights, nothing learned."""

import numpy as np

from selfcell.baselines.base import LabelProblem
from selfcell.downstream.embed import embed_counts
from selfcell.downstream.neighbors import vote_of_neighbors
from selfcell.network.encoder import MlpEncoder
from selfcell.training.fit import seeded


def predict_by_untrained_encoder(problem: LabelProblem) -> np.ndarray:
    """Let the nearest labelled cells vote in the embedding of an encoder with random weights."""
    compared = problem.compared
    with seeded(problem.seed, "untrained weights"):
        encoder = MlpEncoder(compared.network, n_genes=len(compared.cells.genes))
    return vote_of_neighbors(
        embed_counts(encoder, compared.cells.counts[problem.labelled]),
        problem.label_code[problem.labelled],
        embed_counts(encoder, compared.cells.counts[problem.test]),
        n_neighbors=problem.n_neighbors,
    ).label_code
