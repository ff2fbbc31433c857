"""Views of cells with noise in their zeros, without an array of cells x genes; others in :mod:`selfcell.pretext.views`.

A step changes every value of a cell by itself, by draws that are a function of a seed, the cell and the gene. So a view
is known gene by gene: zeros become what the steps make of them, in blocks of genes, and what non-zero values are beyond
that stays sparse. For the CPU.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selfcell.data.counts import TARGET_TOTAL
from selfcell.data.minibatch import SparseExpression
from selfcell.network.blockwise import BlockwiseExpression
from selfcell.network.gene_sets import GeneSets
from selfcell.network.kernels import in_equal_parts, in_parts
from selfcell.network.random_bits import drawn_seed, limit_of
from selfcell.pretext import noise_kernels
from selfcell.pretext.draws import Strength, draw_strength, draw_uniform
from selfcell.pretext.membership import ProgramMembership


class Step(abc.ABC):
    """A change of single values, drawn for some cells. It keeps values at 0 or above, and larger ones larger."""

    noisy: np.ndarray
    """Cells whose zeros it changes."""
    drawn: tuple[Any, ...]
    """What its loops need of its draws, before the entries or the block."""
    entries_loop: Callable[..., None]
    block_loop: Callable[..., None]

    def on_entries(self, offsets: np.ndarray, genes: np.ndarray, values: np.ndarray) -> None:
        """Change the values of compressed sparse rows in place."""
        n_threads = torch.get_num_threads()
        in_parts(type(self).entries_loop, *self.drawn, offsets, genes, values, work=offsets, n_threads=n_threads)

    def on_block(self, cells: np.ndarray, first_gene: int, block: np.ndarray) -> None:
        """Change cells x neighboring genes in place."""
        in_equal_parts(
            type(self).block_loop,
            *self.drawn,
            cells,
            first_gene,
            block,
            n_items=len(cells),
            n_threads=torch.get_num_threads(),
            work_of_item=block.shape[1],
        )


class NegativeBinomialNoise(Step):
    """Does what :func:`selfcell.pretext.views.add_negative_binomial_noise` does.

    The uniform number behind a count has 32 bits, so that probabilities are right to 1e-7, and a count over 8.6e10,
    which one entry in 4e9 would have, is not drawn.
    """

    entries_loop = noise_kernels.negative_binomial_entries
    block_loop = noise_kernels.negative_binomial_block

    def __init__(
        self,
        like: SparseExpression,
        *,
        strength: Strength,
        probability: float = 1.0,
        generator: torch.Generator,
    ) -> None:
        factor = _of_cells(like, strength, probability, generator)
        self.noisy, seed = factor > 0, drawn_seed(generator)
        totals = np.zeros(like.n_cells)
        in_equal_parts(
            noise_kernels.sum_negative_binomial,
            *seed,
            like.n_genes,
            totals,
            self.noisy,
            n_items=like.n_cells,
            n_threads=torch.get_num_threads(),
            work_of_item=like.n_genes,
        )
        self.drawn = (*seed, factor, (TARGET_TOTAL / totals.clip(min=1)).astype(np.float32))


class GaussianNoise(Step):
    """Does what :func:`selfcell.pretext.views.add_gaussian_noise` does.

    A draw is that of a random number of 32 bits: right to 2e-6, and never beyond 6.34, where one in 4e9 would be.
    """

    entries_loop = noise_kernels.gaussian_entries
    block_loop = noise_kernels.gaussian_block

    def __init__(
        self,
        like: SparseExpression,
        *,
        sigma: Strength,
        gene_fraction: float = 1.0,
        probability: float = 1.0,
        generator: torch.Generator,
    ) -> None:
        spread = _of_cells(like, sigma, probability, generator)
        self.noisy = spread > 0
        self.drawn = (*drawn_seed(generator), limit_of(gene_fraction), *drawn_seed(generator), spread)


class HiddenGenes(Step):
    """Does what :func:`selfcell.pretext.views.mask_genes` does."""

    entries_loop = noise_kernels.hide_genes_entries
    block_loop = noise_kernels.hide_genes_block

    def __init__(
        self,
        like: SparseExpression,
        *,
        fraction: Strength,
        rescale: bool = False,
        probability: float = 1.0,
        generator: torch.Generator,
    ) -> None:
        share = _of_cells(like, fraction, probability, generator)
        self.noisy = np.zeros(like.n_cells, dtype=bool)
        factor = 1 / (1 - share).clip(min=1e-6) if rescale else np.ones_like(share)
        limits = (share.astype(np.float64) * 2**32).round().clip(max=2**32 - 1).astype(np.uint32)
        self.drawn = (*drawn_seed(generator), limits, factor)


class HiddenPrograms(Step):
    """Does what :func:`selfcell.pretext.views.mask_programs` does."""

    entries_loop = noise_kernels.hide_sets_entries
    block_loop = noise_kernels.hide_sets_block

    def __init__(
        self,
        like: SparseExpression,
        membership: ProgramMembership,
        *,
        fraction: Strength,
        probability: float = 1.0,
        generator: torch.Generator,
    ) -> None:
        share = torch.from_numpy(_of_cells(like, fraction, probability, generator))
        chosen = draw_uniform((like.n_cells, len(membership)), like=share, generator=generator) < share[:, None]
        self.noisy = np.zeros(like.n_cells, dtype=bool)
        sets: GeneSets = membership.sets(chosen)
        self.drawn = (sets.bits,)


def distort(expression: SparseExpression, steps: Sequence[Step]) -> SparseExpression | BlockwiseExpression:
    """Take steps, one after the other.

    Parameters
    ----------
    expression
        Cells, on the CPU, without entries that are hidden.
    steps
        Drawn for these cells.
    """
    if not steps:
        return expression
    offsets, genes, before = expression.arrays()
    values, zeros = before.copy(), np.zeros_like(before)
    for step in steps:
        step.on_entries(offsets, genes, values)
        step.on_entries(offsets, genes, zeros)
    beyond = torch.from_numpy(values - zeros)
    sparse = SparseExpression(beyond, expression.gene_index, expression.cell_offsets, expression.n_genes)
    noisy = np.logical_or.reduce([step.noisy for step in steps])
    if not noisy.any():
        return sparse
    cells = np.flatnonzero(noisy)

    def make_block(wanted: slice) -> Float[Tensor, "n_dense n_block"]:
        block = torch.zeros(len(cells), wanted.stop - wanted.start)
        for step in steps:
            step.on_block(cells, wanted.start, block.numpy())
        return block

    return BlockwiseExpression(sparse, torch.from_numpy(cells), make_block)


def _of_cells(like: SparseExpression, strength: Strength, probability: float, generator: torch.Generator) -> np.ndarray:
    drawn = draw_strength(like.n_cells, strength, probability=probability, like=torch.empty(0), generator=generator)
    return drawn[:, 0].numpy()
