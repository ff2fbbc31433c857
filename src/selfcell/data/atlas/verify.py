"""Look an atlas over: every file against its checksum, and every array against what it has to be."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import zarr

from selfcell.core.digest import sha256_of
from selfcell.data.atlas.index import SHARD_FOLDER, AtlasIndex, CategoryColumn, ShardEntry, read_index
from selfcell.data.atlas.scatter import unheard

_VALUES_AT_ONCE = 2**22
_Advance = Callable[[int], Any]


def verify_atlas(atlas: str | Path, advance: _Advance = unheard) -> list[str]:
    """Check every shard.

    Parameters
    ----------
    atlas
        Folder of the atlas.
    advance
        Is told the number of cells of each shard that is done.

    Returns
    -------
    What is wrong, one line a fault with the file of the shard that has it; none where all is well.

    Raises
    ------
    InputError
        If ``atlas.json`` is missing, damaged, or of another format version.
    """
    index = read_index(atlas)
    faults = []
    for shard in index.shards:
        faults += [f"{SHARD_FOLDER}/{shard.name}{fault}" for fault in verify_shard(Path(atlas), index, shard)]
        advance(shard.n_cells)
    return faults


def verify_shard(atlas: Path, index: AtlasIndex, shard: ShardEntry) -> list[str]:
    """Check one shard and give its faults; the content of files is looked at only where all files are whole."""
    folder = atlas / SHARD_FOLDER / shard.name
    if not folder.is_dir():
        return [": the shard is missing"]
    faults = list(_faulty_files(folder, shard))
    if faults:
        return faults
    try:
        return list(_faulty_content(folder, index, shard))
    except Exception as error:  # noqa: BLE001 - what is damaged is found by whatever stumbles over it
        return [f": cannot be read: {str(error).strip() or type(error).__name__}"]


def _faulty_files(folder: Path, shard: ShardEntry) -> Iterator[str]:
    for name, checksum in shard.sha256.items():
        file = folder / name
        if not file.is_file():
            yield f"/{name}: is missing"
        elif sha256_of(file) != checksum:
            yield f"/{name}: is damaged: its content ({file.stat().st_size:,} bytes) does not fit its checksum"
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.relative_to(folder).as_posix() not in shard.sha256:
            yield f"/{file.relative_to(folder).as_posix()}: does not belong to the shard"


def _faulty_content(folder: Path, index: AtlasIndex, shard: ShardEntry) -> Iterator[str]:
    group: Any = zarr.open_group(folder, mode="r")
    matrix = group["X"]
    genes = index.genes["id"]
    encoding = matrix.attrs.get("encoding-type"), matrix.attrs.get("encoding-version")
    if encoding != ("csr_matrix", "0.1.0"):
        yield f"/X: is encoded as {encoding[0]} {encoding[1]}, not as csr_matrix 0.1.0"
        return
    if list(matrix.attrs["shape"]) != [shard.n_cells, len(genes)]:
        yield f"/X: has shape {json.dumps(matrix.attrs['shape'])}, but atlas.json says [{shard.n_cells}, {len(genes)}]"
    expected = {"data": shard.values_dtype, "indices": index.gene_dtype.name, "indptr": "int64"}
    for name, dtype in expected.items():
        if matrix[name].dtype != np.dtype(dtype):
            yield f"/X/{name}: is {matrix[name].dtype}, not {dtype}"
    offsets = matrix["indptr"][:]
    if len(offsets) != shard.n_cells + 1 or offsets[0] != 0 or (np.diff(offsets) < 0).any():
        yield f"/X/indptr: does not ascend from 0 over {shard.n_cells:,} cells"
    elif not offsets[-1] == shard.n_values == matrix["data"].shape[0] == matrix["indices"].shape[0]:
        n_values = matrix["data"].shape[0]
        yield f"/X/indptr: ends at {offsets[-1]:,}, but there are {n_values:,} values, not {shard.n_values:,}"
    else:
        yield from _faulty_values(matrix, offsets, n_genes=len(genes))
    yield from _faulty_frames(group, index, shard)


def _faulty_values(matrix: Any, offsets: np.ndarray, *, n_genes: int) -> Iterator[str]:
    """Check genes and counts, some million at a time."""
    # Whole, since an array without compression is one chunk.
    all_genes, all_counts = matrix["indices"][:], matrix["data"][:]
    previous = -1
    for start in range(0, int(offsets[-1]), _VALUES_AT_ONCE):
        stop = min(start + _VALUES_AT_ONCE, int(offsets[-1]))
        genes = all_genes[start:stop].astype(np.int64)
        first, last = np.searchsorted(offsets, [start, stop])
        ascends = np.diff(genes, prepend=previous) > 0
        ascends[offsets[first:last] - start] = True
        previous = int(genes[-1])
        if genes.max() >= n_genes:
            yield f"/X/indices: has gene {genes.max():,}, but there are {n_genes:,}"
            return
        if not ascends.all():
            cell = np.searchsorted(offsets, start + int(np.argmin(ascends)), side="right") - 1
            yield f"/X/indices: genes of cell {cell:,} do not ascend"
            return
        if not all_counts[start:stop].all():
            yield "/X/data: has counts of zero"
            return


def _faulty_frames(group: Any, index: AtlasIndex, shard: ShardEntry) -> Iterator[str]:
    var = anndata.io.read_elem(group["var"])
    if tuple(var.index) != index.genes["id"]:
        yield "/var: its genes are not those of the atlas"
    columns = list(group["obs"].attrs["column-order"])
    if columns != list(index.obs_columns):
        yield f"/obs: has columns {columns}, the atlas {list(index.obs_columns)}"
        return
    faults = list(_faulty_codes(group["obs"], index))
    yield from faults
    if not faults and (n_cells := len(anndata.io.read_elem(group["obs"]))) != shard.n_cells:
        yield f"/obs: has {n_cells:,} cells, not {shard.n_cells:,}"


def _faulty_codes(obs: Any, index: AtlasIndex) -> Iterator[str]:
    for name, column in index.obs_columns.items():
        if isinstance(column, CategoryColumn):
            categories = anndata.io.read_elem(obs[name]["categories"])
            codes = obs[name]["codes"][:]
            if tuple(categories) != column.categories[: len(categories)]:
                yield f"/obs/{name}: its categories are not the first of those of the atlas"
            if codes.size and not -1 <= codes.min() <= codes.max() < len(categories):
                yield f"/obs/{name}: has codes {codes.min():,} to {codes.max():,} of {len(categories):,} categories"
