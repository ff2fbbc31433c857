"""Two views of the same cells, which an encoder takes in one pass."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from selfcell.data.minibatch import SparseExpression
from selfcell.network.blockwise import BlockwiseExpression
from selfcell.network.encoder import MlpEncoder

View = Tensor | SparseExpression | BlockwiseExpression
"""Cells dense, without their zeros, or with noisy zeros that are made in blocks of genes."""


@dataclass(frozen=True)
class ViewPair:
    """Two views of every cell."""

    first: View
    second: View

    def __iter__(self) -> Iterator[View]:
        return iter((self.first, self.second))

    def embedded(
        self, encoder: MlpEncoder
    ) -> tuple[Float[Tensor, "n_cells n_latent"], Float[Tensor, "n_cells n_latent"]]:
        """Embed both.

        An encoder has no batch norm, so cells do not know of one another and one pass gives what two give. It reads and
        writes the weights of the first layer half as often. Dense views, which would be copied for it, take two.
        """
        stacked = self._stacked
        if stacked is None or not encoder.goes_sparse(stacked.sparse.values):
            return encoder(self.first), encoder(self.second)
        embeddings = encoder(stacked if len(stacked.cells) else stacked.sparse)
        first, second = embeddings.chunk(2)
        return first, second

    @functools.cached_property
    def _stacked(self) -> BlockwiseExpression | None:
        """Both views below one another, unless one is dense."""
        if isinstance(self.first, Tensor) or isinstance(self.second, Tensor):
            return None
        return stacked_cells(_blockwise(self.first), _blockwise(self.second))


def stacked_cells(above: BlockwiseExpression, below: BlockwiseExpression) -> BlockwiseExpression:
    """Put cells below others."""
    first, second = above.sparse, below.sparse
    offsets = [first.cell_offsets, first.cell_offsets[-1] + second.cell_offsets[1:]]
    sparse = SparseExpression(
        torch.cat([first.values, second.values]),
        torch.cat([first.gene_index, second.gene_index]),
        torch.cat(offsets),
        first.n_genes,
    )

    def make_block(genes: slice) -> Tensor:
        return torch.cat([part.make_block(genes) for part in (above, below) if len(part.cells)])

    return BlockwiseExpression(sparse, torch.cat([above.cells, above.n_cells + below.cells]), make_block)


def _blockwise(view: SparseExpression | BlockwiseExpression) -> BlockwiseExpression:
    if isinstance(view, BlockwiseExpression):
        return view

    def make_block(genes: slice) -> Tensor:
        return torch.zeros(0, genes.stop - genes.start)

    return BlockwiseExpression(view, torch.zeros(0, dtype=torch.int64), make_block)
