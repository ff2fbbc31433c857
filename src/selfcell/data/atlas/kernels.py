"""The inner loops of a build, compiled: rows onto the atlas's genes with a hash of each, and rows to other places."""

from typing import no_type_check

import numba
import numpy as np

_BIT_TABLE = np.zeros(64, dtype=np.int64)
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_BIT_TABLE[[(((1 << _bit) * int(_DE_BRUIJN)) % 2**64) >> 58 for _bit in range(64)]] = np.arange(64)
_HASH_START = np.uint64(0x9E3779B97F4A7C15)
_HASH_FACTOR = np.uint64(0xFF51AFD7ED558CCD)
_LARGEST = np.uint64(2**32 - 1)
_HALF = np.uint64(32)


def remap_rows(
    offsets: np.ndarray, columns: np.ndarray, counts: np.ndarray, new_column: np.ndarray, n_columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Put rows into another order of columns, and hash each.

    Parameters
    ----------
    offsets, columns, counts
        Compressed sparse rows; int64, int32, uint32. Columns ascend within a row, and no count is zero.
    new_column
        For each column its new place (int32), or -1 to leave it out. What comes to the same place is added up.
    n_columns
        Number of new columns.

    Returns
    -------
    lengths, columns, counts, hashes
        Entries of each row (int32); their columns ascending (uint32) and counts (uint32), in arrays as long as the
        old ones of which the first ``lengths.sum()`` are filled; a 64-bit hash of each row's entries.

    Raises
    ------
    OverflowError
        If columns of one gene add up to more than uint32 holds.
    """
    kept = new_column[new_column >= 0]
    in_order = (np.diff(kept) > 0).all()
    remapped: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] = (
        _keep_order(offsets, columns, counts, new_column)
        if in_order
        else _reorder(offsets, columns, counts, new_column, n_columns)
    )
    return remapped


@numba.njit(nogil=True, cache=True)
@no_type_check  # nor wrapped by what checks types: it could not be compiled
def copy_rows(
    source: np.ndarray, begins: np.ndarray, target: np.ndarray, new_begins: np.ndarray, lengths: np.ndarray
) -> None:
    """Copy stretches of bytes from some places to others.

    Parameters
    ----------
    source, target
        Bytes (uint8).
    begins, new_begins, lengths
        Of each stretch: where it begins in ``source`` and in ``target``, and its bytes; int64.
    """
    for stretch in range(len(lengths)):
        length = lengths[stretch]
        here = source[begins[stretch] : begins[stretch] + length]
        there = target[new_begins[stretch] : new_begins[stretch] + length]
        for byte in range(length):
            there[byte] = here[byte]


def as_bytes(array: np.ndarray) -> np.ndarray:
    """View a contiguous array as bytes."""
    return array.reshape(-1).view(np.uint8)


@numba.njit(nogil=True, cache=True)
@no_type_check  # nor wrapped by what checks types: it could not be compiled
def _mixed(mixed: np.uint64, column: int, count: int) -> np.uint64:
    mixed = (mixed ^ ((np.uint64(column) << _HALF) | np.uint64(count))) * _HASH_FACTOR
    return mixed ^ (mixed >> _HALF)


@numba.njit(nogil=True, cache=True)
@no_type_check  # nor wrapped by what checks types: it could not be compiled
def _keep_order(
    offsets: np.ndarray, columns: np.ndarray, counts: np.ndarray, new_column: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    n_rows = len(offsets) - 1
    lengths, hashes = np.zeros(n_rows, dtype=np.int32), np.zeros(n_rows, dtype=np.uint64)
    new_columns, new_counts = np.empty(len(columns), dtype=np.uint32), np.empty(len(columns), dtype=np.uint32)
    place = 0
    for row in range(n_rows):
        begin = place
        mixed = _HASH_START
        for entry in range(offsets[row], offsets[row + 1]):
            column = new_column[columns[entry]]
            if column >= 0:
                new_columns[place] = column
                new_counts[place] = counts[entry]
                mixed = _mixed(mixed, column, counts[entry])
                place += 1
        lengths[row] = place - begin
        hashes[row] = mixed
    return lengths, new_columns, new_counts, hashes


@numba.njit(nogil=True, cache=True)
@no_type_check  # nor wrapped by what checks types: it could not be compiled
def _reorder(
    offsets: np.ndarray, columns: np.ndarray, counts: np.ndarray, new_column: np.ndarray, n_columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Add a row up in place, note which columns it has in a set of bits, and read the bits in order."""
    n_rows = len(offsets) - 1
    lengths, hashes = np.zeros(n_rows, dtype=np.int32), np.zeros(n_rows, dtype=np.uint64)
    new_columns, new_counts = np.empty(len(columns), dtype=np.uint32), np.empty(len(columns), dtype=np.uint32)
    sums = np.zeros(n_columns, dtype=np.uint64)
    present = np.zeros((n_columns + 63) // 64, dtype=np.uint64)
    one = np.uint64(1)
    place = 0
    for row in range(n_rows):
        for entry in range(offsets[row], offsets[row + 1]):
            column = new_column[columns[entry]]
            if column >= 0:
                sums[column] += counts[entry]
                present[column >> 6] |= one << np.uint64(column & 63)
        begin = place
        mixed = _HASH_START
        for word in range(len(present)):
            bits = present[word]
            present[word] = 0
            while bits != 0:
                lowest = bits & (~bits + one)
                bits ^= lowest
                column = (word << 6) + _BIT_TABLE[np.int64((lowest * _DE_BRUIJN) >> np.uint64(58))]
                new_columns[place] = column
                if sums[column] > _LARGEST:
                    raise OverflowError
                new_counts[place] = sums[column]
                mixed = _mixed(mixed, column, sums[column])
                sums[column] = 0
                place += 1
        lengths[row] = place - begin
        hashes[row] = mixed
    return lengths, new_columns, new_counts, hashes
