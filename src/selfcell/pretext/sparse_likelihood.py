"""The mean of a likelihood over what a mask asks for, without an array of cells x genes; for the CPU."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from selfcell.data.minibatch import SparseExpression
from selfcell.network.blocked_likelihood import likelihood_of_all
from selfcell.network.entry_outputs import outputs_of_entries
from selfcell.network.likelihoods import Likelihood
from selfcell.pretext.entry_masks import look_up
from selfcell.pretext.sparse_masks import Drawn


def mean_likelihood(
    hidden: Float[Tensor, "n_cells n_units"],
    layer: nn.Linear,
    likelihood: Likelihood,
    truth: SparseExpression,
    drawn: Drawn,
    *,
    library_size: Float[Tensor, " n_cells"],
    dtype: torch.dtype,
) -> Float[Tensor, ""]:
    """Average a likelihood over what is to be predicted; 0 where that is nothing.

    Parameters
    ----------
    hidden
        What goes into the last layer.
    layer
        From units to the outputs of all genes, without activation.
    likelihood
        That of the outputs.
    truth
        What it is of: counts, or ``log1p`` expression.
    drawn
        What is to be predicted.
    library_size
        Counts of each cell.
    dtype
        In which products are made: float32 or bfloat16.
    """
    scale = 1 / max(drawn.n_scored, 1.0)
    if not isinstance(drawn.scored, SparseExpression):
        return likelihood_of_all(
            hidden,
            layer,
            likelihood,
            truth,
            library_size=library_size,
            scored=drawn.scored,
            scale=scale,
            dtype=dtype,
        )
    asked = drawn.scored
    outputs = outputs_of_entries(hidden, layer, asked, outputs_per_gene=likelihood.outputs_per_gene, dtype=dtype)
    of_cells = library_size.repeat_interleave(asked.cell_offsets.diff())
    losses = likelihood.of_entries(outputs, look_up(truth, asked), of_cells, genes=asked.gene_index.long())
    return losses.sum() * scale
