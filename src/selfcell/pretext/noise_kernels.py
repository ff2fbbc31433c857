"""Loops that change single values of cells: noise, and masks over it.

Nothing is stored: what is drawn for a gene of a cell is a function of a seed and of both, made again wherever it is
needed. Each change comes twice: ``..._entries`` takes compressed sparse rows, ``..._block`` some cells x neighboring
genes. Both change values in place, of cells from ``start`` to ``stop``, and give the same numbers with any number of
threads.
"""

from typing import no_type_check

import numba
import numpy as np

from selfcell.network.elementary_kernels import log1p_of
from selfcell.network.kernels import mixed
from selfcell.network.normal_kernels import normal_of

LOOP = {"nogil": True, "cache": True, "error_model": "numpy"}


@no_type_check
@numba.njit(inline="always")
def key_of(cell, low, high):
    """Give the seed of a cell, of two halves."""
    return mixed(2 * cell, low, high), mixed(2 * cell + 1, low, high)


@no_type_check
@numba.njit(inline="always")
def _negative_binomial(gene, low, high):
    """Give ``floor(10 / U) - 10``, U uniform on a grid of 2^-32: counts up to 8.6e10, which one in 4e9 would pass."""
    uniform = (np.float32(mixed(gene, low, high)) + np.float32(0.5)) * np.float32(2.0**-32)
    return np.floor(np.float32(10) / uniform) - np.float32(10)


@no_type_check
@numba.njit(**LOOP)
def sum_negative_binomial(low, high, n_genes, totals, wanted, start, stop):
    """Sum each wanted cell's counts over all genes."""
    for cell in range(start, stop):
        if wanted[cell]:
            key_low, key_high = key_of(cell, low, high)
            # Sums side by side, so that the loop within becomes vector code.
            sums = np.zeros(32)
            for first in range(0, n_genes - 31, 32):
                for lane in range(32):
                    sums[lane] += _negative_binomial(first + lane, key_low, key_high)
            total = sums.sum()
            for gene in range(n_genes - n_genes % 32, n_genes):
                total += _negative_binomial(gene, key_low, key_high)
            totals[cell] = total


@no_type_check
@numba.njit(**LOOP)
def negative_binomial_entries(low, high, factor, scale, offsets, genes, values, start, stop):
    """Add a factor times ``log1p`` of scaled counts."""
    for cell in range(start, stop):
        if factor[cell] != 0:
            key_low, key_high = key_of(cell, low, high)
            for entry in range(offsets[cell], offsets[cell + 1]):
                count = _negative_binomial(genes[entry], key_low, key_high)
                values[entry] += factor[cell] * log1p_of(scale[cell] * count)


@no_type_check
@numba.njit(**LOOP)
def negative_binomial_block(low, high, factor, scale, cells, first_gene, block, start, stop):
    """Add a factor times ``log1p`` of scaled counts."""
    for place in range(start, stop):
        cell, row = cells[place], block[place]
        if factor[cell] != 0:
            key_low, key_high = key_of(cell, low, high)
            times, by = factor[cell], scale[cell]
            for column in range(len(row)):
                count = _negative_binomial(first_gene + column, key_low, key_high)
                row[column] += times * log1p_of(by * count)


@no_type_check
@numba.njit(inline="always")
def _gaussian(gene, low, high, limit, gate_low, gate_high):
    """Give a normal draw, or 0 where the gate is shut."""
    is_open = mixed(gene, gate_low, gate_high) <= limit
    return normal_of(mixed(gene, low, high)) if is_open else np.float32(0)


@no_type_check
@numba.njit(**LOOP)
def gaussian_entries(low, high, limit, gate_low, gate_high, spread, offsets, genes, values, start, stop):
    """Add normal noise to values whose gate is open, and raise to 0 what is below."""
    for cell in range(start, stop):
        if spread[cell] != 0:
            key, gate = key_of(cell, low, high), key_of(cell, gate_low, gate_high)
            for entry in range(offsets[cell], offsets[cell + 1]):
                noise = _gaussian(genes[entry], key[0], key[1], limit, gate[0], gate[1])
                values[entry] = max(values[entry] + spread[cell] * noise, np.float32(0))


@no_type_check
@numba.njit(**LOOP)
def gaussian_block(low, high, limit, gate_low, gate_high, spread, cells, first_gene, block, start, stop):
    """Add normal noise to values whose gate is open, and raise to 0 what is below."""
    for place in range(start, stop):
        cell, row = cells[place], block[place]
        if spread[cell] != 0:
            key, gate = key_of(cell, low, high), key_of(cell, gate_low, gate_high)
            times = spread[cell]
            for column in range(len(row)):
                noise = _gaussian(first_gene + column, key[0], key[1], limit, gate[0], gate[1])
                row[column] = max(row[column] + times * noise, np.float32(0))


@no_type_check
@numba.njit(**LOOP)
def hide_genes_entries(low, high, limit, factor, offsets, genes, values, start, stop):
    """Set values to zero whose random number is below the limit of their cell, and multiply the others."""
    for cell in range(start, stop):
        key_low, key_high = key_of(cell, low, high)
        for entry in range(offsets[cell], offsets[cell + 1]):
            kept = mixed(genes[entry], key_low, key_high) >= limit[cell]
            values[entry] = values[entry] * factor[cell] if kept else np.float32(0)


@no_type_check
@numba.njit(**LOOP)
def hide_genes_block(low, high, limit, factor, cells, first_gene, block, start, stop):
    """Set values to zero whose random number is below the limit of their cell, and multiply the others."""
    for place in range(start, stop):
        cell, row = cells[place], block[place]
        key_low, key_high = key_of(cell, low, high)
        below, times = limit[cell], factor[cell]
        for column in range(len(row)):
            kept = mixed(first_gene + column, key_low, key_high) >= below
            row[column] = row[column] * times if kept else np.float32(0)


@no_type_check
@numba.njit(**LOOP)
def hide_sets_entries(bits, offsets, genes, values, start, stop):
    """Set values to zero whose gene is in the set of their cell; a gene's cells are bits, eight a byte."""
    for cell in range(start, stop):
        byte, shift = cell >> 3, np.uint8(cell & 7)
        for entry in range(offsets[cell], offsets[cell + 1]):
            if (bits[genes[entry], byte] >> shift) & np.uint8(1):
                values[entry] = 0


@no_type_check
@numba.njit(**LOOP)
def hide_sets_block(bits, cells, first_gene, block, start, stop):
    """Set values to zero whose gene is in the set of their cell; a gene's cells are bits, eight a byte."""
    for place in range(start, stop):
        cell, row = cells[place], block[place]
        byte, shift = cell >> 3, np.uint8(cell & 7)
        for column in range(len(row)):
            if (bits[first_gene + column, byte] >> shift) & np.uint8(1):
                row[column] = 0
