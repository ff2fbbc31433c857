"""Loops that thin counts: each molecule of a cell is kept with one probability, by draws made where they are used."""

from typing import no_type_check

import numba
import numpy as np

from selfcell.network.kernels import mixed
from selfcell.pretext.noise_kernels import key_of

_ALL = np.uint32(0xFFFFFFFF)


@no_type_check
@numba.njit(inline="always")
def _ones_in(bits):
    """Count the bits that are set."""
    bits = np.uint32(bits - (np.uint32(bits >> np.uint32(1)) & np.uint32(0x55555555)))
    bits = np.uint32((bits & np.uint32(0x33333333)) + (np.uint32(bits >> np.uint32(2)) & np.uint32(0x33333333)))
    bits = np.uint32((bits + np.uint32(bits >> np.uint32(4))) & np.uint32(0x0F0F0F0F))
    return np.uint32(np.uint32(bits * np.uint32(0x01010101)) >> np.uint32(24))


@no_type_check
@numba.njit(inline="always")
def _kept_of(count, keep, counter, low, high):
    """Draw how many molecules stay, 32 at a time; give it and the next counter.

    A molecule stays if its uniform number, bit after bit from the highest, comes to lie below the 32 bits of ``keep``:
    one word is one bit for each of 32 molecules, and two bits decide a molecule on average.
    """
    kept = np.int64(0)
    while count > 0:
        undecided = _ALL if count >= 32 else np.uint32((np.uint32(1) << np.uint32(count)) - np.uint32(1))
        place = np.uint32(31)
        for _ in range(32):
            if undecided == 0:
                break
            word = mixed(counter, low, high)
            counter += 1
            if np.uint32(keep >> place) & np.uint32(1):
                kept += _ones_in(np.uint32(undecided & ~word))
                undecided = np.uint32(undecided & word)
            else:
                undecided = np.uint32(undecided & ~word)
            place = np.uint32(place - np.uint32(1))
        count -= 32
    return kept, counter


@no_type_check
@numba.njit(nogil=True, cache=True)
def thin_entries(low, high, limits, touched, offsets, values, thinned, start, stop):
    """Thin the counts of touched cells; a count between whole numbers is rounded to one at random first.

    Of each touched cell ``limits`` is the probability in units of 2^-32, or 0 where every molecule stays.
    """
    for cell in range(start, stop):
        key_low, key_high = key_of(cell, low, high)
        counter = 0
        for entry in range(offsets[cell], offsets[cell + 1]):
            value = values[entry]
            if not touched[cell]:
                thinned[entry] = value
                continue
            whole = np.floor(value)
            count = np.int64(whole)
            if value != whole:
                count += np.float64(mixed(counter, key_low, key_high)) * 2.0**-32 < value - whole
                counter += 1
            if limits[cell] != 0:
                count, counter = _kept_of(count, limits[cell], counter, key_low, key_high)
            thinned[entry] = count


@no_type_check
@numba.njit(nogil=True, cache=True)
def keep_positive(offsets, genes, values, new_offsets, new_genes, new_values, start, stop):
    """Copy the entries above 0."""
    for cell in range(start, stop):
        at = new_offsets[cell]
        for entry in range(offsets[cell], offsets[cell + 1]):
            if values[entry] > 0:
                new_genes[at], new_values[at] = genes[entry], values[entry]
                at += 1
