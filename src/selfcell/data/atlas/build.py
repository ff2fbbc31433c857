"""Build an atlas of many files of cells, in random order and bounded memory, and append to one.

First every input is read once and its cells are sorted, by lot, into run files; then each shard is put together from
the runs and shuffled. The lot of a cell depends on the seed, its input and its place there; so the shards are the same,
byte for byte, whatever the workers and the interruptions, as long as a shard fits into the memory of a worker.
"""

import datetime
import logging
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.data.atlas.census import CensusCells
from selfcell.data.atlas.index import INDEX_NAME, SHARD_FOLDER, AtlasIndex, is_atlas, read_index
from selfcell.data.atlas.lock import LOCK_NAME, locked
from selfcell.data.atlas.passes import (
    BUILD_FOLDER,
    PLAN_NAME,
    Workshop,
    duplicates_of,
    gather_all,
    refuse_full_disk,
    scatter_all,
    source_entries,
)
from selfcell.data.atlas.places import Place, address_of, as_place, fingerprint
from selfcell.data.atlas.plan import SavedPlan, make_plan, read_plan, refuse_other
from selfcell.data.atlas.scatter import explained
from selfcell.data.atlas.settings import AtlasSettings, memory_for_cells, parse_memory

logger = logging.getLogger(__name__)

_OURS = re.compile(rf"{re.escape(INDEX_NAME)}|{SHARD_FOLDER}|\.build|{re.escape(LOCK_NAME)}|\.atlas\..*\.partial\.json")
_OUR_SHARDS = re.compile(r"\d{6}\.zarr|\.\d{6}\..*\.partial")


