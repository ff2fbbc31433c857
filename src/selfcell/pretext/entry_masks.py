"""Masks drawn on the non-zero entries of cells alone: a hidden zero looks as a visible one does."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selfcell.data.minibatch import SparseExpression
from selfcell.network.entry_kernels import look_up_values
from selfcell.network.kernels import in_equal_parts, in_parts
from selfcell.network.mask_kernels import hide_entries, keep_entries, mark_entries
from selfcell.network.random_bits import drawn_seed


def draw_hidden_entries(
    expression: SparseExpression, share: Float[Tensor, " n_cells"], *, generator: torch.Generator
) -> Bool[Tensor, " n_values"]:
    """Hide each entry with the probability of its cell, by a draw of its own.

    Parameters
    ----------
    expression
        Cells, on the CPU.
    share
        The probability for each cell, from 0 to under 1.
    generator
        Source of randomness.
    """
    offsets, genes, _ = expression.arrays()
    hidden = torch.empty(len(genes), dtype=torch.bool)
    limits = (share.double() * 2**32).round().clamp(max=2**32 - 1).numpy().astype(np.uint32)
    draw = (*drawn_seed(generator), limits)
    in_parts(hide_entries, offsets, *draw, hidden.numpy(), work=offsets, n_threads=torch.get_num_threads())
    return hidden


def without_entries(
    expression: SparseExpression, dropped: Bool[Tensor, " n_values"], factor: Float[Tensor, " n_cells"]
) -> SparseExpression:
    """Leave out entries, and multiply those that stay by a factor of their cell."""
    offsets, genes, values = expression.arrays()
    kept_before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(~dropped.numpy(), dtype=np.int64)])
    new_offsets = kept_before[offsets]
    new_genes, new_values = np.empty(new_offsets[-1], dtype=genes.dtype), np.empty(new_offsets[-1], dtype=values.dtype)
    in_parts(
        keep_entries,
        offsets,
        genes,
        values,
        dropped.numpy(),
        factor.numpy(),
        new_offsets,
        new_genes,
        new_values,
        work=offsets,
        n_threads=torch.get_num_threads(),
    )
    return SparseExpression(
        torch.from_numpy(new_values), torch.from_numpy(new_genes), torch.from_numpy(new_offsets), expression.n_genes
    )


def with_hidden(
    expression: SparseExpression, hidden: Bool[Tensor, " n_values"], factor: Float[Tensor, " n_cells"] | None
) -> SparseExpression:
    """Hide entries from the encoder, and multiply for it those that stay by a factor of their cell."""
    marked = torch.empty_like(expression.values)
    arrays = (part.numpy() for part in (expression.values, hidden, marked))
    in_equal_parts(mark_entries, *arrays, n_items=len(marked), n_threads=torch.get_num_threads())
    return SparseExpression(marked, expression.gene_index, expression.cell_offsets, expression.n_genes, factor)


def look_up(held: SparseExpression, asked: SparseExpression) -> Float[Tensor, " n_asked"]:
    """Find the values that cells have in other genes, 0 where they have no entry."""
    offsets, genes, values = held.arrays()
    asked_offsets, asked_genes, _ = asked.arrays()
    found = np.empty(len(asked_genes), dtype=np.float32)
    row = np.zeros(held.n_genes, dtype=np.float32)
    look_up_values(offsets, genes, values, asked_offsets, asked_genes, row, found, 0, held.n_cells)
    return torch.from_numpy(found)
