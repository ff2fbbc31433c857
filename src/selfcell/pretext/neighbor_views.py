"""The view that mixes a cell with a near neighbor in the minibatch; the others are in :mod:`selfcell.pretext.views`."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from selfcell.pretext.draws import Strength, draw_strength, draw_uniform


def near_neighbors(
    expression: Float[Tensor, "n_cells n_genes"], batch_code: Int[Tensor, " n_cells"] | None = None, *, n_neighbors: int
) -> Bool[Tensor, "n_cells n_cells"]:
    """Find the nearest other cells of each by cosine similarity, exactly.

    Parameters
    ----------
    expression
        Cells. One without counts has no direction: it has no neighbor and is none.
    batch_code
        The experiment of each cell. If given, the nearest are found in every other batch, and none in the cell's own.
    n_neighbors
        How many: of all cells, or of each batch. Fewer where there are fewer.

    Returns
    -------
    True at ``[i, j]`` if cell ``j`` is one of the nearest of cell ``i``.
    """
    direction = normalize(expression, dim=1)
    similarity = direction @ direction.T
    counted = expression.any(dim=1)
    apart = ~torch.eye(len(expression), dtype=torch.bool, device=expression.device) & counted[:, None] & counted
    groups = torch.zeros_like(counted, dtype=torch.int64)
    if batch_code is not None:
        apart &= batch_code[:, None] != batch_code
        groups = batch_code
    near = torch.zeros_like(apart)
    for group in sorted(set(groups.tolist())):
        columns = (groups == group).nonzero()[:, 0]
        allowed = apart[:, columns]
        ranked = similarity[:, columns].masked_fill(~allowed, -torch.inf)
        nearest = ranked.topk(min(n_neighbors, len(columns)), dim=1).indices
        near[:, columns] = torch.zeros_like(allowed).scatter_(1, nearest, True) & allowed
    return near


def mix_neighbors(
    expression: Float[Tensor, "n_cells n_genes"],
    batch_code: Int[Tensor, " n_cells"] | None = None,
    *,
    n_neighbors: int,
    mutual: bool = False,
    weight: Strength,
    probability: float = 1.0,
    generator: torch.Generator,
) -> Float[Tensor, "n_cells n_genes"]:
    """Move a cell some way towards one of its nearest neighbors in the minibatch :cite:p:`yan2023,ovcharenko2025`.

    Neighbors are found anew among the cells at hand, so the view needs no table of all cells, streams to any number of
    them, and cannot take a row of the table for one of the minibatch. The price: in a small minibatch the nearest cell
    may be far, of another type where a type is rare.

    Mixing fills zeros (a gene is zero only where both cells have none), keeps the mean of a gene about as it is and
    pulls cells towards dense regions. It mixes ``log1p`` values, so counts per 10,000 add up to 10,000 at most.

    Parameters
    ----------
    expression
        Cells.
    batch_code
        The experiment of each cell. If given, neighbors are those of every other batch, as in BBKNN
        :cite:p:`polanski2020`; with ``mutual``, mutual nearest neighbors between batches :cite:p:`haghverdi2018`.
    n_neighbors
        How many of the nearest to draw one from; see :func:`near_neighbors`.
    mutual
        Only neighbors that have the cell among their own nearest. A cell without any stays as it is.
    weight
        Share of the neighbor in the mix, from 0 to 1.
    probability
        That a cell is touched.
    generator
        Source of randomness.
    """
    share = draw_strength(len(expression), weight, probability=probability, like=expression, generator=generator)
    near = near_neighbors(expression, batch_code, n_neighbors=n_neighbors)
    if mutual:
        near &= near.T.clone()
    draws = draw_uniform(near.shape, like=expression, generator=generator)
    neighbor = draws.masked_fill(~near, -1.0).argmax(dim=1)
    return torch.lerp(expression, expression[neighbor], share * near.any(dim=1, keepdim=True))