def build_atlas(
    inputs: Sequence[str | Path | CensusCells],
    out: str | Path,
    *,
    memory: str | int = "2GB",
    workers: int = 1,
    dask: str | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> AtlasIndex:
    """Build an atlas: cells of many files, in random order, in shards that can be streamed.

    A build that was interrupted goes on when the same is asked for again. With more than one worker, call it below
    ``if __name__ == "__main__":``, since the workers import the calling script.

    Parameters
    ----------
    inputs
        Files of cells with raw counts, or cells of the CELLxGENE Census
        (:func:`selfcell.data.atlas.census.find_census_cells`).
    out
        Folder to make.
    memory
        To stay under, all workers together (with Dask, each worker), such as ``"2GB"``.
    workers
        Processes to read and write with.
    dask
        Address of a Dask scheduler whose workers see the same files, to spread the work over them.
    overwrite
        Whether an atlas in ``out`` may be replaced, or an unfinished one with other options.
    settings
        See :class:`selfcell.data.atlas.settings.AtlasSettings`.

    Returns
    -------
    What the atlas consists of.

    Raises
    ------
    InputError
        If an input cannot be used, ``out`` holds something else, or there is too little disk or memory.

    Examples
    --------
    >>> index = selfcell.build_atlas(["lung.h5ad", "liver.h5ad"], "atlas", memory="2GB", source_key="file")
    >>> settings = {"data": {"donor_key": "donor_id"}, "training": {"max_epochs": 2}}
    >>> model = selfcell.pretrain("atlas", settings, out="runs/streamed", show_progress=False)
    """
    options = build(AtlasSettings, settings)
    paths = _checked(inputs)
    shop = _workshop(Path(out), memory=memory, workers=workers, dask=dask)
    _refuse_foreign(shop.atlas)
    with locked(shop.atlas):
        previous = read_plan(shop.plan) if not overwrite else _readable_plan(shop.plan)
        if is_atlas(shop.atlas):
            if previous is not None and previous.kind == "build":
                _clean(shop)  # it was killed between its last two steps
                previous = None
            if not overwrite:
                read_index(shop.atlas)  # says so if it is damaged
                raise InputError(
                    f"{shop.atlas} is an atlas already. Name another folder, replace it (--overwrite), or append to "
                    f"it: selfcell atlas append {shop.atlas} INPUT..."
                )
            previous = None
        else:
            previous = _to_go_on_with(shop, previous, paths, options, overwrite=overwrite)
        return _carry_out(shop, paths, options, atlas=None, previous=previous)


def is_being_changed(atlas: str | Path) -> bool:
    """Tell whether an append to an atlas goes on, or was interrupted."""
    return (Path(atlas) / BUILD_FOLDER / PLAN_NAME).is_file()


def append_to_atlas(
    atlas: str | Path,
    inputs: Sequence[str | Path | CensusCells],
    *,
    memory: str | int = "2GB",
    workers: int = 1,
    dask: str | None = None,
    restart: bool = False,
    **settings: Any,
) -> AtlasIndex:
    """Append cells to an atlas, as new shards, by the settings of its build or, where given, others for these inputs.

    Whoever has the atlas open goes on with what it was. Duplicates are looked for among the new cells only.

    Parameters
    ----------
    atlas
        Folder of the atlas.
    inputs, memory, workers, dask
        See :func:`build_atlas`.
    restart
        Whether an unfinished append of other inputs may be dropped.
    settings
        ``layer``, ``gene_column``, ``gene_aliases``, ``allow_low_overlap`` and ``primary_only`` of
        :class:`selfcell.data.atlas.settings.AtlasSettings` for these inputs; ``rename`` is added to the build's.

    Raises
    ------
    InputError
        As :func:`build_atlas`, and if an input is in the atlas already.

    Examples
    --------
    >>> index = selfcell.append_to_atlas("atlas", ["spleen.h5ad"])
    >>> len(index.sources)
    3
    """
    paths = _checked(inputs)
    shop = _workshop(Path(atlas), memory=memory, workers=workers, dask=dask)
    read_index(shop.atlas)
    with locked(shop.atlas):
        index = read_index(shop.atlas)
        renamed = {**index.settings.get("rename", {}), **settings.pop("rename", {})}
        options = build(AtlasSettings, {**index.settings, **settings, "rename": renamed})
        previous = _readable_plan(shop.plan) if restart else read_plan(shop.plan)
        if previous is not None and previous.first_shard < _next_shard(index):
            _clean(shop)  # it was killed between its last two steps
            previous = None
        _refuse_known(paths, index)
        if previous is not None:
            try:
                refuse_other(previous, "append", paths, options)
            except InputError as error:
                if not restart:
                    raise InputError(str(error).replace("--overwrite", "--restart")) from None
                previous = None
        return _carry_out(shop, paths, options, atlas=index, previous=previous)


def _carry_out(
    shop: Workshop,
    inputs: list[Place],
    settings: AtlasSettings,
    *,
    atlas: AtlasIndex | None,
    previous: SavedPlan | None,
) -> AtlasIndex:
    """Plan, do both passes, and make the result the atlas."""
    started = time.monotonic()
    try:
        shutil.rmtree(shop.scratch, ignore_errors=True)
        shop.scratch.mkdir(parents=True)
        plan = make_plan(
            inputs,
            settings,
            atlas=atlas,
            previous=previous,
            scratch=shop.scratch,
            memory_bytes=shop.memory_bytes,
        )
        if previous is None:
            refuse_full_disk(plan, shop, codec=settings.codec)
            # Only now: had this failed, what was there would still be.
            _clear(shop) if atlas is None else _clean(shop)
            shop.scratch.mkdir(parents=True)
            plan.saved.write(shop.plan)
        else:
            logger.info("Going on with the interrupted %s.", previous.kind)
        runs = scatter_all(plan, shop, settings)
        duplicates, dropped = duplicates_of(plan, shop, runs)
        sources = source_entries(plan, shop, settings, duplicates)
        if not sum(source.n_cells for source in sources):
            shop.plan.unlink()  # going on would come to the same
            raise InputError("No cell is left: none has counts in the atlas's genes, or all are left out on request.")
        shards = gather_all(plan, shop, settings, runs, dropped if settings.duplicates == "drop" else None)
        index = AtlasIndex(
            codec=settings.codec,
            shuffle_seed=settings.seed,
            genes={"id": plan.genes.ids, "symbol": plan.genes.symbols},
            obs_columns=plan.obs.columns,
            shards=(*(atlas.shards if atlas else ()), *shards),
            sources=(*(atlas.sources if atlas else ()), *sources),
            settings=plan.saved.settings if atlas is None else atlas.settings,
        )
        index.write(shop.atlas)
    except OSError as error:
        raise explained(error, shop.atlas) from error
    finally:
        if not shop.plan.is_file():
            # Refused or interrupted before there was anything to go on from.
            shutil.rmtree(shop.folder, ignore_errors=True)
    _clean(shop)
    logger.info("It took %s.", datetime.timedelta(seconds=round(time.monotonic() - started)))
    return index


def _checked(inputs: Sequence[str | Path | CensusCells]) -> list[Place]:
    paths = [as_place(given) for given in inputs]
    if not paths:
        raise InputError("Name at least one file of cells, or a query of the census (--from-census).")
    resolved = [address_of(path.resolve() if isinstance(path, Path) else path) for path in paths]
    twice = [path for path, place in zip(paths, resolved, strict=True) if resolved.count(place) > 1]
    if twice:
        raise InputError(f"{twice[0]} is named twice. Name each file once.")
    return paths


def _workshop(atlas: Path, *, memory: str | int, workers: int, dask: str | None) -> Workshop:
    if workers < 1:
        raise InputError(f"--workers must be 1 or more, but is {workers}.")
    # On a cluster every worker has its own.
    room = memory_for_cells(parse_memory(memory), workers=1 if dask is not None else workers)
    return Workshop(atlas.absolute(), room, workers, dask)


def _refuse_foreign(out: Path) -> None:
    """Refuse a folder that holds anything that no build left there."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file. Name a folder for the atlas.")
    shards = out / SHARD_FOLDER
    foreign = [path for path in out.glob("*") if not _OURS.fullmatch(path.name)]
    foreign += [path for path in shards.glob("*") if not _OUR_SHARDS.fullmatch(path.name)]
    if foreign:
        raise InputError(f"{out} holds other things, such as {foreign[0].name}. Name an empty folder or a new one.")


def _refuse_known(paths: list[Place], index: AtlasIndex) -> None:
    """Refuse to append what is there already."""
    known = [source.fingerprint for source in index.sources]
    for path in paths:
        if (isinstance(path, CensusCells) or path.exists()) and fingerprint(path) in known:
            raise InputError(f"{path} is in the atlas already. Leave it out.")


def _readable_plan(path: Path) -> SavedPlan | None:
    """Read a plan that may be dropped, so it may be damaged as well."""
    try:
        return read_plan(path)
    except InputError:
        return None


def _to_go_on_with(
    shop: Workshop, previous: SavedPlan | None, paths: list[Place], settings: AtlasSettings, *, overwrite: bool
) -> SavedPlan | None:
    """Give the plan to go on with, if there is one."""
    if previous is None:
        if any(shop.shards.glob("*")) and not overwrite:
            raise InputError(
                f"{shop.atlas} has shards but no {INDEX_NAME}. Name another folder, or replace it (--overwrite)."
            )
        return None
    try:
        refuse_other(previous, "build", paths, settings)
    except InputError:
        if not overwrite:
            raise
        return None
    return previous


def _next_shard(index: AtlasIndex) -> int:
    return max((int(Path(shard.name).stem) for shard in index.shards), default=-1) + 1


def _clear(shop: Workshop) -> None:
    """Remove an atlas; first what makes it one."""
    (shop.atlas / INDEX_NAME).unlink(missing_ok=True)
    for folder in (shop.shards, shop.folder):
        shutil.rmtree(folder, ignore_errors=True)


def _clean(shop: Workshop) -> None:
    """Remove what a build kept on its way, and shards that are not of the atlas."""
    named = {shard.name for shard in read_index(shop.atlas).shards}
    for path in shop.shards.glob("*"):
        if path.name not in named:
            shutil.rmtree(path, ignore_errors=True)
    # The plan goes last: without it what else is there would look like another's.
    shop.plan.rename(shop.plan.with_name("done.json")) if shop.plan.is_file() else None
    shutil.rmtree(shop.folder, ignore_errors=True)
