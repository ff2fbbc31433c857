"""Read a part of an atlas back into an AnnData."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import zarr

from selfcell.core.errors import InputError
from selfcell.data.atlas.cells import open_atlas
from selfcell.data.atlas.index import SHARD_FOLDER, CategoryColumn, read_index
from selfcell.data.atlas.verify import verify_shard
from selfcell.data.obs_query import no_cells_message, query_mask


def export_cells(atlas: str | Path, *, where: str | None = None, max_cells: int | None = None) -> anndata.AnnData:
    """Read cells, shard by shard; what is asked for must fit in memory.

    Parameters
    ----------
    atlas
        Folder of the atlas.
    where
        A query on obs, as :meth:`pandas.DataFrame.query` takes it; None for all cells.
    max_cells
        To stop after. The cells of an atlas are in random order, so these are a random part.

    Raises
    ------
    InputError
        If the query cannot be read, no cell fits it, or a shard is damaged.
    """
    index = read_index(atlas)
    parts, n_found = [], 0
    for shard in index.shards:
        faults = verify_shard(Path(atlas), index, shard)
        if faults:
            raise InputError(
                f"{atlas}/{SHARD_FOLDER}/{shard.name}{faults[0]}. Nothing was written. Copy this shard again, or build "
                f"the atlas anew; selfcell atlas verify {atlas} checks all of it."
            )
        group: Any = zarr.open_group(Path(atlas) / SHARD_FOLDER / shard.name, mode="r")
        obs: pd.DataFrame = anndata.io.read_elem(group["obs"])
        rows = np.arange(len(obs)) if where is None else np.flatnonzero(query_mask(obs, where))
        rows = rows if max_cells is None else rows[: max_cells - n_found]
        if rows.size:
            for name, column in index.obs_columns.items():
                if isinstance(column, CategoryColumn):
                    obs[name] = obs[name].cat.set_categories(list(column.categories))
            counts = anndata.io.read_elem(group["X"])[rows]
            parts.append(anndata.AnnData(X=counts, obs=obs.iloc[rows], var=anndata.io.read_elem(group["var"])))
            n_found += rows.size
        if n_found == max_cells:
            break
    if not parts:
        frames = open_atlas(atlas).obs.frames([name for name in index.obs_columns if name in str(where)])
        raise InputError(no_cells_message(str(where), frames))
    whole = anndata.concat(parts, merge="first")
    # Numbers as other tools expect them: they seldom take narrow unsigned integers.
    whole.X = whole.X.astype(np.float32)
    return whole
