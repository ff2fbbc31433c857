"""Views that exchange values between genes or cells, without their zeros; others are in :mod:`selfcell.pretext.views`.

For the CPU. Genes of a cell are in no order afterwards.
"""

import numpy as np
import torch

from selfcell.data.minibatch import SparseExpression
from selfcell.network.kernels import in_parts
from selfcell.network.random_bits import drawn_seed
from selfcell.pretext.draws import Strength, draw_strength
from selfcell.pretext.exchange_kernels import count_crossed, cross_entries, swap_entries


def swap_sparse_genes(
    expression: SparseExpression, *, fraction: Strength, probability: float = 1.0, generator: torch.Generator
) -> SparseExpression:
    """Do what :func:`selfcell.pretext.views.swap_genes` does."""
    n_cells, n_genes = expression.n_cells, expression.n_genes
    limits = _limits(expression, fraction, probability, generator)
    order = torch.randperm(n_genes, generator=generator).numpy()
    axis = torch.randint(n_genes, (n_cells,), generator=generator).numpy()
    place_of = np.empty_like(order)
    place_of[order] = np.arange(n_genes)
    offsets, genes, _ = expression.arrays()
    swapped = np.empty_like(genes)
    in_parts(
        swap_entries,
        *drawn_seed(generator),
        limits,
        axis,
        order,
        place_of,
        offsets,
        genes,
        swapped,
        work=offsets,
        n_threads=torch.get_num_threads(),
    )
    return SparseExpression(expression.values, torch.from_numpy(swapped), expression.cell_offsets, n_genes)


def cross_sparse_cells(
    expression: SparseExpression, *, fraction: Strength, probability: float = 1.0, generator: torch.Generator
) -> SparseExpression:
    """Do what :func:`selfcell.pretext.views.cross_over` does."""
    n_cells, n_threads = expression.n_cells, torch.get_num_threads()
    limits = _limits(expression, fraction, probability, generator)
    distance = torch.randint(1, max(n_cells, 2), (n_cells,), generator=generator)
    other = ((torch.arange(n_cells) + distance) % n_cells).numpy()
    offsets, genes, values = expression.arrays()
    draw, counts = (*drawn_seed(generator), limits, other), np.empty(n_cells, dtype=np.int64)
    in_parts(count_crossed, *draw, offsets, genes, counts, work=offsets, n_threads=n_threads)
    crossed = _room_for(expression, counts)
    in_parts(cross_entries, *draw, offsets, genes, values, *crossed.arrays(), work=offsets, n_threads=n_threads)
    return crossed


def _room_for(expression: SparseExpression, counts: np.ndarray) -> SparseExpression:
    """Make room for so many entries of each cell."""
    offsets = torch.from_numpy(np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)]))
    n_values = int(offsets[-1])
    return SparseExpression(
        values=expression.values.new_empty(n_values),
        gene_index=expression.gene_index.new_empty(n_values),
        cell_offsets=offsets,
        n_genes=expression.n_genes,
    )


def _limits(
    expression: SparseExpression, strength: Strength, probability: float, generator: torch.Generator
) -> np.ndarray:
    """Draw each cell's share, in units of 2^-32, in 64 bits: all of them may be exchanged."""
    n_cells, values = expression.n_cells, expression.values
    share = draw_strength(n_cells, strength, probability=probability, like=values, generator=generator)[:, 0]
    return (share.double() * 2**32).round().numpy().astype(np.uint64)
