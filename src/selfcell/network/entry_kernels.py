"""Loops over the non-zero entries of cells with the rows of weights that they take.

Rows are float32, or the bits of bfloat16. Every loop works on a stretch of cells or genes, each of which one thread
alone writes, so the numbers are the same with any number of threads.

``place`` tells of each gene where it is: its column among the genes that are computed densely, or
:data:`RARE`, computed entry by entry, or :data:`LEFT_OUT`.
"""

from typing import no_type_check

import numba
import numpy as np

from selfcell.network.kernels import FAST, settle, widen

RARE, LEFT_OUT = -1, -2


@no_type_check
@numba.njit(nogil=True, fastmath=FAST, cache=True)
def add_rare_rows(offsets, genes, values, factor, place, weight, dense, out, start, stop):
    """Add to each cell of ``out`` its rare visible entries' values times their genes' rows of ``weight``.

    Its other entries are written into ``dense``, cells x genes that are computed densely.
    """
    n_units = weight.shape[1]
    some = np.empty(len(place) + 1, dtype=np.int64)
    for cell in range(start, stop):
        row, columns, f = out[cell], dense[cell], factor[cell]
        columns[:] = 0
        for entry in range(offsets[cell], offsets[cell + 1]):
            column = place[genes[entry]]
            if column >= 0:
                columns[column] = settle(columns[column], max(values[entry], np.float32(0)) * f)
        at, end = 0, _rare_entries(offsets[cell], offsets[cell + 1], genes, place, some)
        # Four rows at a time: the sum is read and written once for all of them.
        while at + 4 <= end:
            e0, e1, e2, e3 = some[at], some[at + 1], some[at + 2], some[at + 3]
            v0, v1 = max(values[e0], np.float32(0)) * f, max(values[e1], np.float32(0)) * f
            v2, v3 = max(values[e2], np.float32(0)) * f, max(values[e3], np.float32(0)) * f
            w0, w1, w2, w3 = weight[genes[e0]], weight[genes[e1]], weight[genes[e2]], weight[genes[e3]]
            for unit in range(n_units):
                row[unit] += v0 * widen(w0[unit]) + v1 * widen(w1[unit]) + v2 * widen(w2[unit]) + v3 * widen(w3[unit])
            at += 4
        while at < end:
            v0, w0 = max(values[some[at]], np.float32(0)) * f, weight[genes[some[at]]]
            for unit in range(n_units):
                row[unit] += v0 * widen(w0[unit])
            at += 1


@no_type_check
@numba.njit(nogil=True, fastmath=FAST, cache=True)
def score_rare_entries(
    offsets,
    genes,
    place,
    values,
    entry_weight,
    zero_weight,
    weight,
    bias,
    hidden,
    residual,
    d_hidden,
    loss,
    start,
    stop,
):
    """Predict the rare entries, take their squared error, and its gradient on the cells' hidden units.

    Of each entry, with prediction y and truth x: ``w (y - x)^2 - zero_weight y^2`` goes into ``loss`` of the cell, its
    derivative by y into ``residual``, and that times the gene's row of ``weight`` is added to ``d_hidden``.
    ``entry_weight`` has the weight w of visible and of hidden entries.
    """
    n_units = weight.shape[1]
    two = np.float32(2)
    some = np.empty(len(place) + 1, dtype=np.int64)
    for cell in range(start, stop):
        h, dh, z = hidden[cell], d_hidden[cell], zero_weight[cell]
        total = 0.0
        at, end = 0, _rare_entries(offsets[cell], offsets[cell + 1], genes, place, some)
        while at + 4 <= end:
            e0, e1, e2, e3 = some[at], some[at + 1], some[at + 2], some[at + 3]
            g0, g1, g2, g3 = genes[e0], genes[e1], genes[e2], genes[e3]
            w0, w1, w2, w3 = weight[g0], weight[g1], weight[g2], weight[g3]
            y0, y1, y2, y3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            for unit in range(n_units):
                of_cell = widen(h[unit])
                y0 += of_cell * widen(w0[unit])
                y1 += of_cell * widen(w1[unit])
                y2 += of_cell * widen(w2[unit])
                y3 += of_cell * widen(w3[unit])
            y0, y1, y2, y3 = y0 + bias[g0], y1 + bias[g1], y2 + bias[g2], y3 + bias[g3]
            x0, x1, x2, x3 = values[e0], values[e1], values[e2], values[e3]
            s0, s1 = entry_weight[np.int64(x0 < 0)], entry_weight[np.int64(x1 < 0)]
            s2, s3 = entry_weight[np.int64(x2 < 0)], entry_weight[np.int64(x3 < 0)]
            d0, d1, d2, d3 = y0 - abs(x0), y1 - abs(x1), y2 - abs(x2), y3 - abs(x3)
            errors = s0 * d0 * d0 + s1 * d1 * d1 + s2 * d2 * d2 + s3 * d3 * d3
            total += errors - z * (y0 * y0 + y1 * y1 + y2 * y2 + y3 * y3)
            r0, r1 = two * (s0 * d0 - z * y0), two * (s1 * d1 - z * y1)
            r2, r3 = two * (s2 * d2 - z * y2), two * (s3 * d3 - z * y3)
            residual[e0], residual[e1], residual[e2], residual[e3] = r0, r1, r2, r3
            for unit in range(n_units):
                dh[unit] += r0 * widen(w0[unit]) + r1 * widen(w1[unit]) + r2 * widen(w2[unit]) + r3 * widen(w3[unit])
            at += 4
        while at < end:
            e0 = some[at]
            w0, y0 = weight[genes[e0]], bias[genes[e0]]
            for unit in range(n_units):
                y0 += widen(h[unit]) * widen(w0[unit])
            s0, d0 = entry_weight[np.int64(values[e0] < 0)], y0 - abs(values[e0])
            total += s0 * d0 * d0 - z * y0 * y0
            r0 = residual[e0] = two * (s0 * d0 - z * y0)
            for unit in range(n_units):
                dh[unit] += r0 * widen(w0[unit])
            at += 1
        loss[cell] = total


