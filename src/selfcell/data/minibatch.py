"""The one shape in which cells travel to the network."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from selfcell.data.counts import TARGET_TOTAL
from selfcell.data.kernels import scale_cells, scatter_cells


@dataclass(slots=True)
class SparseExpression:
    """``log1p`` of counts per 10,000 of some cells, or their counts, without the zeros (compressed sparse rows).

    Entries may be hidden from the encoder: their values are negative then, and it sees zeros. No gene is named twice in
    a cell, and no value is 0; counts are checked for both where they are read.
    """

    values: Float[Tensor, " n_values"]
    """Above 0, or less the value where it is hidden."""
    gene_index: Int[Tensor, " n_values"]
    """Gene of each entry."""
    cell_offsets: Int[Tensor, " n_offsets"]
    """Where in ``values`` each cell begins, and at the end their number: ``n_cells + 1`` positions."""
    n_genes: int
    factor: Float[Tensor, " n_cells"] | None = None
    """What visible values of each cell are multiplied by, for the encoder alone."""
    derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What was found out of the entries, kept for its next use. Nothing else may be changed thereafter."""

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.cell_offsets.shape[0] - 1

    def dense(self) -> Float[Tensor, "n_cells n_genes"]:
        """Give what the encoder sees, with the zeros."""
        return _dense(self.visible(), self.gene_index, self.cell_offsets, self.n_genes)

    def visible(self) -> Float[Tensor, " n_values"]:
        """Give the values that the encoder sees; zero where they are hidden."""
        values = self.values.clamp(min=0)
        if self.factor is None:
            return values
        return values * self.factor[index_of_cells(self.cell_offsets, len(values))]

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give offsets, genes and values to compiled loops; on the CPU only, without a copy."""
        return self.cell_offsets.numpy(), self.gene_index.numpy(), self.values.detach().numpy()


@dataclass(slots=True)
class CellMinibatch:
    """Some cells as sparse counts (compressed sparse rows), with integer codes of what is known of them."""

    values: Float[Tensor, " n_values"]
    """Raw counts of the non-zero entries."""
    gene_index: Int[Tensor, " n_values"]
    """Gene of each entry."""
    cell_offsets: Int[Tensor, " n_offsets"]
    """Where in ``values`` each cell begins, and at the end their number: ``n_cells + 1`` positions."""
    n_genes: int
    codes: Mapping[str, Int[Tensor, " n_cells"]] = field(default_factory=dict)
    """Codes of the obs columns that were asked for, such as ``label``."""
    weight: float = 1.0
    """How much these cells count beside those of other processes, where these have more or fewer cells."""
    known_library_size: Float[Tensor, " n_cells"] | None = None
    """Counts per cell, where whoever made the minibatch has summed them."""

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.cell_offsets.shape[0] - 1

    @property
    def cell_index(self) -> Int[Tensor, " n_values"]:
        """Cell of each entry of ``values``."""
        return index_of_cells(self.cell_offsets, len(self.values))

    @property
    def library_size(self) -> Float[Tensor, " n_cells"]:
        """Counts per cell, over the encoder's genes."""
        if self.known_library_size is not None:
            return self.known_library_size
        size = torch.zeros(self.n_cells, device=self.values.device, dtype=self.values.dtype)
        return size.index_add_(0, self.cell_index, self.values)

    def expression(self, out: Float[Tensor, "n_cells n_genes"] | None = None) -> Float[Tensor, "n_cells n_genes"]:
        """``log1p`` of counts scaled to 10,000 per cell, dense. A cell without counts is all zero.

        Written into ``out`` where it is given.
        """
        values = torch.log1p(self.values * self._scale[self.cell_index])
        return _dense(values, self.gene_index, self.cell_offsets, self.n_genes, out)

    @property
    def _scale(self) -> Float[Tensor, " n_cells"]:
        return TARGET_TOTAL / self.library_size.clamp(min=torch.finfo(self.values.dtype).tiny)

    def sparse_expression(self) -> SparseExpression:
        """Give what :meth:`expression` gives, without the zeros."""
        if self.values.is_cpu:
            scaled = torch.empty_like(self.values)
            parts = (self.cell_offsets, self.values, scaled)
            scale_cells(*(part.numpy() for part in parts), TARGET_TOTAL)
        else:
            scaled = self.values * self._scale[self.cell_index]
        return SparseExpression(scaled.log1p_(), self.gene_index, self.cell_offsets, self.n_genes)

    def sparse_counts(self) -> SparseExpression:
        """Give what :meth:`counts` gives, without the zeros."""
        return SparseExpression(self.values, self.gene_index, self.cell_offsets, self.n_genes)

    def counts(self, out: Float[Tensor, "n_cells n_genes"] | None = None) -> Float[Tensor, "n_cells n_genes"]:
        """Raw counts, dense; written into ``out`` where it is given, which saves the making of a large array."""
        return _dense(self.values, self.gene_index, self.cell_offsets, self.n_genes, out)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "CellMinibatch":
        """Give the same cells on another device."""
        return CellMinibatch(
            values=self.values.to(device, non_blocking=non_blocking),
            gene_index=self.gene_index.to(device, non_blocking=non_blocking),
            cell_offsets=self.cell_offsets.to(device, non_blocking=non_blocking),
            n_genes=self.n_genes,
            codes={key: code.to(device, non_blocking=non_blocking) for key, code in self.codes.items()},
            weight=self.weight,
            known_library_size=None
            if self.known_library_size is None
            else self.known_library_size.to(device, non_blocking=non_blocking),
        )


def index_of_cells(cell_offsets: Int[Tensor, " n_offsets"], n_values: int) -> Int[Tensor, " n_values"]:
    """Give the cell of each entry of compressed sparse rows; a GPU that is told their number need not be waited for."""
    cells = torch.arange(len(cell_offsets) - 1, device=cell_offsets.device)
    return cells.repeat_interleave(cell_offsets.diff(), output_size=n_values)


def _dense(
    values: Tensor, gene_index: Tensor, cell_offsets: Tensor, n_genes: int, out: Tensor | None = None
) -> Float[Tensor, "n_cells n_genes"]:
    shape = (len(cell_offsets) - 1, n_genes)
    if values.is_cpu and not values.requires_grad:
        dense = torch.empty(shape, dtype=values.dtype) if out is None else out
        parts = (cell_offsets, gene_index, values, dense)
        scatter_cells(*(part.numpy() for part in parts), n_threads=torch.get_num_threads())
        return dense
    dense = torch.zeros(shape, device=values.device, dtype=values.dtype) if out is None else out.zero_()
    dense[index_of_cells(cell_offsets, len(values)), gene_index] = values
    return dense
