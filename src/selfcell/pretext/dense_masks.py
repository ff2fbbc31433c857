"""What the masked autoencoder shows and scores, as dense arrays on the device where it is trained; for a GPU.

Two arrays of cells x genes are made, of two bytes an entry in bfloat16: what the encoder sees, and what is to be
predicted, which also tells what is not (:data:`selfcell.network.block_error.UNSCORED`). Masks are drawn on the device,
some genes of all cells at a time, and nothing here waits for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from selfcell.data.minibatch import SparseExpression
from selfcell.network.block_error import UNSCORED, squared_error_in_blocks
from selfcell.network.compute import Compute
from selfcell.network.padded import ALIGNED, GeneBlocks, PaddedExpression, flat_places, spread
from selfcell.pretext.membership import ProgramMembership

DrawBlock: TypeAlias = Callable[[slice], tuple[Tensor, Tensor]]
"""Gives for some genes which are hidden and which are to be predicted: cells x genes, or one row for all cells."""


@dataclass(frozen=True)
class DenseDraw:
    """What was drawn for a minibatch."""

    visible: PaddedExpression
    """What the encoder sees."""
    truth: Float[Tensor, "n_cells n_columns"]
    """What is to be predicted, and what is not."""
    zero_weight: float
    """How much a zero to be predicted counts."""
    n_scored: Float[Tensor, ""]
    """How many entries are to be predicted, by weight."""
    masked_fraction: Float[Tensor, ""]
    """Share of the entries that are hidden."""

    def squared_error(self, units: Tensor, layer: nn.Linear, compute: Compute) -> Float[Tensor, ""]:
        """Give the mean squared error over what is to be predicted, 0 where that is nothing."""
        return squared_error_in_blocks(
            units,
            layer,
            self.truth,
            zero_weight=self.zero_weight,
            scale=1 / self.n_scored.clamp(min=1),
            dtype=compute.dtype,
            compiled=compute.compiled,
        )


def hide_entries_at_random(
    expression: SparseExpression, share: float, *, rescale: bool, dtype: torch.dtype, generator: torch.Generator
) -> DenseDraw:
    """Hide each entry with a probability, and score what is hidden: zeros by that probability.

    A draw is made for the non-zero entries alone: whether a zero is hidden changes nothing that the encoder sees.
    """
    values, at = expression.values, flat_places(expression)
    hidden = torch.rand(len(values), generator=generator, device=values.device) < share
    is_zero = values == 0
    visible = (values / (1 - share) if rescale else values).masked_fill(hidden, 0.0)
    scored = values.masked_fill(~(hidden | is_zero), UNSCORED)
    n_entries = expression.n_cells * expression.n_genes
    n_scored = (hidden & ~is_zero).sum() + share * (n_entries - len(values) + is_zero.sum())
    return DenseDraw(
        PaddedExpression(spread(visible, at, expression, dtype=dtype)),
        _without_padding(spread(scored, at, expression, dtype=_of_truth(dtype)), expression.n_genes),
        share,
        n_scored,
        n_scored / n_entries,
    )


def hide_in_blocks(
    expression: SparseExpression,
    draw: DrawBlock,
    *,
    dtype: torch.dtype,
    rescale: bool = False,
    share: float | None = None,
) -> DenseDraw:
    """Hide and score what is drawn for some genes after the other.

    Parameters
    ----------
    expression
        Cells.
    draw
        Gives the masks of some genes.
    dtype
        Of what the encoder sees.
    rescale
        Divide what stays visible by its share of the genes, or by that of the mean where ``share`` is given.
    share
        Share of the entries that is hidden on average.
    """
    n_cells, n_genes, at = expression.n_cells, expression.n_genes, flat_places(expression)
    visible = spread(expression.values, at, expression, dtype=dtype)
    truth = _without_padding(spread(expression.values, at, expression, dtype=_of_truth(dtype)), n_genes)
    n_hidden = torch.zeros(n_cells, dtype=torch.int64, device=visible.device)
    n_scored = torch.zeros((), device=visible.device)
    for block in GeneBlocks.of(n_genes):
        genes = slice(block.start, min(block.stop, n_genes))
        hidden, scored = draw(genes)
        visible[:, genes].masked_fill_(hidden, 0.0)
        truth[:, genes].masked_fill_(~scored, UNSCORED)
        n_hidden += hidden.sum(dim=1)
        n_scored += scored.sum() * (n_cells // len(scored))
    if rescale and share is not None:
        visible.mul_(1 / (1 - share))
    elif rescale:
        visible.mul_((n_genes / (n_genes - n_hidden).clamp(min=1))[:, None])
    return DenseDraw(PaddedExpression(visible), truth, 1.0, n_scored, n_hidden.float().mean() / n_genes)


def nothing_hidden(device: torch.device) -> DrawBlock:
    """Hide nothing and score everything."""

    def draw(genes: slice) -> tuple[Tensor, Tensor]:
        hidden = torch.zeros((1, genes.stop - genes.start), dtype=torch.bool, device=device)
        return hidden, ~hidden

    return draw


def random_entries(n_cells: int, share: float, *, generator: torch.Generator) -> DrawBlock:
    """Hide and score each entry with a probability."""

    def draw(genes: slice) -> tuple[Tensor, Tensor]:
        draws = torch.rand((n_cells, genes.stop - genes.start), generator=generator, device=generator.device)
        hidden = draws < share
        return hidden, hidden

    return draw


def chosen_programs(
    membership: ProgramMembership, chosen: Bool[Tensor, "n_draws n_programs"], dtype: torch.dtype
) -> DrawBlock:
    """Hide and score the genes of chosen programmes, of each cell or of one row for all."""
    n_rows = -(-len(membership) // ALIGNED) * ALIGNED
    table = membership.table(n_rows=n_rows, n_columns=GeneBlocks.of(membership.n_genes).n_columns, dtype=dtype)
    rows = functional.pad(chosen.to(dtype), (0, n_rows - len(membership)))

    def draw(genes: slice) -> tuple[Tensor, Tensor]:
        hidden = rows @ table[:, genes] > 0
        return hidden, hidden

    return draw


def drawn_masks(hidden: Bool[Tensor, "n_draws n_genes"], scored: Bool[Tensor, "n_draws n_genes"]) -> DrawBlock:
    """Take masks that have been drawn for all genes."""
    return lambda genes: (hidden[:, genes], scored[:, genes])


def _of_truth(dtype: torch.dtype) -> torch.dtype:
    # As wide as bfloat16, and closer: log1p expression is far from the limits of float16.
    return torch.float16 if dtype == torch.bfloat16 else dtype


def _without_padding(truth: Tensor, n_genes: int) -> Tensor:
    truth[:, n_genes:] = UNSCORED
    return truth
