"""Write one shard: a Zarr v3 group in AnnData's layout whose arrays can be read in large blocks."""

import shutil
import uuid
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from anndata.io import write_elem
from zarr.codecs import BloscCodec, BloscShuffle

from selfcell.core.digest import sha256_of
from selfcell.data.atlas.index import Codec, ShardEntry, gene_index_dtype
from selfcell.data.genes import GeneTable

VALUES_PER_CHUNK = 2**19
"""Values in a chunk of a compressed array, some 300 cells."""


def write_shard(
    path: Path,
    *,
    cell_offsets: np.ndarray,
    gene_index: np.ndarray,
    values: np.ndarray,
    obs: pd.DataFrame,
    genes: GeneTable,
    codec: Codec = "none",
) -> ShardEntry:
    """Write a shard, atomically: it is there whole, or not at all.

    Parameters
    ----------
    path
        The shard's folder, ``NAME.zarr``. What a broken-off writer left there is replaced.
    cell_offsets
        Where in ``values`` each cell begins, and at the end their number; ``n_cells + 1`` positions.
    gene_index, values
        Gene (ascending within a cell) and count of each non-zero entry. Counts are stored in the narrowest of uint8,
        uint16 and uint32.
    obs
        Names (the index) and columns of the cells; categoricals with the atlas's categories.
    genes
        The columns, in order.
    codec
        How to compress; see :data:`selfcell.data.atlas.index.Codec`.
    """
    values_dtype = _narrowest(values)
    unfinished = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.partial")
    try:
        group = zarr.open_group(unfinished, mode="w", zarr_format=3)
        group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        matrix = group.create_group("X")
        shape = [len(obs), len(genes)]
        matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})
        arrays = {
            "data": values.astype(values_dtype, copy=False),
            "indices": gene_index.astype(gene_index_dtype(len(genes)), copy=False),
            "indptr": cell_offsets.astype("<i8", copy=False),
        }
        for name, array in arrays.items():
            _write_array(matrix, name, array, codec=codec, folder=unfinished / "X")
        _write_frames(group, obs, genes)
        entry = ShardEntry(
            name=path.name,
            n_cells=len(obs),
            n_values=len(values),
            values_dtype=values_dtype.name,
            sha256=checksums(unfinished),
        )
        shutil.rmtree(path, ignore_errors=True)
        unfinished.replace(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return entry


def checksums(shard: Path) -> dict[str, str]:
    """Give SHA-256 of every file of a shard, by its path in the shard."""
    files = sorted(file for file in shard.rglob("*") if file.is_file())
    return {file.relative_to(shard).as_posix(): sha256_of(file) for file in files}


def refuse_other_content(folder: Path, shard: ShardEntry, *, below: str) -> None:
    """Refuse files of a shard that are not those that were written.

    Parameters
    ----------
    folder
        The shard.
    shard
        What ``atlas.json`` knows of it.
    below
        How the paths begin of the files that are looked at, such as ``obs/``.

    Raises
    ------
    ValueError
        With the first that is another.
    """
    for name, checksum in shard.sha256.items():
        if name.startswith(below) and sha256_of(folder / name) != checksum:
            raise ValueError(f"the content of {name} does not fit its checksum")


def _narrowest(values: np.ndarray) -> np.dtype[Any]:
    largest = int(values.max()) if values.size else 0
    return np.dtype(np.min_scalar_type(largest)).newbyteorder("<")


def _write_array(group: zarr.Group, name: str, array: np.ndarray, *, codec: Codec, folder: Path) -> None:
    """Write a one-dimensional array; uncompressed, its chunk ``c/0`` is the array as it lies in memory."""
    chunk = max(1, len(array) if codec == "none" else min(VALUES_PER_CHUNK, len(array)))
    whole = max(1, -(-len(array) // chunk)) * chunk
    written = group.create_array(
        name,
        shape=array.shape,
        dtype=array.dtype,
        chunks=(chunk,),
        # One file an array: thousands of small files are slow to copy and to list.
        shards=None if codec == "none" else (whole,),
        compressors=None if codec == "none" else BloscCodec(cname=codec, clevel=5, shuffle=BloscShuffle.bitshuffle),
        filters=None,
    )
    if codec == "none":
        # Zarr would copy it twice, and write nothing where all is zero.
        file = folder / name / "c" / "0"
        file.parent.mkdir(parents=True)
        array.tofile(file)
    else:
        written[:] = array


def _write_frames(group: zarr.Group, obs: pd.DataFrame, genes: GeneTable) -> None:
    var = pd.DataFrame({"feature_name": list(genes.names)}, index=pd.Index(genes.ids, dtype=object))
    # An array of zeros has a file too, which can be read by place.
    with warnings.catch_warnings(), zarr.config.set({"array.write_empty_chunks": True}):
        warnings.filterwarnings("ignore", message=".*autosharding.*")
        # Uncompressed and in one chunk, so that codes can be read by their place.
        write_elem(group, "obs", obs, dataset_kwargs={"chunks": (max(1, len(obs)),), "compressors": None})
        write_elem(group, "var", var)
        for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
            write_elem(group, name, {})
