"""The passes of a build, each going on from what is on disk: scatter, look for duplicates, gather."""

import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from selfcell.core.atomic import atomic_path
from selfcell.core.errors import InputError
from selfcell.core.words import in_bytes
from selfcell.data.atlas.duplicates import find_duplicates
from selfcell.data.atlas.gather import GatherTask, gather, journal_path
from selfcell.data.atlas.index import SHARD_FOLDER, ShardEntry, SourceEntry, gene_index_dtype
from selfcell.data.atlas.plan import Plan
from selfcell.data.atlas.pool import run_tasks
from selfcell.data.atlas.runs import RunFile, finished_runs, gaps
from selfcell.data.atlas.scatter import ScatterTask, scatter
from selfcell.data.atlas.settings import AtlasSettings

logger = logging.getLogger(__name__)

BUILD_FOLDER, PLAN_NAME = ".build", "plan.json"
_RECORD_BYTES = 100
_SHARE_COMPRESSED = 0.5
_TRIES = 3


@dataclass(frozen=True)
class Workshop:
    """Where a build keeps its things, and what it may use."""

    atlas: Path
    memory_bytes: int
    """For the cells that one worker holds."""
    workers: int
    dask: str | None

    @property
    def folder(self) -> Path:
        """What goes when the build is finished."""
        return self.atlas / BUILD_FOLDER

    @property
    def plan(self) -> Path:
        """The plan."""
        return self.folder / PLAN_NAME

    @property
    def runs(self) -> Path:
        """Folder of the run files."""
        return self.folder / "runs"

    @property
    def journal(self) -> Path:
        """Folder of what says which shards are done."""
        return self.folder / "shards"

    @property
    def scratch(self) -> Path:
        """Folder for what reading some formats needs."""
        return self.folder / "scratch"

    @property
    def shards(self) -> Path:
        """Folder of the shards."""
        return self.atlas / SHARD_FOLDER

    def run(self, function: Callable[..., None], tasks: Sequence[Any], progress: Callable[[], int], bar: tqdm) -> None:
        """Do tasks with a progress bar; ``progress`` counts the cells that are done, from what is on disk."""

        def look() -> None:
            bar.update(progress() - bar.n)

        run_tasks(function, tasks, workers=self.workers, dask=self.dask, advance=bar.update, look=look)


@contextmanager
def _bar(what: str, *, total: int, done: int) -> Iterator[tqdm]:
    """Show cells, cells per second and time left, where there is a terminal."""
    with tqdm(desc=what, total=total, initial=done, unit="cell", unit_scale=True, disable=None) as bar:
        bar.n = done  # a bar that is not shown does not count it
        yield bar


def refuse_full_disk(plan: Plan, shop: Workshop, *, codec: str) -> None:
    """Say how much disk run files and shards will take, and refuse to begin where there is less.

    Raises
    ------
    InputError
        With the room that is needed and there.
    """
    saved = plan.saved
    per_cell = saved.values_per_cell * (gene_index_dtype(len(plan.genes)).itemsize + 2) + _RECORD_BYTES
    share = 1.0 if codec == "none" else _SHARE_COMPRESSED
    begun = [*shop.runs.glob("*.run"), *shop.shards.glob("*/**/*")]
    stays = saved.n_cells * per_cell * share
    logger.info(
        "%s cells of about %s genes each: some %s for the atlas, and %s beside it while it is built.",
        f"{saved.n_cells:,}",
        f"{saved.values_per_cell:,.0f}",
        in_bytes(stays),
        in_bytes(saved.n_cells * per_cell),
    )
    needed = saved.n_cells * per_cell + stays - sum(file.stat().st_size for file in begun if file.is_file())
    free = shutil.disk_usage(shop.atlas).free
    if needed > free:
        raise InputError(
            f"Building needs about {needed / 1e9:,.1f} GB in {shop.atlas} (half of it is free again afterwards), but "
            f"the disk has {free / 1e9:,.1f} GB left. Make room, or build on another disk."
        )


def scatter_all(plan: Plan, shop: Workshop, settings: AtlasSettings) -> tuple[tuple[int, Path], ...]:
    """Do the first pass, as far as it is not done.

    Returns
    -------
    All run files in order, with the number of the first cell of the input among all cells.
    """
    saved = plan.saved
    shop.runs.mkdir(parents=True, exist_ok=True)
    sizes = [source.n_cells for source in saved.inputs]

    def done() -> int:
        stems = [path.stem.split("_") for path in shop.runs.glob("[0-9]*.run")]
        return sum(int(stop) - int(start) for _, start, stop in stems)

    for _ in range(_TRIES):
        found = finished_runs(shop.runs, len(sizes))
        missing = [gaps(runs, n_cells) for runs, n_cells in zip(found, sizes, strict=True)]
        if not any(missing):
            return tuple(
                (base, run.path) for base, runs in zip(saved.first_cells, found, strict=True) for *_, run in runs
            )
        tasks = [
            task for number, stretches in enumerate(missing) for task in _tasks(plan, shop, settings, number, stretches)
        ]
        with _bar("Reading", total=saved.n_cells, done=done()) as bar:
            shop.run(scatter, tasks, done, bar)
    raise InputError(f"Files vanish from {shop.runs}. See to it that nothing else works there, then begin again.")


