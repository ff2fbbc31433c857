"""Loops over the non-zero counts, compiled; they let other threads run meanwhile.

They are marked ``no_type_check``, since what checks types at run time in tests cannot be compiled.
"""

from typing import no_type_check

import numba
import numpy as np


@no_type_check
@numba.njit(nogil=True, cache=True)
def gather_cells(
    positions: np.ndarray,
    cell_offsets: np.ndarray,
    gene_index: np.ndarray,
    values: np.ndarray,
    out_genes: np.ndarray,
    out_values: np.ndarray,
) -> int:
    """Copy the entries of some cells, one after the other, into arrays that have room for them; give the largest gene.

    Parameters
    ----------
    positions
        Which cells, by their place in ``cell_offsets``.
    cell_offsets, gene_index, values
        Compressed sparse rows.
    out_genes, out_values
        Where to copy to; values change their type on the way.
    """
    at = 0
    largest = 0
    for position in positions:
        start = cell_offsets[position]
        n_values = cell_offsets[position + 1] - start
        genes = gene_index[start : start + n_values]
        counts = values[start : start + n_values]
        target_genes = out_genes[at : at + n_values]
        target_counts = out_values[at : at + n_values]
        for entry in range(n_values):
            target_genes[entry] = genes[entry]
            largest = max(largest, genes[entry])
        for entry in range(n_values):
            target_counts[entry] = counts[entry]
        at += n_values
    return largest


@no_type_check
@numba.njit(nogil=True, cache=True)
def scatter_cells(cell_offsets: np.ndarray, gene_index: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
    """Write compressed sparse rows into a dense array, zeros included; values in one place are the last one.

    Parameters
    ----------
    cell_offsets, gene_index, values
        Compressed sparse rows; every gene must be below the number of columns.
    out
        Cells x genes.
    """
    for cell in range(out.shape[0]):
        row = out[cell]
        row[:] = 0
        for entry in range(cell_offsets[cell], cell_offsets[cell + 1]):
            row[gene_index[entry]] = values[entry]
