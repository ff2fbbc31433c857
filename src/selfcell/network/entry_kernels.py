"""Loops over the non-zero entries of cells with the rows of weights that they take.

Rows are float32, or the bits of bfloat16. Every loop works on a stretch of cells or genes, each of which one thread
alone writes, so the numbers are the same with any number of threads.
"""

from typing import no_type_check

import numba
import numpy as np

from selfcell.network.kernels import FAST, widen


@no_type_check
@numba.njit(nogil=True, fastmath=FAST, cache=True)
def add_rows(offsets, genes, values, weight, out, start, stop):
    """Add to each cell of ``out`` its entries' values times their genes' rows of ``weight``."""
    n_units = weight.shape[1]
    for cell in range(start, stop):
        row = out[cell]
        entry, end = offsets[cell], offsets[cell + 1]
        # Four rows at a time: the sum is read and written once for all of them.
        while entry + 4 <= end:
            v0, v1, v2, v3 = values[entry], values[entry + 1], values[entry + 2], values[entry + 3]
            w0, w1 = weight[genes[entry]], weight[genes[entry + 1]]
            w2, w3 = weight[genes[entry + 2]], weight[genes[entry + 3]]
            for unit in range(n_units):
                row[unit] += v0 * widen(w0[unit]) + v1 * widen(w1[unit]) + v2 * widen(w2[unit]) + v3 * widen(w3[unit])
            entry += 4
        while entry < end:
            v0, w0 = values[entry], weight[genes[entry]]
            for unit in range(n_units):
                row[unit] += v0 * widen(w0[unit])
            entry += 1


@no_type_check
@numba.njit(nogil=True, fastmath=FAST, cache=True)
def score_entries(
    offsets,
    genes,
    truth,
    scored,
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
    """Predict the entries, take their squared error, and its gradient on the cells' hidden units.

    Of each entry, with prediction y: ``scored (y - truth)^2 - zero_weight y^2`` goes into ``loss`` of the cell, its
    derivative by y into ``residual``, and that times the gene's row of ``weight`` is added to ``d_hidden``.
    """
    n_units = weight.shape[1]
    two = np.float32(2)
    for cell in range(start, stop):
        h, dh, z = hidden[cell], d_hidden[cell], zero_weight[cell]
        total = 0.0
        entry, end = offsets[cell], offsets[cell + 1]
        while entry + 4 <= end:
            g0, g1, g2, g3 = genes[entry], genes[entry + 1], genes[entry + 2], genes[entry + 3]
            w0, w1, w2, w3 = weight[g0], weight[g1], weight[g2], weight[g3]
            y0, y1, y2, y3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            for unit in range(n_units):
                of_cell = widen(h[unit])
                y0 += of_cell * widen(w0[unit])
                y1 += of_cell * widen(w1[unit])
                y2 += of_cell * widen(w2[unit])
                y3 += of_cell * widen(w3[unit])
            y0, y1, y2, y3 = y0 + bias[g0], y1 + bias[g1], y2 + bias[g2], y3 + bias[g3]
            s0, s1, s2, s3 = scored[entry], scored[entry + 1], scored[entry + 2], scored[entry + 3]
            e0, e1 = y0 - truth[entry], y1 - truth[entry + 1]
            e2, e3 = y2 - truth[entry + 2], y3 - truth[entry + 3]
            total += s0 * e0 * e0 + s1 * e1 * e1 + s2 * e2 * e2 + s3 * e3 * e3
            total -= z * (y0 * y0 + y1 * y1 + y2 * y2 + y3 * y3)
            r0, r1 = two * (s0 * e0 - z * y0), two * (s1 * e1 - z * y1)
            r2, r3 = two * (s2 * e2 - z * y2), two * (s3 * e3 - z * y3)
            residual[entry], residual[entry + 1], residual[entry + 2], residual[entry + 3] = r0, r1, r2, r3
            for unit in range(n_units):
                dh[unit] += r0 * widen(w0[unit]) + r1 * widen(w1[unit]) + r2 * widen(w2[unit]) + r3 * widen(w3[unit])
            entry += 4
        while entry < end:
            gene = genes[entry]
            w0, y0 = weight[gene], np.float32(0)
            for unit in range(n_units):
                y0 += widen(h[unit]) * widen(w0[unit])
            y0 += bias[gene]
            e0 = y0 - truth[entry]
            total += scored[entry] * e0 * e0 - z * y0 * y0
            r0 = two * (scored[entry] * e0 - z * y0)
            residual[entry] = r0
            for unit in range(n_units):
                dh[unit] += r0 * widen(w0[unit])
            entry += 1
        loss[cell] = total


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
def rows_by_gene(gene_offsets, cells, entries, values, rows, out, start, stop):
    """Sum for each gene its entries' values times their cells' ``rows``; the transpose of :func:`add_rows`."""
    n_units = rows.shape[1]
    for gene in range(start, stop):
        row = out[gene]
        row[:] = 0
        at, end = gene_offsets[gene], gene_offsets[gene + 1]
        while at + 4 <= end:
            v0, v1 = values[entries[at]], values[entries[at + 1]]
            v2, v3 = values[entries[at + 2]], values[entries[at + 3]]
            r0, r1, r2, r3 = rows[cells[at]], rows[cells[at + 1]], rows[cells[at + 2]], rows[cells[at + 3]]
            for unit in range(n_units):
                row[unit] += v0 * widen(r0[unit]) + v1 * widen(r1[unit]) + v2 * widen(r2[unit]) + v3 * widen(r3[unit])
            at += 4
        while at < end:
            v0, r0 = values[entries[at]], rows[cells[at]]
            for unit in range(n_units):
                row[unit] += v0 * widen(r0[unit])
            at += 1


@no_type_check
@numba.njit(nogil=True, fastmath=FAST, cache=True)
def gather_by_gene(
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
    """Write the gradients of each gene's weights and bias: what all cells add, taken as zeros, and what entries add.

    ``d_weight`` is ``of_all + bias weighted`` plus the entries' residuals times their cells' ``rows``; ``d_bias`` is
    ``weight . weighted + n_weighted bias`` plus the residuals.
    """
    n_units = rows.shape[1]
    for gene in range(start, stop):
        row, zero_row, b, w = d_weight[gene], of_all[gene], bias[gene], weight[gene]
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
def count_genes(offsets, genes, counts, part, start, stop):
    """Count the entries of each gene among some cells."""
    of_part = counts[part]
    for entry in range(offsets[start], offsets[stop]):
        of_part[genes[entry]] += 1


@no_type_check
@numba.njit(nogil=True, cache=True)
def place_by_gene(offsets, genes, places, part, cells, entries, start, stop):
    """Put the entries of some cells where those of their gene belong, beginning at ``places``, which move on."""
    of_part = places[part]
    for cell in range(start, stop):
        for entry in range(offsets[cell], offsets[cell + 1]):
            gene = genes[entry]
            cells[of_part[gene]] = cell
            entries[of_part[gene]] = entry
            of_part[gene] += 1


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