def _tasks(
    plan: Plan, shop: Workshop, settings: AtlasSettings, number: int, stretches: list[tuple[int, int]]
) -> Iterator[ScatterTask]:
    """Make the tasks of one input: stretches of a size that keeps all workers busy to the end."""
    source = plan.saved.inputs[number]
    longest = plan.saved.n_cells if shop.workers == 1 else math.ceil(plan.saved.n_cells / (2 * shop.workers))
    for start, stop in stretches:
        for begin in range(start, stop, longest):
            yield ScatterTask(
                number=number,
                path=plan.places[number],
                fingerprint=source.fingerprint,
                start=begin,
                stop=min(begin + longest, stop),
                new_column=plan.matches[number].column_of_input,
                n_genes=len(plan.genes),
                obs_plan=plan.obs,
                n_shards=plan.saved.n_shards,
                first_shard=plan.saved.first_shard,
                seed=settings.seed,
                open_options={"layer": settings.layer, "gene_column": settings.gene_column, "scratch": shop.scratch},
                primary_only=settings.primary_only,
                runs=shop.runs,
                memory_bytes=shop.memory_bytes,
            )


def duplicates_of(plan: Plan, shop: Workshop, runs: tuple[tuple[int, Path], ...]) -> tuple[np.ndarray, Path]:
    """Find cells that stand twice.

    Returns
    -------
    numbers, path
        Numbers of the later ones among all cells, ascending; the file that holds them too.
    """
    numbers = find_duplicates(runs, n_cells=plan.saved.n_cells, memory_bytes=shop.memory_bytes)
    path = shop.folder / "duplicates.npy"
    with atomic_path(path) as temporary:
        np.save(temporary, numbers)
    return numbers, path


def gather_all(
    plan: Plan, shop: Workshop, settings: AtlasSettings, runs: tuple[tuple[int, Path], ...], dropped: Path | None
) -> tuple[ShardEntry, ...]:
    """Do the second pass, as far as it is not done, and give the shards in order."""
    shop.journal.mkdir(parents=True, exist_ok=True)
    shop.shards.mkdir(exist_ok=True)
    places = range(plan.saved.n_shards)
    waiting = [place for place in places if not journal_path(shop.journal, place).is_file()]
    per_shard = plan.saved.n_cells / plan.saved.n_shards

    def done() -> int:
        return int(len(list(shop.journal.glob("[0-9]*.json"))) * per_shard)

    n_tasks = 1 if shop.workers == 1 else min(len(waiting), 4 * shop.workers)
    tasks = [
        GatherTask(
            places=tuple(waiting[first::n_tasks]),
            first_shard=plan.saved.first_shard,
            runs=runs,
            dropped=dropped,
            genes=plan.genes,
            columns=plan.obs.columns,
            codec=settings.codec,
            seed=settings.seed,
            shards=shop.shards,
            journal=shop.journal,
        )
        for first in range(n_tasks)
    ]
    with _bar("Writing", total=plan.saved.n_cells, done=done()) as bar:
        shop.run(gather, tasks, done, bar)
    texts = [journal_path(shop.journal, place).read_text(encoding="utf-8") for place in places]
    return tuple(ShardEntry.model_validate_json(text) for text in texts if text.strip() != "null")


def source_entries(
    plan: Plan, shop: Workshop, settings: AtlasSettings, duplicates: np.ndarray
) -> tuple[SourceEntry, ...]:
    """Say of each input what was taken from it, in the log as well."""
    found = finished_runs(shop.runs, len(plan.saved.inputs))
    entries = []
    for source, base, runs, report in zip(plan.saved.inputs, plan.saved.first_cells, found, plan.reports, strict=True):
        begin, end = np.searchsorted(duplicates, [base, base + source.n_cells])
        fate = _fate([run for *_, run in runs], int(end - begin), dropped=settings.duplicates == "drop")
        logger.info("%s: %s.", source.path, tell_fate(fate, settings))
        entries.append(
            SourceEntry(
                path=source.path,
                fingerprint=source.fingerprint,
                n_cells=fate["n_taken"],
                report={**report, "cells": fate},
            )
        )
    return tuple(entries)


def _fate(runs: Sequence[RunFile], n_duplicates: int, *, dropped: bool) -> dict[str, int]:
    """Count what became of the cells of an input."""
    counted = {name: sum(run.header[name] for run in runs) for name in ("n_cells", "n_empty", "n_not_primary")}
    n_kept = sum(int(run.header["cell_offsets"][-1]) for run in runs)
    return counted | {"n_duplicates": n_duplicates, "n_taken": n_kept - n_duplicates * dropped}


def tell_fate(fate: dict[str, int], settings: AtlasSettings) -> str:
    """Say what became of the cells of an input, as its entry in the atlas reports it."""
    parts = [f"{fate['n_taken']:,} of {fate['n_cells']:,} cells"]
    if fate["n_empty"]:
        parts.append(f"{fate['n_empty']:,} without counts in the atlas's genes dropped")
    if fate["n_not_primary"]:
        kept = "dropped" if settings.primary_only else "kept (--primary-only drops them)"
        parts.append(f"{fate['n_not_primary']:,} not primary data {kept}")
    if fate["n_duplicates"]:
        kept = "dropped" if settings.duplicates == "drop" else "kept (--duplicates drop drops them)"
        parts.append(f"{fate['n_duplicates']:,} stand there twice, name and counts alike: {kept}")
    return "; ".join(parts)
