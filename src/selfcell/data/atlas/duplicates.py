"""Cells that stand more than once, name and counts alike, found in bounded memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from selfcell.data.atlas.runs import RunFile

_BYTES_PER_CELL = 64


def find_duplicates(runs: Sequence[tuple[int, Path]], *, n_cells: int, memory_bytes: int) -> np.ndarray:
    """Give the numbers of the cells that stood before already, ascending.

    The same barcode with other counts is another cell, as barcodes recur from lane to lane. Name and counts are
    compared by a hash of 64 bits: two different ones are taken for the same with a chance of 3 in a million among 10
    million cells, of 3 in a hundred among a billion.

    Parameters
    ----------
    runs
        Run files, with the number of the first cell of the input among all cells.
    n_cells
        Of all inputs.
    memory_bytes
        To stay under, by looking at a part of the hashes at a time.
    """
    n_parts = 1 + n_cells * _BYTES_PER_CELL // memory_bytes
    found = [_duplicates_in_part(runs, part=part, n_parts=n_parts) for part in range(n_parts)]
    return np.sort(np.concatenate(found))


def _duplicates_in_part(runs: Sequence[tuple[int, Path]], *, part: int, n_parts: int) -> np.ndarray:
    all_keys, all_numbers = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int64)]
    for base, path in runs:
        run = RunFile(path)
        keys = run.whole("keys")
        mine = keys % np.uint64(n_parts) == part
        all_keys.append(keys[mine])
        all_numbers.append(run.whole("rows")[mine] + base)
    keys, numbers = np.concatenate(all_keys), np.concatenate(all_numbers)
    order = np.lexsort((numbers, keys))
    again = np.flatnonzero(keys[order][1:] == keys[order][:-1]) + 1
    return numbers[order[again]]
