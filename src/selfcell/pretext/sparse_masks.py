"""What the masked autoencoder shows and scores, without an array of cells x genes; for the CPU.

A hidden zero looks as a visible one does, so that an encoder sees the non-zero entries alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from selfcell.data.minibatch import SparseExpression
from selfcell.network.blocked_likelihood import EntryWeights
from selfcell.network.gene_sets import GeneSets
from selfcell.network.masked_error import squared_error_of_sets
from selfcell.network.squared_error import squared_error_of_all
from selfcell.pretext.entry_masks import draw_hidden_entries, look_up, with_hidden, without_entries
from selfcell.pretext.membership import ProgramMembership


@dataclass(frozen=True)
class Drawn:
    """What was drawn for a minibatch."""

    visible: SparseExpression
    """What the encoder sees."""
    squared_error: Callable[[Tensor, nn.Linear, torch.dtype], Tensor]
    """The mean squared error over what is to be predicted, given the last hidden units, the last layer and the type in
    which to compute."""
    masked_fraction: float
    """Share of the entries that are hidden."""
    scored: EntryWeights | GeneSets | SparseExpression
    """What is to be predicted: by weights, by the genes of each cell, or these entries alone."""
    n_scored: float
    """How many entries that is."""


def hide_at_random(truth: SparseExpression, share: float | None, *, rescale: bool, generator: torch.Generator) -> Drawn:
    """Hide each entry with a probability, and score what is hidden: zeros by that probability.

    Whether a zero is hidden changes nothing that the encoder sees. So each zero counts by its probability: the squared
    errors that are summed, and the number of entries by which their sum is divided, are both the mean over these draws,
    and the gradient is less noisy. (The mean of the quotient differs by one part in the number of scored entries, or
    so.) None hides nothing and scores all.
    """
    n_cells, n_values = truth.n_cells, len(truth.values)
    if share is None:
        cells, entry_weight, of_zeros, n_hidden = truth, (1.0, 1.0), 1.0, n_values
        weights = torch.ones(n_values)
    else:
        hidden = draw_hidden_entries(truth, torch.full((n_cells,), share), generator=generator)
        factor = torch.full((n_cells,), 1 / (1 - share)) if rescale else None
        cells, entry_weight, of_zeros = with_hidden(truth, hidden, factor), (0.0, 1.0), share
        weights, n_hidden = hidden.float(), int(hidden.sum())
    n_scored = n_hidden + of_zeros * (n_cells * truth.n_genes - n_values)

    def squared_error(units: Tensor, layer: nn.Linear, dtype: torch.dtype) -> Tensor:
        return squared_error_of_all(
            units,
            layer,
            cells,
            entry_weight=entry_weight,
            zero_weight=torch.full((n_cells,), of_zeros),
            scale=1 / max(n_scored, 1.0),
            dtype=dtype,
        )

    masked = 0.0 if share is None else n_scored / (n_cells * truth.n_genes)
    return Drawn(cells, squared_error, masked, EntryWeights(weights, of_zeros), n_scored)


def hide_genes(truth: SparseExpression, hidden: Bool[Tensor, " n_genes"], *, rescale: bool) -> Drawn:
    """Hide the same genes in all cells, and score them; what stays is divided by its share."""
    n_hidden = int(hidden.sum())
    factor = torch.full((truth.n_cells,), truth.n_genes / max(truth.n_genes - n_hidden, 1)) if rescale else None
    cells = with_hidden(truth, hidden[truth.gene_index.long()], factor)

    def squared_error(units: Tensor, layer: nn.Linear, dtype: torch.dtype) -> Tensor:
        return squared_error_of_all(
            units,
            layer,
            cells,
            entry_weight=(0.0, 1.0),
            zero_weight=torch.ones(truth.n_cells),
            scale=1 / max(n_hidden * truth.n_cells, 1),
            genes=hidden.numpy(),
            dtype=dtype,
        )

    scored = GeneSets.of_genes(hidden, truth.n_cells)
    return Drawn(cells, squared_error, n_hidden / truth.n_genes, scored, float(n_hidden * truth.n_cells))


def hide_sets(truth: SparseExpression, hidden: GeneSets, *, rescale: bool, share: float | None = None) -> Drawn:
    """Hide a set of genes of each cell, and score it; what stays is divided by its share, or by that of the mean."""
    n_hidden = hidden.sizes()
    n_scored = int(n_hidden.sum())
    factor = None
    if rescale:
        n_visible = (truth.n_genes - n_hidden).clamp(min=1)
        factor = truth.n_genes / n_visible if share is None else torch.full((truth.n_cells,), 1 / (1 - share))
    cells = with_hidden(truth, hidden.holds(truth), factor)

    def squared_error(units: Tensor, layer: nn.Linear, dtype: torch.dtype) -> Tensor:
        return squared_error_of_sets(units, layer, cells, scored=hidden, scale=1 / max(n_scored, 1), dtype=dtype)

    return Drawn(cells, squared_error, n_scored / (truth.n_cells * truth.n_genes), hidden, float(n_scored))


def show_program(
    truth: SparseExpression,
    membership: ProgramMembership,
    program: Int[Tensor, " n_cells"],
    *,
    predicted: Int[Tensor, " n_cells"] | None = None,
    share: float | None = None,
    generator: torch.Generator | None = None,
) -> Drawn:
    """Hide all but one programme of each cell.

    Parameters
    ----------
    truth
        Cells.
    membership
        The programmes.
    program
        That of each cell.
    predicted
        The one gene of each cell to score; None scores the programme.
    share
        Hide such a share of the programme too, and score that.
    generator
        Source of randomness, for ``share``.
    """
    cell, gene = membership.entries(program)
    size = membership.size[program]
    hidden = torch.zeros(len(gene), dtype=torch.bool)
    if share is not None:
        hidden = membership.draw_within(program, share, generator=generator)
    shown = _entries(torch.where(hidden, 0.0, 1.0), gene, size, truth.n_genes)
    visible = without_entries(truth, look_up(shown, truth) == 0, torch.ones(truth.n_cells))
    n_hidden = truth.n_cells * truth.n_genes - len(gene) + int(hidden.sum())
    if predicted is not None:
        gene, size = predicted, torch.ones_like(predicted)
    elif share is not None:
        gene, size = gene[hidden], torch.zeros_like(size).index_add_(0, cell, hidden.long())
    asked = _entries(torch.zeros(len(gene)), gene, size, truth.n_genes)
    scored = SparseExpression(look_up(truth, asked), asked.gene_index, asked.cell_offsets, truth.n_genes)

    def squared_error(units: Tensor, layer: nn.Linear, dtype: torch.dtype) -> Tensor:
        return squared_error_of_all(
            units,
            layer,
            scored,
            entry_weight=(1.0, 1.0),
            zero_weight=torch.zeros(truth.n_cells),
            scale=1 / max(len(gene), 1),
            dtype=dtype,
        )

    return Drawn(visible, squared_error, n_hidden / (truth.n_cells * truth.n_genes), asked, float(len(gene)))


def _entries(values: Tensor, gene: Tensor, size: Tensor, n_genes: int) -> SparseExpression:
    return SparseExpression(values, gene.int(), torch.cat([size.new_zeros(1), size.cumsum(0)]), n_genes)
