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
        # A product instead of a choice: choices keep the loop from being vectorized.
        kept = np.float32(mixed(place, low, high) >= limit) * factor
        out[place] = settle(values[place], widen(values[place]) * kept)


@no_type_check
@numba.njit(nogil=True, cache=True)
def hide_entries(offsets, low, high, limits, hidden, start, stop):
    """Hide entries whose random number is below the limit of their cell; the place is the counter."""
    for cell in range(start, stop):
        limit = limits[cell]
        for entry in range(offsets[cell], offsets[cell + 1]):
            hidden[entry] = mixed(entry, low, high) < limit


@no_type_check
@numba.njit(nogil=True, cache=True)
def mark_entries(values, hidden, out, start, stop):
    """Change the sign of what is hidden."""
    for entry in range(start, stop):
        out[entry] = values[entry] * (np.float32(1) - np.float32(2) * np.float32(hidden[entry]))


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
def score_genes(
    wanted,
    products,
    bits,
    gene_offsets,
    cells,
    values,
    entry_weight,
    zero_weight,
    bias,
    d_bias,
    loss,
    start,
    stop,
):
    """Turn products of wanted genes' weights with all cells into the derivatives of the squared error, in place.

    ``products`` are wanted genes x cells. A zero weighs ``zero_weight`` of its cell, and a visible or hidden entry what
    ``entry_weight`` has for it. With ``bits``, sets of cells of all genes, what is in the set weighs ``zero_weight``
    and all else nothing; ``entry_weight`` is not looked at. ``values`` are sorted by gene. Loss and ``d_bias`` are of
    the wanted genes.
    """
    n_cells = products.shape[1]
    weight, of_entries = np.empty(n_cells, dtype=np.float32), np.empty(n_cells, dtype=np.float32)
    two = np.float32(2)
    weight[:] = zero_weight
    for number in range(start, stop):
        gene, row, b = wanted[number], products[number], bias[wanted[number]]
        if bits is not None:
            set_weights(bits[gene], zero_weight, weight)
        first, end = gene_offsets[gene], gene_offsets[gene + 1]
        for at in range(first, end):
            of_entries[at - first] = widen(row[cells[at]]) + b
        total, added = np.float32(0), np.float32(0)
        for cell in range(n_cells):
            y = widen(row[cell]) + b
            change = weight[cell] * y
            total += change * y
            added += change
            row[cell] = settle(row[cell], two * change)
        squares, sums = np.float64(total), np.float64(added)
        for at in range(first, end):
            cell, y = cells[at], of_entries[at - first]
            difference = y - abs(values[at])
            as_entry = weight[cell]
            if bits is None:
                as_entry = entry_weight[np.int64(values[at] < 0)]
            squares += as_entry * difference * difference - weight[cell] * y * y
            sums += as_entry * difference - weight[cell] * y
            row[cell] = settle(row[cell], two * as_entry * difference)
        loss[number] = squares
        d_bias[number] = np.float32(2) * sums


@no_type_check
@numba.njit(inline="always")
def set_weights(bits, of_cells, weight):
    """Give the cells of a set the weights ``of_cells``, and the others none."""
    n_whole = len(of_cells) >> 3
    for byte in range(n_whole):
        held = np.uint32(bits[byte])
        for cell in range(8):
            weight[8 * byte + cell] = np.float32((held >> np.uint32(cell)) & np.uint32(1)) * of_cells[8 * byte + cell]
    for cell in range(8 * n_whole, len(of_cells)):
        weight[cell] = np.float32((bits[cell >> 3] >> np.uint8(cell & 7)) & np.uint8(1)) * of_cells[cell]
