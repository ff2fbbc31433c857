"""Squared error over genes that are computed densely, some at a time: no array of cells x genes is made."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selfcell.data.minibatch import SparseExpression
from selfcell.network.by_gene import ByGene
from selfcell.network.gene_sets import GeneSets
from selfcell.network.kernels import as_bits, in_equal_parts
from selfcell.network.mask_kernels import score_genes

_ENTRIES_AT_ONCE = 2**21
_FEWEST_GENES = 512


@dataclass(frozen=True)
class Gradients:
    """Where the gradients of a last layer are written."""

    hidden: Tensor
    """Of its input: cells x units, added to."""
    weight: Tensor
    bias: Tensor

    @classmethod
    def like(cls, hidden: Tensor, weight: Tensor) -> "Gradients":
        """Make room for them."""
        return cls(torch.zeros(hidden.shape), torch.empty(weight.shape), torch.empty(len(weight)))

    def given_as(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Give them, that of the input in a type."""
        return self.hidden.to(dtype), self.weight, self.bias


def given_away(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
    """Give the gradients that a forward pass has kept as ``ctx.gradients``, times a factor, and keep them no longer.

    Who is the only one to hold a gradient need not copy it.

    Raises
    ------
    RuntimeError
        If they were given already.
    """
    found, ctx.gradients = ctx.gradients, None
    if found is None:
        raise RuntimeError("This loss was differentiated already, and its gradients are gone: compute it anew.")
    if float(factor) != 1.0:
        for part in found:
            if part is not None:
                part.mul_(factor)
    return tuple(found)


def gene_blocks(genes: np.ndarray, *, n_cells: int) -> Iterator[np.ndarray]:
    """Cut genes into stretches whose products with all cells stay in a processor's cache, or nearly so."""
    size = max(_FEWEST_GENES, _ENTRIES_AT_ONCE // max(n_cells, 1))
    for start in range(0, len(genes), size):
        yield genes[start : start + size]


def error_of_genes(
    genes: np.ndarray,
    rows: Tensor,
    bias: Tensor,
    cells: Tensor,
    truth: SparseExpression,
    gradients: Gradients | None,
    *,
    zero_weight: Tensor,
    scored: Float[Tensor, "2"] | GeneSets,
) -> float:
    """Take the squared error of some genes of all cells, zeros included, and its gradients.

    Parameters
    ----------
    genes
        Which genes.
    rows, bias, cells
        Weights, bias and input of the last layer; weights and input in the type of the products.
    truth
        What is predicted.
    gradients
        Where to write those of the genes; that of the input is added to what is there. None takes the error alone.
    zero_weight
        Weight of the zeros of each cell.
    scored
        Weight of visible and of hidden entries; or the genes of each cell that count, zero or not, as ``zero_weight``
        says.
    """
    columns = ByGene.of(truth)
    bits, entry_weight = (scored.bits, torch.zeros(2)) if isinstance(scored, GeneSets) else (None, scored)
    loss = 0.0
    for wanted in gene_blocks(genes, n_cells=truth.n_cells):
        chosen = torch.from_numpy(wanted)
        some = rows[chosen]
        products = some @ cells.T
        d_bias, losses = np.empty(len(wanted), dtype=np.float32), np.empty(len(wanted))
        in_equal_parts(
            score_genes,
            wanted,
            as_bits(products),
            bits,
            columns.gene_offsets,
            columns.cells,
            columns.values,
            entry_weight.numpy(),
            zero_weight.numpy(),
            bias.numpy(),
            d_bias,
            losses,
            n_items=len(wanted),
            n_threads=torch.get_num_threads(),
            work_of_item=truth.n_cells,
        )
        loss += float(losses.sum())
        if gradients is not None:
            gradients.hidden.add_(products.T @ some)
            gradients.weight[chosen] = (products @ cells).float()
            gradients.bias[chosen] = torch.from_numpy(d_bias)
    return loss