@no_type_check
@numba.njit(nogil=True, cache=True)
def _rare_entries(begin, end, genes, place, found):
    """List the entries whose genes are rare, and give their number."""
    n_found = 0
    for entry in range(begin, end):
        # Written whether it is wanted or not: a choice would often be foreseen wrongly.
        found[n_found] = entry
        n_found += place[genes[entry]] == RARE
    return n_found


@no_type_check
@numba.njit(nogil=True, fastmath=FAST, cache=True)
def add_rows(offsets, genes, values, weight, out, start, stop):
    """Add to each cell of ``out`` its entries' values times their genes' rows of ``weight``."""
    for cell in range(start, stop):
        row = out[cell]
        for entry in range(offsets[cell], offsets[cell + 1]):
            value, w = values[entry], weight[genes[entry]]
            for unit in range(len(row)):
                row[unit] += value * widen(w[unit])


@no_type_check
@numba.njit(nogil=True, fastmath=FAST, cache=True)
def predict_entries(offsets, genes, weight, bias, hidden, outputs, start, stop):
    """Predict entries: each the product of its cell's hidden units and its gene's row of ``weight``, plus the bias."""
    n_units = weight.shape[1]
    for cell in range(start, stop):
        h = hidden[cell]
        for entry in range(offsets[cell], offsets[cell + 1]):
            w, y = weight[genes[entry]], np.float32(0)
            for unit in range(n_units):
                y += widen(h[unit]) * widen(w[unit])
            outputs[entry] = y + bias[genes[entry]]


@no_type_check
@numba.njit(nogil=True, fastmath=FAST, cache=True)
def rows_by_gene(wanted, gene_offsets, cells, values, rows, out, start, stop):
    """Sum for each wanted gene its entries' values times their cells' ``rows``; ``values`` are sorted by gene."""
    n_units = rows.shape[1]
    for number in range(start, stop):
        gene = wanted[number]
        row = out[gene]
        row[:] = 0
        at, end = gene_offsets[gene], gene_offsets[gene + 1]
        while at + 4 <= end:
            v0, v1, v2, v3 = values[at], values[at + 1], values[at + 2], values[at + 3]
            r0, r1, r2, r3 = rows[cells[at]], rows[cells[at + 1]], rows[cells[at + 2]], rows[cells[at + 3]]
            for unit in range(n_units):
                row[unit] += v0 * widen(r0[unit]) + v1 * widen(r1[unit]) + v2 * widen(r2[unit]) + v3 * widen(r3[unit])
            at += 4
        while at < end:
            v0, r0 = values[at], rows[cells[at]]
            for unit in range(n_units):
                row[unit] += v0 * widen(r0[unit])
            at += 1


