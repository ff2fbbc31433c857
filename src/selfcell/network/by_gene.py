"""The non-zero entries of some cells, sorted by gene: what gradients of a gene's weights are summed over."""

from dataclasses import dataclass

import numpy as np

from selfcell.network.entry_kernels import count_genes, place_by_gene
from selfcell.network.kernels import threads


@dataclass(frozen=True)
class ByGene:
    """Compressed sparse columns: for each gene, which entries it has, and of which cells; cells ascend."""

    gene_offsets: np.ndarray
    """Where the entries of each gene begin, and at the end their number."""
    cells: np.ndarray
    """Cell of each."""
    entries: np.ndarray
    """Place of each among the entries sorted by cell."""

    @classmethod
    def of(cls, offsets: np.ndarray, genes: np.ndarray, *, n_genes: int, n_threads: int) -> "ByGene":
        """Sort entries by gene.

        Parameters
        ----------
        offsets, genes
            Compressed sparse rows.
        n_genes
            Columns.
        n_threads
            Threads that share the work.
        """
        bounds = np.linspace(0, len(offsets) - 1, n_threads + 1).astype(np.int64)
        parts = [(part, int(bounds[part]), int(bounds[part + 1])) for part in range(n_threads)]
        pool = threads(n_threads)
        counts = np.zeros((n_threads, n_genes), dtype=np.int64)
        for done in [
            pool.submit(count_genes, offsets, genes, counts, part, start, stop) for part, start, stop in parts
        ]:
            done.result()
        gene_offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts.sum(axis=0))])
        places = gene_offsets[:-1] + np.cumsum(counts, axis=0) - counts
        cells, entries = (np.empty(len(genes), dtype=np.int32) for _ in range(2))
        waiting = [
            pool.submit(place_by_gene, offsets, genes, places, part, cells, entries, start, stop)
            for part, start, stop in parts
        ]
        for done in waiting:
            done.result()
        return cls(gene_offsets, cells, entries)
