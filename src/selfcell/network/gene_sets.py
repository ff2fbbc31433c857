"""A set of genes for each cell, one bit a gene and cell: which genes are hidden."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from selfcell.data.minibatch import SparseExpression
from selfcell.network.kernels import in_parts
from selfcell.network.mask_kernels import look_up_bits, unite_bits

_GENES_AT_ONCE = 1024
_CELLS_AT_ONCE = 128
"""A multiple of eight: whole bytes."""


@dataclass(frozen=True)
class GeneSets:
    """Which genes are in the set of each cell, on the CPU."""

    bits: np.ndarray
    """Genes x cells, eight cells a byte, the first of them the lowest bit."""
    n_cells: int

    @classmethod
    def of_mask(cls, mask: Bool[Tensor, "n_cells n_genes"]) -> "GeneSets":
        """Make them of a dense mask."""
        return cls(np.packbits(mask.T.numpy(), axis=1, bitorder="little"), len(mask))

    @classmethod
    def of_genes(cls, genes: Bool[Tensor, " n_genes"], n_cells: int) -> "GeneSets":
        """Give all cells the same set."""
        full = np.where(genes.numpy(), np.uint8(255), np.uint8(0))
        return cls(np.repeat(full[:, None], (n_cells + 7) // 8, axis=1), n_cells)

    @classmethod
    def of_draws(
        cls, draw: Callable[[int], Bool[Tensor, "n_some n_genes"]], *, n_cells: int, n_genes: int
    ) -> "GeneSets":
        """Make them of dense masks that are drawn for some cells after the other, of which no more are held.

        Parameters
        ----------
        draw
            Gives the masks of the next so many cells.
        n_cells, n_genes
            Cells in all, and genes.
        """
        bits = np.empty((n_genes, -(-n_cells // 8)), dtype=np.uint8)
        for start in range(0, n_cells, _CELLS_AT_ONCE):
            part = cls.of_mask(draw(min(_CELLS_AT_ONCE, n_cells - start))).bits
            bits[:, start // 8 : start // 8 + part.shape[1]] = part
        return cls(bits, n_cells)

    @classmethod
    def of_programs(
        cls,
        chosen: Bool[Tensor, "n_cells n_programs"],
        begins: Int[np.ndarray, " n_offsets"],
        programs: Int[np.ndarray, " n_entries"],
    ) -> "GeneSets":
        """Unite the genes of chosen programmes.

        Parameters
        ----------
        chosen
            The programmes of each cell.
        begins, programs
            The programmes of each gene: where they begin, and which they are.
        """
        of_program = np.packbits(chosen.T.numpy(), axis=1, bitorder="little")
        bits = np.empty((len(begins) - 1, of_program.shape[1]), dtype=np.uint8)
        in_parts(unite_bits, begins, programs, of_program, bits, work=begins, n_threads=torch.get_num_threads())
        return cls(bits, len(chosen))

    def sizes(self) -> Int[Tensor, " n_cells"]:
        """Count the genes of each cell's set."""
        sizes = np.zeros(self.n_cells, dtype=np.int64)
        for start in range(0, len(self.bits), _GENES_AT_ONCE):
            sizes += self.mask(slice(start, start + _GENES_AT_ONCE)).sum(axis=0, dtype=np.int32)
        return torch.from_numpy(sizes)

    def mask(self, genes: slice) -> np.ndarray:
        """Give the sets of some genes as zeros and ones: genes x cells, uint8."""
        return np.unpackbits(self.bits[genes], axis=1, count=self.n_cells, bitorder="little")

    def holds(self, expression: SparseExpression) -> Bool[Tensor, " n_values"]:
        """Tell for each entry whether its gene is in the set of its cell."""
        offsets, genes, _ = expression.arrays()
        found = torch.empty(len(genes), dtype=torch.bool)
        in_parts(
            look_up_bits, offsets, genes, self.bits, found.numpy(), work=offsets, n_threads=torch.get_num_threads()
        )
        return found
