"""Loops that hide: units, entries, sets of genes.

As those of :mod:`selfcell.network.entry_kernels` they give the same numbers with any number of threads.
"""

from typing import no_type_check

import numba
import numpy as np

from selfcell.network.kernels import FAST, mixed, settle, widen


@no_type_check
@numba.njit(nogil=True, cache=True)
def drop_units(values, out, low, high, limit, factor, start, stop):
    """Set values to zero whose random number is below a limit, and multiply the others; the place is the counter."""
    for place in range(start, stop):
        kept = mixed(place, low, high) >= limit
        out[place] = settle(values[place], widen(values[place]) * factor if kept else np.float32(0))


@no_type_check
@numba.njit(nogil=True, cache=True)
def hide_entries(offsets, low, high, limits, hidden, start, stop):
    """Hide entries whose random number is below the limit of their cell; the place is the counter."""
    for cell in range(start, stop):
        for entry in range(offsets[cell], offsets[cell + 1]):
            hidden[entry] = mixed(entry, low, high) < limits[cell]


@no_type_check
@numba.njit(nogil=True, cache=True)
def keep_entries(
    offsets,
    genes,
    values,
    dropped,
    factor,
    new_offsets,
    new_genes,
    new_values,
    start,
    stop,
):
    """Copy the entries that are not dropped, each cell's times its factor."""
    for cell in range(start, stop):
        at = new_offsets[cell]
        for entry in range(offsets[cell], offsets[cell + 1]):
            if not dropped[entry]:
                new_genes[at] = genes[entry]
                new_values[at] = values[entry] * factor[cell]
                at += 1


@no_type_check
@numba.njit(nogil=True, cache=True)
def unite_bits(begins, programs, chosen, out, start, stop):
    """For each gene, unite the sets of cells of its programmes; a set is bits, eight cells a byte."""
    for gene in range(start, stop):
        row = out[gene]
        row[:] = 0
        for place in range(begins[gene], begins[gene + 1]):
            others = chosen[programs[place]]
            for byte in range(len(row)):
                row[byte] |= others[byte]


@no_type_check
@numba.njit(nogil=True, cache=True)
def look_up_bits(offsets, genes, bits, found, start, stop):
    """Tell for each entry whether its cell is in the set of its gene."""
    for cell in range(start, stop):
        byte, shift = cell >> 3, np.uint8(cell & 7)
        for entry in range(offsets[cell], offsets[cell + 1]):
            found[entry] = (bits[genes[entry], byte] >> shift) & np.uint8(1)


@no_type_check
@numba.njit(nogil=True, fastmath=FAST, cache=True)
def mask_residuals(
    products,
    mask,
    gene_offsets,
    cells,
    entries,
    truth,
    bias,
    factor,
    d_bias,
    loss,
    start,
    stop,
):
    """Turn products of some genes' weights with all cells into the derivatives of the masked squared error, in place.

    ``products`` are genes x cells; ``gene_offsets``, ``cells``, ``entries`` and ``truth`` are of the same
    genes, of which the first is number 0.
    """
    for gene in range(start, stop):
        row, shown, b = products[gene], mask[gene], bias[gene]
        total = np.float32(0)
        added = np.float32(0)
        for cell in range(len(row)):
            y = (widen(row[cell]) + b) * np.float32(shown[cell])
            total += y * y
            added += y
            row[cell] = settle(row[cell], factor * y)
        squares, sums = np.float64(total), np.float64(added)
        for at in range(gene_offsets[gene], gene_offsets[gene + 1]):
            cell = cells[at]
            if shown[cell]:
                x = truth[entries[at]]
                y = widen(row[cell]) / factor
                squares += x * x - np.float32(2) * x * y
                sums -= x
                row[cell] = settle(row[cell], factor * (y - x))
        loss[gene] = squares
        d_bias[gene] = factor * sums
