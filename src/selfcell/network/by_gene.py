"""The non-zero entries of some cells, sorted by gene: what gradients of a gene's weights are summed over."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selfcell.data.minibatch import SparseExpression
from selfcell.network.entry_kernels import count_genes, place_by_gene, rows_by_gene
from selfcell.network.kernels import as_bits, in_parts, threads

_MOST_ENTRIES = 2**31


@dataclass(frozen=True)
class ByGene:
    """Compressed sparse columns: for each gene, which entries it has, and of which cells; cells ascend."""

    gene_offsets: np.ndarray
    """Where the entries of each gene begin, and at the end their number."""
    cells: np.ndarray
    """Cell of each."""
    values: np.ndarray
    """Value of each, negative where it is hidden."""
    entries: np.ndarray
    """Place of each among the entries sorted by cell."""

    @classmethod
    def of(cls, expression: SparseExpression) -> "ByGene":
        """Sort the entries of some cells by gene, unless that was done already."""
        if "by_gene" not in expression.derived:
            expression.derived["by_gene"] = cls._sorted(expression)
        by_gene: ByGene = expression.derived["by_gene"]
        return by_gene

    @classmethod
    def _sorted(cls, expression: SparseExpression) -> "ByGene":
        offsets, genes, values = expression.arrays()
        if len(genes) >= _MOST_ENTRIES:
            raise ValueError(f"A minibatch of {len(genes):,} non-zero entries is too large: take fewer cells.")
        counts = _counts_by_part(expression)
        gene_offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts.sum(axis=0))])
        places = gene_offsets[:-1] + np.cumsum(counts, axis=0) - counts
        cells, entries = (np.empty(len(genes), dtype=np.int32) for _ in range(2))
        sorted_values = np.empty(len(genes), dtype=np.float32)
        pool = threads(len(counts))
        waiting = [
            pool.submit(place_by_gene, offsets, genes, values, places, part, cells, sorted_values, entries, start, stop)
            for part, (start, stop) in enumerate(_parts(expression, len(counts)))
        ]
        for done in waiting:
            done.result()
        return cls(gene_offsets, cells, sorted_values, entries)

    def of_genes(self, genes: np.ndarray) -> np.ndarray:
        """Give where the entries of some genes would begin if there were no others, and at the end their number."""
        sizes = self.gene_offsets[genes + 1] - self.gene_offsets[genes]
        return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])


def sum_by_gene(
    wanted: np.ndarray, expression: SparseExpression, values: np.ndarray, cells: Tensor, *, out: Tensor
) -> None:
    """Write for each wanted gene the sum of its entries' values, sorted by gene, times the rows of their cells."""
    columns = ByGene.of(expression)
    in_parts(
        rows_by_gene,
        wanted,
        columns.gene_offsets,
        columns.cells,
        values,
        as_bits(cells),
        out.numpy(),
        work=columns.of_genes(wanted),
        n_threads=torch.get_num_threads(),
    )


def cells_per_gene(expression: SparseExpression) -> np.ndarray:
    """Count the cells that express each gene."""
    if "by_gene" in expression.derived:
        return np.diff(ByGene.of(expression).gene_offsets)
    counts: np.ndarray = _counts_by_part(expression).sum(axis=0)
    return counts


def _counts_by_part(expression: SparseExpression) -> np.ndarray:
    """Count the entries of each gene, in each stretch of cells by itself."""
    if "counts" not in expression.derived:
        offsets, genes, _ = expression.arrays()
        n_parts = torch.get_num_threads()
        counts = np.zeros((n_parts, expression.n_genes), dtype=np.int64)
        pool = threads(n_parts)
        waiting = [
            pool.submit(count_genes, offsets, genes, counts, part, start, stop)
            for part, (start, stop) in enumerate(_parts(expression, n_parts))
        ]
        for done in waiting:
            done.result()
        expression.derived["counts"] = counts
    found: np.ndarray = expression.derived["counts"]
    return found


def _parts(expression: SparseExpression, n_parts: int) -> list[tuple[int, int]]:
    bounds = np.linspace(0, expression.n_cells, n_parts + 1).astype(np.int64).tolist()
    return list(itertools.pairwise(bounds))
