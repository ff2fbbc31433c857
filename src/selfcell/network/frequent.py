"""Which genes are computed densely, since many of the cells express them, and which entry by entry.

Products of matrices do some twenty times the arithmetic in a second that loops over scattered entries do, so a gene
that one cell in twenty expresses is better taken as dense.
"""

from dataclasses import dataclass

import numpy as np
import torch

from selfcell.data.minibatch import SparseExpression
from selfcell.network.by_gene import cells_per_gene
from selfcell.network.entry_kernels import LEFT_OUT, RARE

BREAK_EVEN = {torch.float32: 0.18, torch.bfloat16: 0.12}
"""Share of cells from which a product of matrices is quicker than a loop over entries, measured on a 2-core machine."""


@dataclass(frozen=True)
class Frequent:
    """A division of the genes by the share of cells that express them."""

    genes: np.ndarray
    """Those to be computed densely, ascending."""
    rare: np.ndarray
    """Those to be computed entry by entry, ascending."""
    place: np.ndarray
    """Of every gene the place in ``genes``, or ``RARE``, or ``LEFT_OUT``."""

    @classmethod
    def of(cls, expression: SparseExpression, share: float, *, among: np.ndarray | None = None) -> "Frequent":
        """Divide genes.

        Parameters
        ----------
        expression
            Cells, on the CPU.
        share
            Genes that a larger share of these cells express are computed densely; below 0, all are.
        among
            True for genes that count; None for all.
        """
        often = cells_per_gene(expression) > share * expression.n_cells
        place = np.full(expression.n_genes, RARE, dtype=np.int32)
        if among is not None:
            often &= among
            place[~among] = LEFT_OUT
        genes = np.flatnonzero(often)
        place[genes] = np.arange(len(genes))
        return cls(genes, np.flatnonzero(place == RARE), place)
