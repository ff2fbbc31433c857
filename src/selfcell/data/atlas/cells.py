"""Open an atlas as a stream of cells."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from anndata.io import read_elem

from selfcell.core.errors import InputError, did_you_mean
from selfcell.data.atlas.index import SHARD_FOLDER, AtlasIndex, CategoryColumn, is_url, read_index
from selfcell.data.atlas.rows import AtlasCodes, AtlasRows, ShardFiles, missing_or_damaged
from selfcell.data.atlas.shard import refuse_other_content
from selfcell.data.streamed import StreamedCells
from selfcell.data.subset import CellSubset

_SHARDS_AT_ONCE = 8


def open_atlas(path: str | Path, *, cache_folder: str | Path | None = None) -> StreamedCells:
    """Open an atlas. What is appended to it later is not seen.

    Parameters
    ----------
    path
        A folder, or a URL that fsspec can read: https://, s3://, gs:// and others.
    cache_folder
        For a URL: where to keep on disk what was fetched, so that it is fetched once; None for the memory alone, which
        keeps 64 MB. It may grow to the size of the atlas.

    Raises
    ------
    InputError
        If there is no atlas, or one that is not finished, or of another format version; or the server says no.
    """
    files: Any
    if is_url(path):
        from selfcell.data.atlas.remote_rows import open_remote  # noqa: PLC0415 - only URLs need it

        files = open_remote(str(path), cache_folder)
    elif cache_folder is not None:
        raise InputError("A cache folder is for an atlas behind a URL: leave data.cache_folder out.")
    else:
        files = ShardFiles(Path(path), read_index(path))
    rows = AtlasRows(files)
    return StreamedCells(
        rows=rows,
        genes=files.index.gene_table,
        obs=AtlasObs(rows),
        subset=CellSubset(len(rows)),
        origin=str(path).rstrip("/").rpartition("/")[2],
        digest=digest_of(files.index),
    )


def digest_of(index: AtlasIndex) -> str:
    """Give SHA-256 over the genes and the checksums of all shards."""
    content = [index.model_dump(mode="json")["genes"], [shard.sha256 for shard in index.shards]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class AtlasObs:
    """The obs columns of an atlas."""

    def __init__(self, rows: AtlasRows) -> None:
        self.rows = rows
        self.index = rows.files.index
        self.columns = list(self.index.obs_columns)

    def coded(self, key: str) -> tuple[AtlasCodes, tuple[str, ...]]:
        """Give the codes of a column of names, and the names."""
        column = self.index.obs_columns[key]
        if not isinstance(column, CategoryColumn):
            names = [name for name, other in self.index.obs_columns.items() if isinstance(other, CategoryColumn)]
            place = self.rows.files.place.rstrip("/").rpartition("/")[2]
            raise InputError(
                f"obs[{key!r}] of {place} holds a {column.kind} for each cell, not one of a few names. "
                f"{did_you_mean(key, names)}"
            )
        return AtlasCodes(self.rows, key), column.categories

    def frames(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """Give some columns, shard by shard."""
        return self._by_shard(lambda obs: pd.DataFrame({name: pd.Series(read_elem(obs[name])) for name in columns}))

    def table(self, subset: CellSubset) -> pd.DataFrame:
        """Give names and all columns of some cells, in memory."""
        parts, starts = [], self.rows.boundaries
        for start, stop, obs in zip(starts[:-1], starts[1:], self._by_shard(read_elem), strict=True):
            for name, column in self.index.obs_columns.items():
                if isinstance(column, CategoryColumn):
                    obs[name] = obs[name].cat.set_categories(list(column.categories))
            parts.append(obs.iloc[subset.within(int(start), int(stop)) - start])
        return pd.concat(parts)

    def _by_shard(self, read: Callable[[Any], pd.DataFrame]) -> Iterator[pd.DataFrame]:
        # From elsewhere several at once, since each takes some journeys there and back.
        n_at_once = 1 if isinstance(self.rows.files, ShardFiles) else _SHARDS_AT_ONCE
        shards = range(len(self.index.shards))
        for first in shards[::n_at_once]:
            lot = shards[first : first + n_at_once]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", category=UserWarning, module="zarr")
                if n_at_once == 1:
                    found = [self._read_obs(lot[0], read)]
                else:
                    with ThreadPoolExecutor(n_at_once) as pool:
                        found = list(pool.map(lambda shard: self._read_obs(shard, read), lot))
            yield from found

    def _read_obs(self, shard: int, read: Callable[[Any], pd.DataFrame]) -> pd.DataFrame:
        name = self.index.shards[shard].name
        try:
            if isinstance(self.rows.files, ShardFiles):
                # Before it is read: the length of a list of names, damaged, may be more than the memory.
                refuse_other_content(self.rows.files.path / SHARD_FOLDER / name, self.index.shards[shard], below="obs/")
            return read(self.rows.files.open_group(shard)["obs"])
        except Exception as error:
            raise missing_or_damaged(f"{self.rows.files.place}/{SHARD_FOLDER}/{name}/obs", error) from error
