"""How random minibatches are: distinct source blocks in each, and entropy of labels against a full shuffle.

python benchmarks/randomness.py --atlas work/loaders/atlas --source work/loaders/sources/source_000.h5ad

The atlas was shuffled when it was built; the source is sorted by label and read in blocks of neighbouring cells. The
functions take arrays of positions, one array a minibatch, whatever loader they are from.
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem
from arms import as_markdown
from scipy.stats import binom

from selfcell.core.atomic import atomic_path
from selfcell.data.atlas.index import SHARD_FOLDER, read_index

SETTINGS = ((32, 256), (64, 1024), (256, 32), (256, 128), (512, 32), (16, 1024), (16, 4096))
"""Cells in a block, blocks in the buffer."""


@dataclass(frozen=True)
class Randomness:
    """What was found, averaged over minibatches."""

    n_minibatches: int
    distinct_blocks: float
    entropy: float
    """Of the labels in a minibatch, in bits."""
    lowest_entropy: float
    expected_entropy: float
    """Of as many cells drawn independently: what a full shuffle gives."""


def entropy_of_counts(counts: np.ndarray) -> float:
    """Give the entropy of label counts, in bits."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


def expected_entropy(label_counts: np.ndarray, minibatch_size: int) -> float:
    """Give the mean entropy of the labels of ``minibatch_size`` cells drawn independently, exactly, in bits."""
    drawn = np.arange(1, minibatch_size + 1)
    share = drawn / minibatch_size
    term = -share * np.log2(share)
    frequency = label_counts[label_counts > 0] / label_counts.sum()
    return float(sum(binom.pmf(drawn, minibatch_size, one) @ term for one in frequency))