@no_type_check
@numba.njit(nogil=True, fastmath=FAST, cache=True)
def gather_by_gene(
    wanted,
    gene_offsets,
    cells,
    entries,
    residual,
    rows,
    of_all,
    bias,
    weighted,
    weight,
    n_weighted,
    d_weight,
    d_bias,
    start,
    stop,
):
    """Write the gradients of wanted genes' weights and bias: what all cells add, taken as zeros, and what entries add.

    ``d_weight`` is ``of_all + bias weighted`` plus the entries' residuals times their cells' ``rows``; ``d_bias`` is
    ``weight . weighted + n_weighted bias`` plus the residuals. ``of_all`` and ``weight`` are of the wanted genes alone.
    """
    n_units = rows.shape[1]
    for number in range(start, stop):
        gene = wanted[number]
        row, zero_row, b, w = d_weight[gene], of_all[number], bias[gene], weight[number]
        along = np.float32(0)
        for unit in range(n_units):
            row[unit] = widen(zero_row[unit]) + b * weighted[unit]
            along += widen(w[unit]) * weighted[unit]
        total = along + n_weighted * b
        at, end = gene_offsets[gene], gene_offsets[gene + 1]
        while at + 4 <= end:
            v0, v1 = residual[entries[at]], residual[entries[at + 1]]
            v2, v3 = residual[entries[at + 2]], residual[entries[at + 3]]
            total += v0 + v1 + v2 + v3
            r0, r1, r2, r3 = rows[cells[at]], rows[cells[at + 1]], rows[cells[at + 2]], rows[cells[at + 3]]
            for unit in range(n_units):
                row[unit] += v0 * widen(r0[unit]) + v1 * widen(r1[unit]) + v2 * widen(r2[unit]) + v3 * widen(r3[unit])
            at += 4
        while at < end:
            v0, r0 = residual[entries[at]], rows[cells[at]]
            total += v0
            for unit in range(n_units):
                row[unit] += v0 * widen(r0[unit])
            at += 1
        d_bias[gene] = total


@no_type_check
@numba.njit(nogil=True, cache=True)
def show_entries(values, cells, factor, out, start, stop):
    """Give what the encoder sees of entries: nothing of hidden ones, others times the factor of their cell."""
    for entry in range(start, stop):
        out[entry] = max(values[entry], np.float32(0)) * factor[cells[entry]]


@no_type_check
@numba.njit(nogil=True, cache=True)
def fill_genes(wanted, gene_offsets, cells, values, out, start, stop):
    """Write the values of wanted genes densely: genes x cells. ``values`` are sorted by gene."""
    for number in range(start, stop):
        gene, row = wanted[number], out[number]
        row[:] = 0
        for at in range(gene_offsets[gene], gene_offsets[gene + 1]):
            row[cells[at]] = settle(row[cells[at]], values[at])


@no_type_check
@numba.njit(nogil=True, cache=True)
def count_genes(offsets, genes, counts, part, start, stop):
    """Count the entries of each gene among some cells."""
    of_part = counts[part]
    for entry in range(offsets[start], offsets[stop]):
        of_part[genes[entry]] += 1


@no_type_check
@numba.njit(nogil=True, cache=True)
def place_by_gene(offsets, genes, values, places, part, cells, sorted_values, entries, start, stop):
    """Put the entries of some cells where those of their gene belong, beginning at ``places``, which move on."""
    of_part = places[part]
    for cell in range(start, stop):
        for entry in range(offsets[cell], offsets[cell + 1]):
            gene = genes[entry]
            at = of_part[gene]
            cells[at], sorted_values[at], entries[at] = cell, values[entry], entry
            of_part[gene] = at + 1


@no_type_check
@numba.njit(nogil=True, cache=True)
def look_up_values(offsets, genes, values, asked_offsets, asked_genes, row, found, start, stop):
    """Find the values of some genes of each cell, 0 where it has no entry; ``row`` is room for a cell, all zero."""
    for cell in range(start, stop):
        for entry in range(offsets[cell], offsets[cell + 1]):
            row[genes[entry]] = values[entry]
        for place in range(asked_offsets[cell], asked_offsets[cell + 1]):
            found[place] = row[asked_genes[place]]
        for entry in range(offsets[cell], offsets[cell + 1]):
            row[genes[entry]] = 0
