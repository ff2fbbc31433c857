"""Views of cells without their zeros, for steps that change no zero; others are in :mod:`selfcell.pretext.views`."""

import torch

from selfcell.data.minibatch import SparseExpression
from selfcell.pretext.draws import Strength, draw_strength, draw_uniform
from selfcell.pretext.entry_masks import draw_hidden_entries, without_entries
from selfcell.pretext.membership import ProgramMembership


def mask_sparse_genes(
    expression: SparseExpression,
    *,
    fraction: Strength,
    rescale: bool = False,
    probability: float = 1.0,
    generator: torch.Generator,
) -> SparseExpression:
    """Do what :func:`selfcell.pretext.views.mask_genes` does, by draws for the non-zero entries alone."""
    n_cells, values = expression.n_cells, expression.values
    share = draw_strength(n_cells, fraction, probability=probability, like=values, generator=generator)[:, 0]
    factor = 1 / (1 - share).clamp(min=1e-6) if rescale else torch.ones(n_cells)
    return without_entries(expression, draw_hidden_entries(expression, share, generator=generator), factor)


def mask_sparse_programs(
    expression: SparseExpression,
    membership: ProgramMembership,
    *,
    fraction: Strength,
    probability: float = 1.0,
    generator: torch.Generator,
) -> SparseExpression:
    """Do what :func:`selfcell.pretext.views.mask_programs` does."""
    n_cells, values = expression.n_cells, expression.values
    share = draw_strength(n_cells, fraction, probability=probability, like=values, generator=generator)
    chosen = draw_uniform((n_cells, len(membership)), like=values, generator=generator) < share
    return without_entries(expression, membership.sets(chosen).holds(expression), torch.ones(n_cells))
