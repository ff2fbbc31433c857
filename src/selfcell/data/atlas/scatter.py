"""First pass of a build: the cells of an input, block by block, sorted into run files by the shard they go to."""

import dataclasses
import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from selfcell.core.errors import InputError
from selfcell.core.seeds import numpy_rng
from selfcell.data.atlas.census import PRIMARY_COLUMN
from selfcell.data.atlas.index import gene_index_dtype
from selfcell.data.atlas.inputs import CellInput, open_input
from selfcell.data.atlas.kernels import remap_rows
from selfcell.data.atlas.obs import ObsPlan
from selfcell.data.atlas.places import Place, refuse_changed
from selfcell.data.atlas.runs import Block, run_path, write_run
from selfcell.data.atlas.spool import pack_obs

_SPAN = 2**16
_MAX_BLOCK = 2**14
_SHARE_FOR_RUN = 2
"""A run is written when its cells take this part of the memory."""


@dataclass(frozen=True)
class ScatterTask:
    """A stretch of an input, and all that is needed to sort its cells into shards."""

    number: int
    """Of the input."""
    path: Place
    fingerprint: dict[str, Any]
    start: int
    stop: int
    new_column: np.ndarray
    """For each column of the input the gene of the atlas, or -1."""
    n_genes: int
    obs_plan: ObsPlan
    n_shards: int
    first_shard: int
    seed: int
    open_options: dict[str, Any]
    """Of :func:`selfcell.data.atlas.inputs.open_input`."""
    primary_only: bool
    runs: Path
    """Folder for run files."""
    memory_bytes: int


def unheard(n_cells: int) -> None:
    """Take progress that nobody waits for."""
    del n_cells


def scatter(task: ScatterTask, advance: Callable[[int], Any] = unheard) -> None:
    """Write the run files of a stretch of an input.

    Parameters
    ----------
    task
        What to do.
    advance
        Is told the number of cells whenever a run file is done.

    Raises
    ------
    InputError
        If the input cannot be read, is not what it was when the build began, or the disk is full.
    """
    refuse_changed(task.path, task.fingerprint)
    try:
        with open_input(task.path, memory_bytes=task.memory_bytes // 4, **task.open_options) as source:
            _scatter_open(task, source, advance)
    except OSError as error:
        raise explained(error, task.path) from error


def explained(error: OSError, path: Place) -> InputError:
    """Say in words what the system reported while a build read ``path`` or wrote."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return InputError(
            f"There is no room left on the disk ({error.strerror}). Make room and give the same command again: what is "
            "done is kept."
        )
    return InputError(
        f"{path} could not be read to its end: {error}. See whether it is whole and can be reached, then give the same "
        "command again: what is done is kept."
    )


def shards_of(task: ScatterTask, start: int, stop: int) -> np.ndarray:
    """Draw the shard of each cell; that of a cell depends on seed, input and place alone."""
    spans = []
    for span in range(start // _SPAN, -(-stop // _SPAN)):
        rng = numpy_rng(task.seed, "atlas shards", task.first_shard, task.number, span)
        spans.append(rng.integers(task.n_shards, size=_SPAN, dtype=np.int32))
    begin = start // _SPAN * _SPAN
    return np.concatenate(spans)[start - begin : stop - begin]


def _scatter_open(task: ScatterTask, source: CellInput, advance: Callable[[int], Any]) -> None:
    stretch = slice(task.start, task.stop)
    names = source.names()[stretch]
    obs = pack_obs(names, task.obs_plan.frame(source).iloc[stretch], task.obs_plan.columns)
    name_hashes = np.asarray(pd.util.hash_array(np.asarray(names, dtype=object), categorize=False))
    primary = _primary(source, stretch)
    step = max(1, min(source.block_size(task.memory_bytes // 3), _MAX_BLOCK))
    blocks: list[Block] = []
    n_empty = 0
    run_start = task.start
    for start in range(task.start, task.stop, step):
        stop = min(start + step, task.stop)
        here = slice(start - task.start, stop - task.start)
        block = _read_block(task, source, start=start, stop=stop)
        block = dataclasses.replace(block, obs=obs[here], keys=block.keys ^ name_hashes[here])
        n_empty += int((block.lengths[primary[here]] == 0).sum() if task.primary_only else (block.lengths == 0).sum())
        blocks.append(_kept(block, (block.lengths > 0) & (primary[here] | (not task.primary_only))))
        if stop == task.stop or sum(block.n_bytes for block in blocks) > task.memory_bytes // _SHARE_FOR_RUN:
            refuse_changed(task.path, task.fingerprint)
            n_other = int((~primary[run_start - task.start : stop - task.start]).sum())
            about = {"n_cells": stop - run_start, "n_empty": n_empty, "n_not_primary": n_other}
            path = run_path(task.runs, task.number, start=run_start, stop=stop)
            write_run(path, blocks, n_shards=task.n_shards, about=about)
            advance(stop - run_start)
            blocks, n_empty, run_start = [], 0, stop


def _primary(source: CellInput, stretch: slice) -> np.ndarray:
    """Tell which cells are primary data, as all are where nothing is said of it."""
    if PRIMARY_COLUMN not in source.obs_kinds:
        return np.ones(stretch.stop - stretch.start, dtype=bool)
    values = source.obs([PRIMARY_COLUMN])[PRIMARY_COLUMN].iloc[stretch]
    return np.asarray(~values.astype(str).str.lower().isin(["false", "0", "0.0"]), dtype=bool)


def _read_block(task: ScatterTask, source: CellInput, *, start: int, stop: int) -> Block:
    counts = source.read(start, stop)
    try:
        lengths, columns, values, hashes = remap_rows(
            counts.indptr.astype(np.int64),
            counts.indices.astype(np.int32, copy=False),
            counts.data.astype(np.uint32, copy=False),
            task.new_column.astype(np.int32, copy=False),
            task.n_genes,
        )
    except OverflowError as error:
        raise InputError(
            f"{task.path}: columns of one gene add up to more than {2**32 - 1:,} in one of the cells {start:,} to "
            f"{stop:,}. Drop one of the columns."
        ) from error
    n_values = int(lengths.sum())
    values = values[:n_values]
    small = not n_values or int(values.max()) <= np.iinfo(np.uint16).max
    return Block(
        rows=np.arange(start, stop),
        keys=hashes,
        shards=shards_of(task, start, stop),
        lengths=lengths,
        columns=columns[:n_values].astype(gene_index_dtype(task.n_genes)),
        counts=values.astype(np.uint16 if small else np.uint32),
        obs=np.empty(stop - start, dtype=[]),
    )


def _kept(block: Block, kept: np.ndarray) -> Block:
    """Leave some cells out."""
    if kept.all():
        return block
    entries = np.repeat(kept, block.lengths)
    fields = ("rows", "keys", "shards", "lengths", "obs")
    return Block(
        **{field: getattr(block, field)[kept] for field in fields},
        columns=block.columns[entries],
        counts=block.counts[entries],
    )
