"""Loops over non-zero entries that exchange values: between genes of a cell, between cells."""

from typing import no_type_check

import numba
import numpy as np

from selfcell.network.kernels import mixed
from selfcell.pretext.noise_kernels import key_of


@no_type_check
@numba.njit(nogil=True, cache=True)
def swap_entries(low, high, limits, axis, order, place_of, offsets, genes, swapped, start, stop):
    """Give the gene that each entry's value goes to: itself, or its partner on the circle ``order``."""
    n_genes = len(order)
    for cell in range(start, stop):
        key_low, key_high = key_of(cell, low, high)
        for entry in range(offsets[cell], offsets[cell + 1]):
            gene = genes[entry]
            place = np.int64(place_of[gene])
            partner = axis[cell] - place
            if partner < 0:
                partner += n_genes
            # Both of a pair ask for the same draw.
            drawn = np.uint64(mixed(min(place, partner), key_low, key_high)) < limits[cell]
            swapped[entry] = order[partner] if drawn else gene


@no_type_check
@numba.njit(nogil=True, cache=True)
def count_crossed(low, high, limits, other, offsets, genes, counts, start, stop):
    """Count the entries of each cell after some genes were taken from the other one."""
    for cell in range(start, stop):
        key_low, key_high = key_of(cell, low, high)
        n_entries = 0
        for entry in range(offsets[cell], offsets[cell + 1]):
            n_entries += np.uint64(mixed(genes[entry], key_low, key_high)) >= limits[cell]
        donor = other[cell]
        for entry in range(offsets[donor], offsets[donor + 1]):
            n_entries += np.uint64(mixed(genes[entry], key_low, key_high)) < limits[cell]
        counts[cell] = n_entries


@no_type_check
@numba.njit(nogil=True, cache=True)
def cross_entries(
    low,
    high,
    limits,
    other,
    offsets,
    genes,
    values,
    new_offsets,
    new_genes,
    new_values,
    start,
    stop,
):
    """Write the entries of genes that a cell keeps, and those of genes that it takes from the other one."""
    for cell in range(start, stop):
        key_low, key_high = key_of(cell, low, high)
        at = new_offsets[cell]
        for entry in range(offsets[cell], offsets[cell + 1]):
            if np.uint64(mixed(genes[entry], key_low, key_high)) >= limits[cell]:
                new_genes[at], new_values[at] = genes[entry], values[entry]
                at += 1
        donor = other[cell]
        for entry in range(offsets[donor], offsets[donor + 1]):
            if np.uint64(mixed(genes[entry], key_low, key_high)) < limits[cell]:
                new_genes[at], new_values[at] = genes[entry], values[entry]
                at += 1
