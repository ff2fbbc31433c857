"""Which genes to hide from the encoder. A mask is True where a gene is hidden.

All draws are made on the generator's device, for all cells at once and independently for each cell.
"""

import math

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from selfcell.pretext.membership import ProgramMembership


def draw_random_mask(
    n_cells: int, n_genes: int, mask_fraction: float, *, generator: torch.Generator
) -> Bool[Tensor, "n_cells n_genes"]:
    """Hide each entry independently with probability ``mask_fraction``.

    Parameters
    ----------
    n_cells, n_genes
        Shape of the mask.
    mask_fraction
        Probability that an entry is hidden, between 0 and 1.
    generator
        Source of randomness.
    """
    draws = torch.rand((n_cells, n_genes), generator=generator, device=generator.device)
    return draws < mask_fraction


def draw_exact_mask(
    n_cells: int, n_genes: int, mask_fraction: float, *, generator: torch.Generator
) -> Bool[Tensor, "n_cells n_genes"]:
    """Hide the same number of genes in every cell: the nearest to ``mask_fraction``, at least one and never all.

    Every set of so many genes is equally likely. Parameters are those of :func:`draw_random_mask`.
    """
    n_hidden = min(max(round(mask_fraction * n_genes), 1), max(n_genes - 1, 1))
    draws = torch.rand((n_cells, n_genes), generator=generator, device=generator.device)
    hidden = draws.topk(n_hidden, dim=1, largest=False, sorted=False).indices
    return torch.zeros_like(draws, dtype=torch.bool).scatter_(1, hidden, value=True)


def draw_program_mask(
    membership: ProgramMembership, n_cells: int, mask_fraction: float, *, generator: torch.Generator
) -> Bool[Tensor, "n_cells n_genes"]:
    """Hide all genes of a share of the programmes :cite:p:`richter2025`.

    Parameters
    ----------
    membership
        The programmes.
    n_cells
        Cells to draw for.
    mask_fraction
        Share of the programmes to hide; the nearest whole number, at least one and never all of several.
    generator
        Source of randomness.
    """
    chosen = draw_exact_mask(n_cells, len(membership), mask_fraction, generator=generator)
    return membership.union(chosen)


def draw_program_mask_by_genes(
    membership: ProgramMembership, n_cells: int, mask_fraction: float, *, generator: torch.Generator
) -> Bool[Tensor, "n_cells n_genes"]:
    """Hide whole programmes in random order until a share of all genes is hidden, and no programme more.

    Parameters
    ----------
    membership
        The programmes. Together they must hold that share of the genes.
    n_cells
        Cells to draw for.
    mask_fraction
        Share of the encoder's genes to hide, at least.
    generator
        Source of randomness.
    """
    draws = torch.rand((n_cells, len(membership)), generator=generator, device=generator.device)
    rank = draws.argsort(dim=1).argsort(dim=1)
    first = membership.first_rank(rank)
    # Room for rounding: 0.3 * 10 is 3.0000000000000004 in floating point.
    n_hidden = max(1, math.ceil(mask_fraction * membership.n_genes - 1e-9))
    last = first.sort(dim=1).values[:, n_hidden - 1 : n_hidden]
    return first <= last


def draw_isolated_program(
    membership: ProgramMembership, n_cells: int, mask_fraction: float | None, *, generator: torch.Generator
) -> tuple[Bool[Tensor, "n_cells n_genes"], Bool[Tensor, "n_cells n_genes"]]:
    """Draw one programme a cell: only its genes are seen, and only they are predicted :cite:p:`richter2025`.

    Parameters
    ----------
    membership
        The programmes.
    n_cells
        Cells to draw for.
    mask_fraction
        Share of the programme's genes to hide as well, so that they cannot be copied: the nearest whole number, at
        least one and never all. None hides none of them.
    generator
        Source of randomness.

    Returns
    -------
    What is hidden, and what is to be predicted: the programme's hidden genes or, where none of them is hidden, all.
    """
    program = torch.randint(len(membership), (n_cells,), generator=generator, device=generator.device)
    cell, gene = membership.entries(program)
    hidden = torch.ones((n_cells, membership.n_genes), dtype=torch.bool, device=generator.device)
    hidden[cell, gene] = False
    scored = ~hidden
    if mask_fraction is not None:
        shut = membership.draw_within(program, mask_fraction, generator=generator)
        scored = torch.zeros_like(hidden)
        scored[cell[shut], gene[shut]] = True
        hidden = hidden | scored
    return hidden, scored


def draw_program_to_tf(
    membership: ProgramMembership, regulators: Int[Tensor, " n_programs"], n_cells: int, *, generator: torch.Generator
) -> tuple[Bool[Tensor, "n_cells n_genes"], Bool[Tensor, "n_cells n_genes"]]:
    """Draw one transcription factor a cell: only its targets are seen, only the factor is predicted.

    The strategy that :cite:t:`richter2025` call gene programme to transcription factor.

    Parameters
    ----------
    membership
        The targets of each factor, the factor itself not among them.
    regulators
        Position of each factor among the genes.
    n_cells
        Cells to draw for.
    generator
        Source of randomness.

    Returns
    -------
    What is hidden, and what is to be predicted.
    """
    program = torch.randint(len(membership), (n_cells,), generator=generator, device=generator.device)
    hidden = torch.ones((n_cells, membership.n_genes), dtype=torch.bool, device=generator.device)
    hidden[membership.entries(program)] = False
    scored = torch.zeros_like(hidden).scatter_(1, regulators[program, None], value=True)
    return hidden | scored, scored
