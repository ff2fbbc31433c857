"""Second pass of a build: what all run files have for a shard, put into random order and written."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfcell.core.atomic import write_text
from selfcell.core.seeds import numpy_rng
from selfcell.data.atlas.index import Codec, ObsColumn, ShardEntry
from selfcell.data.atlas.kernels import as_bytes, copy_rows
from selfcell.data.atlas.runs import RunFile
from selfcell.data.atlas.scatter import explained, unheard
from selfcell.data.atlas.shard import write_shard
from selfcell.data.atlas.spool import unpack_obs
from selfcell.data.genes import GeneTable


@dataclass(frozen=True)
class GatherTask:
    """Some shards to write."""

    places: tuple[int, ...]
    """The shards, counted from the first of this build or append."""
    first_shard: int
    runs: tuple[tuple[int, Path], ...]
    """All run files, with the number of the first cell of the input among all cells, in order."""
    dropped: Path | None
    """Numbers of cells to leave out, ascending (``.npy``)."""
    genes: GeneTable
    columns: Mapping[str, ObsColumn]
    codec: Codec
    seed: int
    shards: Path
    journal: Path
    """Folder that says which shards are done."""


def journal_path(journal: Path, place: int) -> Path:
    """Name the file that says that a shard is done."""
    return journal / f"{place:06d}.json"


def gather(task: GatherTask, advance: Callable[[int], Any] = unheard) -> None:
    """Write shards; ``advance`` is told the number of cells of each.

    Raises
    ------
    InputError
        If the disk is full or a run file is damaged.
    """
    runs = [(base, RunFile(path)) for base, path in task.runs]
    dropped = None if task.dropped is None else np.load(task.dropped)
    for place in task.places:
        try:
            entry = _gather_shard(task, runs, dropped, place)
            text = "null" if entry is None else entry.model_dump_json()
            write_text(journal_path(task.journal, place), text)
        except OSError as error:
            raise explained(error, task.shards) from error
        advance(0 if entry is None else entry.n_cells)


def _gather_shard(
    task: GatherTask, runs: list[tuple[int, RunFile]], dropped: np.ndarray | None, place: int
) -> ShardEntry | None:
    lengths = np.concatenate([run.part("lengths", place) for _, run in runs]).astype(np.int64)
    kept = np.ones(len(lengths), dtype=bool)
    if dropped is not None:
        numbers = np.concatenate([run.part("rows", place) + base for base, run in runs])
        kept = ~np.isin(numbers, dropped)
    number = task.first_shard + place
    order = np.flatnonzero(kept)[numpy_rng(task.seed, "atlas order", number).permutation(int(kept.sum()))]
    if not order.size:
        return None
    cell_offsets = np.concatenate([[0], np.cumsum(lengths[order])])
    targets = np.zeros(len(lengths), dtype=np.int64)
    targets[order] = cell_offsets[:-1]
    values = {
        section: _permuted(section, runs, place, lengths=np.where(kept, lengths, 0), read=lengths, targets=targets)
        for section in ("columns", "counts")
    }
    records = np.concatenate([run.part("obs", place) for _, run in runs])[order]
    path = task.shards / f"{number:06d}.zarr"
    entry = write_shard(
        path,
        cell_offsets=cell_offsets,
        gene_index=values["columns"],
        values=values["counts"],
        obs=unpack_obs(records, task.columns),
        genes=task.genes,
        codec=task.codec,
    )
    _sync(path)
    return entry


def _permuted(
    section: str,
    runs: list[tuple[int, RunFile]],
    place: int,
    *,
    lengths: np.ndarray,
    read: np.ndarray,
    targets: np.ndarray,
) -> np.ndarray:
    """Read the entries of a shard and put those of each cell where they belong.

    Parameters
    ----------
    section, runs, place
        What to read.
    lengths, read
        Entries of each cell to keep, 0 where it is left out, and in the runs.
    targets
        Where those of each cell are to begin.
    """
    dtype = np.result_type(*[run.dtype(section) for _, run in runs])
    gathered = np.empty(int(lengths.sum()), dtype=dtype)
    first = 0
    for _, run in runs:
        part = run.part(section, place).astype(dtype, copy=False)
        offsets = run.header["cell_offsets"]
        mine = slice(first, first + int(offsets[place + 1] - offsets[place]))
        begins = np.cumsum(read[mine]) - read[mine]
        size = dtype.itemsize
        copy_rows(as_bytes(part), begins * size, as_bytes(gathered), targets[mine] * size, lengths[mine] * size)
        first = mine.stop
    return gathered


def _sync(shard: Path) -> None:
    """Have the disk hold a shard before the journal says so."""
    for file in [*shard.rglob("*"), shard, shard.parent]:
        if file.is_file() or os.name == "posix":
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