def measure(
    minibatches: Iterable[np.ndarray], labels: np.ndarray, *, minibatch_size: int, block_size: int
) -> Randomness:
    """Judge full minibatches; one that is not full, such as an epoch's last, is passed over.

    Parameters
    ----------
    minibatches
        Positions (int64) of the cells of each minibatch.
    labels
        Label code of each position, 0 and up.
    minibatch_size
        Cells in a full minibatch.
    block_size
        Positions in a source block: block ``b`` begins at ``b * block_size``.
    """
    n_labels = int(labels.max()) + 1
    blocks, entropies = [], []
    for rows in minibatches:
        if len(rows) == minibatch_size:
            blocks.append(len(np.unique(rows // block_size)))
            entropies.append(entropy_of_counts(np.bincount(labels[rows], minlength=n_labels)))
    if not entropies:
        raise ValueError(f"No minibatch has {minibatch_size} cells.")
    expected = expected_entropy(np.bincount(labels, minlength=n_labels), minibatch_size)
    mean = (float(np.mean(blocks)), float(np.mean(entropies)), float(np.min(entropies)))
    return Randomness(len(entropies), *mean, expected)


def block_plan(
    n_cells: int, *, minibatch_size: int, block_size: int, blocks_in_buffer: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Plan an epoch as block-wise loaders do: shuffle blocks, fill a buffer, shuffle its cells, cut minibatches."""
    order = rng.permutation(-(-n_cells // block_size))
    left = np.empty(0, dtype=np.int64)
    for first in range(0, len(order), blocks_in_buffer):
        starts = order[first : first + blocks_in_buffer] * block_size
        rows = (starts[:, None] + np.arange(block_size)).ravel()
        rows = np.concatenate([left, rng.permutation(rows[rows < n_cells])])
        whole = len(rows) - len(rows) % minibatch_size
        yield from rows[:whole].reshape(-1, minibatch_size)
        left = rows[whole:]
    if len(left):
        yield left


def full_shuffle(n_cells: int, *, minibatch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Plan an epoch without blocks."""
    order = rng.permutation(n_cells)
    for first in range(0, n_cells, minibatch_size):
        yield order[first : first + minibatch_size]


def labels_of_source(path: Path, key: str) -> np.ndarray:
    """Read label codes of an ``.h5ad``, in its order."""
    with h5py.File(path) as file:
        return pd.Categorical(read_elem(file[f"obs/{key}"])).codes.astype(np.int64)


def labels_of_atlas(path: Path, key: str) -> np.ndarray:
    """Read label codes of an atlas, in the order of its shards; no label counts as one."""
    shards = [path / SHARD_FOLDER / shard.name for shard in read_index(path).shards]
    parts = [read_elem(zarr.open_group(shard, mode="r")[f"obs/{key}"]) for shard in shards]
    names = np.concatenate([np.asarray(part).astype(str) for part in parts])
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def plan_of_atlas(path: Path, given: argparse.Namespace) -> Iterator[np.ndarray]:
    """Ask selfcell's own loader which cells each minibatch has."""
    from selfcell.data.stream import stream_cells

    loader = stream_cells(path, minibatch_size=given.minibatch_size, shuffle_seed=given.seed)
    yield from (np.asarray(rows, dtype=np.int64) for rows in loader.plan())


def compare(given: argparse.Namespace) -> pd.DataFrame:
    """Measure all settings on atlas and source."""
    rows = []

    def add(what: str, block_size: int, in_buffer: int | str, plan: Iterable[np.ndarray], labels: np.ndarray) -> None:
        found = measure(plan, labels, minibatch_size=given.minibatch_size, block_size=block_size)
        rows.append(
            {
                "cells": what,
                "block": block_size,
                "blocks in buffer": in_buffer,
                "distinct blocks": round(found.distinct_blocks, 1),
                "entropy": round(found.entropy, 3),
                "lowest": round(found.lowest_entropy, 3),
                "full shuffle": round(found.expected_entropy, 3),
                "lost": round(found.expected_entropy - found.entropy, 3),
                "minibatches": found.n_minibatches,
            }
        )

    for what, path, read in (
        ("atlas, shuffled when built", given.atlas, labels_of_atlas),
        ("source, sorted", given.source, labels_of_source),
    ):
        if path is None:
            continue
        labels = read(path, given.label_key)
        for block_size, in_buffer in [tuple(map(int, one.split("x"))) for one in given.setting] or SETTINGS:
            rng = np.random.default_rng(given.seed)
            sizes = {"minibatch_size": given.minibatch_size, "block_size": block_size}
            add(
                what,
                block_size,
                in_buffer,
                block_plan(len(labels), **sizes, blocks_in_buffer=in_buffer, rng=rng),
                labels,
            )
        rng = np.random.default_rng(given.seed)
        add(what, 1, "all", full_shuffle(len(labels), minibatch_size=given.minibatch_size, rng=rng), labels)
        if path is given.atlas and given.own_plan:
            add("atlas, selfcell's plan", given.own_block_size, "", plan_of_atlas(path, given), labels)
    return pd.DataFrame(rows)


def main() -> None:
    """Measure, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atlas", type=Path, help="folder of an atlas that was shuffled when it was built")
    parser.add_argument("--source", type=Path, help="an .h5ad whose cells are sorted by label")
    parser.add_argument("--label-key", default="cell_type")
    parser.add_argument("--minibatch-size", type=int, default=4096)
    parser.add_argument("--setting", action="append", default=[], help="BLOCKxBLOCKS_IN_BUFFER, may be given again")
    parser.add_argument("--own-plan", action="store_true", help="ask selfcell's loader too")
    parser.add_argument("--own-block-size", type=int, default=256, help="cells in a block of selfcell's loader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the table here, as CSV")
    given = parser.parse_args()
    if given.atlas is None and given.source is None:
        parser.error("Give --atlas, --source or both.")
    table = compare(given)
    if given.out:
        with atomic_path(given.out) as temporary:
            table.to_csv(temporary, index=False)
    print(as_markdown(table))


if __name__ == "__main__":
    main()
