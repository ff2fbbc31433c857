"""Views: distorted copies of cells that contrastive tasks compare. None edits what it is given.

Every cell tosses its own coin and draws its own strength. A cell whose coin says no comes back as it was, bit for bit.
Strengths are one number for all cells or the two ends of a range. Random numbers are drawn on the generator's device
and moved to that of the cells. ``expression`` is ``log1p`` of counts per 10,000, dense.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from selfcell.data.counts import TARGET_TOTAL
from selfcell.data.minibatch import CellMinibatch
from selfcell.pretext.draws import Strength, draw_strength, draw_uniform
from selfcell.pretext.membership import ProgramMembership
from selfcell.pretext.thinning import thinned_entries, without_zeros

NEGATIVE_BINOMIAL_TOTAL = 10
"""Number of failures of the negative binomial noise."""


def thin_counts(
    minibatch: CellMinibatch, *, keep_fraction: Strength, probability: float = 1.0, generator: torch.Generator
) -> CellMinibatch:
    """Keep each molecule of a cell with one probability, as if it had been sequenced less deeply :cite:p:`gerard2020`.

    Counts stay counts: if they were Poisson they still are. Mean and library size shrink by ``keep_fraction`` and low
    counts drop to zero, more of them the lower the depth; normalized to 10,000, the mean over draws stays and the noise
    grows. A fractional count, as after a correction for ambient RNA, is first rounded at random to one of its two
    neighbors such that its mean is kept. Counts that were recovered from normalized data are thinned like any others,
    which then stands for a depth that those cells never had.

    Parameters
    ----------
    minibatch
        Cells with raw counts.
    keep_fraction
        Probability that a molecule is kept; over 0, up to 1.
    probability
        That a cell is touched.
    generator
        Source of randomness.

    Returns
    -------
    Cells without the entries that came to zero.
    """
    n_cells, values = minibatch.n_cells, minibatch.values
    keep = draw_strength(n_cells, keep_fraction, probability=probability, like=values, generator=generator)[:, 0]
    if values.is_cpu and generator.device.type == "cpu":
        return without_zeros(minibatch, thinned_entries(minibatch, keep, generator=generator))
    keep = keep.repeat_interleave(minibatch.cell_offsets.diff(), output_size=len(values))
    # Not floor(values + uniform): that sum of a large count may round up to the next whole number.
    whole = values.floor() + (draw_uniform(values.shape, like=values, generator=generator) < values.frac())
    device = generator.device
    drawn = torch.binomial(whole.to(device), keep.to(device), generator=generator).to(values.device)
    thinned = torch.where(keep > 0, drawn, values)
    left = thinned > 0
    n_left = torch.cat([minibatch.cell_offsets.new_zeros(1), left.cumsum(0)])
    return CellMinibatch(
        values=thinned[left],
        gene_index=minibatch.gene_index[left],
        cell_offsets=n_left[minibatch.cell_offsets],
        n_genes=minibatch.n_genes,
        codes=minibatch.codes,
    )


def mask_genes(
    expression: Float[Tensor, "n_cells n_genes"],
    *,
    fraction: Strength,
    rescale: bool = False,
    probability: float = 1.0,
    generator: torch.Generator,
) -> Float[Tensor, "n_cells n_genes"]:
    """Set each gene of a cell to zero independently, with the cell's fraction as probability.

    Zeros grow by ``fraction`` of the expressed genes; a hidden gene cannot be told from one that is not expressed. The
    sum of a cell falls by ``fraction`` on average, or keeps its mean with ``rescale``, which raises what stays visible.

    Parameters
    ----------
    expression
        Cells.
    fraction
        Share of genes to hide; from 0, under 1.
    rescale
        Divide what stays visible by ``1 - fraction``.
    probability
        That a cell is touched.
    generator
        Source of randomness.
    """
    share = draw_strength(len(expression), fraction, probability=probability, like=expression, generator=generator)
    hidden = draw_uniform(expression.shape, like=expression, generator=generator) < share
    visible = expression.masked_fill(hidden, 0.0)
    # A share of nearly 1 is 1 in single precision.
    return visible / (1 - share).clamp(min=1e-6) if rescale else visible


def mask_programs(
    expression: Float[Tensor, "n_cells n_genes"],
    membership: ProgramMembership,
    *,
    fraction: Strength,
    probability: float = 1.0,
    generator: torch.Generator,
) -> Float[Tensor, "n_cells n_genes"]:
    r"""Set whole gene programmes of a cell to zero: each programme independently, with the cell's fraction.

    A gene of :math:`n` programmes is hidden with probability :math:`1 - (1 - \text{fraction})^n`, so collections that
    overlap hide more genes than ``fraction``; a gene of no programme is never hidden. Zeros grow in blocks of genes
    that vary together, so that the rest tells less of what is hidden than with single genes. The sum of a cell falls.

    Parameters
    ----------
    expression
        Cells.
    membership
        The programmes.
    fraction
        Share of programmes to hide; from 0, under 1.
    probability
        That a cell is touched.
    generator
        Source of randomness.
    """
    n_cells = expression.shape[0]
    share = draw_strength(n_cells, fraction, probability=probability, like=expression, generator=generator)
    hidden_programs = draw_uniform((n_cells, len(membership)), like=expression, generator=generator) < share
    return expression.masked_fill(membership.union(hidden_programs), 0.0)


def add_gaussian_noise(
    expression: Float[Tensor, "n_cells n_genes"],
    *,
    sigma: Strength,
    gene_fraction: float = 1.0,
    probability: float = 1.0,
    generator: torch.Generator,
) -> Float[Tensor, "n_cells n_genes"]:
    """Add normal noise to a share of the genes of a cell, and raise to 0 what falls below.

    Half of the zeros among the genes drawn become positive, so zeros drop by ``gene_fraction / 2`` of them and, of the
    low values, some come to zero; the mean of a zero rises by about ``0.4 sigma gene_fraction``, that of a
    high value stays. The noise knows no depth: counts per 10,000 no longer sum to 10,000, by much for cells of few
    counts.

    Parameters
    ----------
    expression
        Cells.
    sigma
        Standard deviation, in ``log1p`` units.
    gene_fraction
        Probability that a gene of a cell gets noise.
    probability
        That a cell is touched.
    generator
        Source of randomness.
    """
    spread = draw_strength(len(expression), sigma, probability=probability, like=expression, generator=generator)
    noise = torch.randn(expression.shape, generator=generator, device=generator.device).to(expression)
    noisy = draw_uniform(expression.shape, like=expression, generator=generator) < gene_fraction
    return (expression + noise * noisy * spread).clamp(min=0)


def draw_negative_binomial(
    n_cells: int, n_genes: int, *, like: Tensor, generator: torch.Generator
) -> Float[Tensor, "n_cells n_genes"]:
    r"""Draw counts :math:`k \sim \mathrm{NB}(10, p)` with :math:`p \sim U(0, 1)` anew for each entry.

    Integrated over :math:`p` they have :math:`P(K = k) = 10 / ((k + 10)(k + 11))`, hence
    :math:`P(K \ge k) = 10 / (k + 10)`, which one uniform draw :math:`u` inverts:
    :math:`k = \lfloor 10 / u \rfloor - 10`. They have no finite mean.

    Parameters
    ----------
    n_cells, n_genes
        Shape.
    like
        A tensor of the device and type to give.
    generator
        Source of randomness.
    """
    uniform = 1 - draw_uniform((n_cells, n_genes), like=like, generator=generator)
    return (NEGATIVE_BINOMIAL_TOTAL / uniform).floor() - NEGATIVE_BINOMIAL_TOTAL


def add_negative_binomial_noise(
    expression: Float[Tensor, "n_cells n_genes"],
    *,
    strength: Strength,
    probability: float = 1.0,
    generator: torch.Generator,
) -> Float[Tensor, "n_cells n_genes"]:
    """Add a random cell of negative binomial counts, normalized like a real one :cite:p:`richter2025`.

    The counts of :func:`draw_negative_binomial` are scaled to 10,000 per cell, ``log1p`` is taken and ``strength``
    times that is added. Zeros all but vanish: ten of eleven become positive, and the eleventh drew no count. No value
    falls, so mean and library size rise, in every gene alike on average; the noise is heavy-tailed, so a few genes of
    a cell rise far above the rest. The paper then raises to 0 what is below, which nothing is.

    Parameters
    ----------
    expression
        Cells.
    strength
        Factor on the noise.
    probability
        That a cell is touched; the paper tosses one coin for the whole minibatch instead.
    generator
        Source of randomness.
    """
    n_cells, n_genes = expression.shape
    factor = draw_strength(n_cells, strength, probability=probability, like=expression, generator=generator)
    counts = draw_negative_binomial(n_cells, n_genes, like=expression, generator=generator)
    scale = TARGET_TOTAL / counts.sum(dim=1, keepdim=True).clamp(min=1)
    return expression + torch.log1p(counts * scale) * factor


def swap_genes(
    expression: Float[Tensor, "n_cells n_genes"],
    *,
    fraction: Strength,
    probability: float = 1.0,
    generator: torch.Generator,
) -> Float[Tensor, "n_cells n_genes"]:
    """Exchange the values of random pairs of genes within a cell :cite:p:`han2022`.

    The values of a cell, hence its mean, zeros and library size, stay what they are; which gene has which is wrong for
    the genes swapped. As most genes are zero, highly expressed genes mostly land on genes that are not expressed.

    Parameters
    ----------
    expression
        Cells.
    fraction
        Share of genes to exchange.
    probability
        That a cell is touched.
    generator
        Source of randomness.
    """
    n_cells, n_genes = expression.shape
    share = draw_strength(n_cells, fraction, probability=probability, like=expression, generator=generator)
    # The genes are put on a circle in a random order and paired by a mirror whose axis is drawn per cell: any two
    # genes are equally likely a pair, at most two are left alone, and no cell needs its own sorting of the genes.
    device = generator.device
    place = torch.arange(n_genes, device=expression.device)
    order = torch.randperm(n_genes, generator=generator, device=device).to(expression.device)
    axis = torch.randint(n_genes, (n_cells, 1), generator=generator, device=device).to(expression.device)
    partner = (axis - place) % n_genes
    on_circle = expression[:, order]
    drawn = draw_uniform(expression.shape, like=expression, generator=generator) < share
    swapped = drawn.gather(1, torch.minimum(place, partner))
    return torch.where(swapped, on_circle.gather(1, partner), on_circle)[:, order.argsort()]


def cross_over(
    expression: Float[Tensor, "n_cells n_genes"],
    *,
    fraction: Strength,
    probability: float = 1.0,
    generator: torch.Generator,
) -> Float[Tensor, "n_cells n_genes"]:
    """Take a share of the genes from one other cell of the minibatch :cite:p:`han2022`.

    Every value is a real one of its gene, so that over many cells the mean and zeros of a gene stay as they are. Within
    a cell the sum is a mix of both, and genes of two cell types may stand side by side. A cell alone stays as it is.

    Parameters
    ----------
    expression
        Cells.
    fraction
        Share of genes taken from the other cell.
    probability
        That a cell is touched.
    generator
        Source of randomness.
    """
    n_cells = len(expression)
    share = draw_strength(n_cells, fraction, probability=probability, like=expression, generator=generator)
    distance = torch.randint(1, max(n_cells, 2), (n_cells,), generator=generator, device=generator.device)
    other = (torch.arange(n_cells, device=expression.device) + distance.to(expression.device)) % n_cells
    taken = draw_uniform(expression.shape, like=expression, generator=generator) < share
    return torch.where(taken, expression[other], expression)
