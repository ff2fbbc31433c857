"""Open an AnnData on disk, .h5ad or .zarr, without reading its matrix; old layouts too."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import pandas as pd
import zarr

from selfcell.data.atlas.count_blocks import CountBlocks, DenseRows, SparseRows
from selfcell.data.atlas.input_parts import Candidate, InputParts
from selfcell.data.atlas.table_columns import StoredColumns
from selfcell.data.atlas.transpose import SparseColumns


def open_anndata(root: Any, *, scratch: Path, memory_bytes: int) -> InputParts:
    """Open an AnnData.

    Parameters
    ----------
    root
        The open HDF5 file or Zarr group.
    scratch, memory_bytes
        For counts stored by genes; see :class:`selfcell.data.atlas.transpose.RowsOnDisk`.

    Raises
    ------
    ValueError, KeyError
        If something is missing or does not fit.
    """
    opened: list[SparseColumns] = []

    def candidate(address: str, node: Any, var: str) -> Candidate:
        def open_blocks() -> CountBlocks:
            blocks = _open_matrix(node, scratch=scratch, memory_bytes=memory_bytes)
            if isinstance(blocks, SparseColumns):
                opened.append(blocks)
            return blocks

        return Candidate(address, open_blocks, functools.partial(_read_genes, root, var))

    def close() -> None:
        for blocks in opened:
            blocks.close()
        if isinstance(root, h5py.File):
            root.close()

    candidates = {key: candidate(*place) for key, place in _matrices(root).items()}
    return InputParts(candidates, _table(root, "obs"), close)


def _matrices(root: Any) -> dict[str, tuple[str, Any, str]]:
    """Give the name of each matrix with its address, its node and the place of its genes."""
    layers = root.get("layers", {})
    found = {key: (f"layers[{key!r}]", layers[key], "var") for key in layers}
    if "X" in root and root["X"].attrs.get("encoding-type") != "null":
        found["X"] = ("X", root["X"], "var")
    # Before anndata 0.7, raw was two entries beside the others.
    raw_matrix, raw_var = ("raw/X", "raw/var") if "raw" in root else ("raw.X", "raw.var")
    if raw_matrix in root:
        found["raw.X"] = ("raw.X", root[raw_matrix], raw_var)
    return found


def _open_matrix(node: Any, *, scratch: Path, memory_bytes: int) -> CountBlocks:
    stated = str(node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", "")))
    if hasattr(node, "dtype"):
        return DenseRows(node)
    shape = node.attrs.get("shape", node.attrs.get("h5sparse_shape"))
    if shape is None or not stated.startswith(("csr", "csc")):
        raise ValueError(f"its matrix is of an unknown kind ({stated or 'none is stated'})")
    data, indices, indptr = node["data"], node["indices"], node["indptr"]
    _refuse_missing_chunks(data)
    n_cells, n_genes = (int(length) for length in shape)
    if stated.startswith("csr"):
        return SparseRows(data, indices, indptr, shape=(n_cells, n_genes))
    return SparseColumns(data, indices, indptr, shape=(n_cells, n_genes), scratch=scratch, memory_bytes=memory_bytes)


def _refuse_missing_chunks(data: Any) -> None:
    """Refuse a Zarr array that lacks chunks: they would be read as zeros, in silence."""
    if isinstance(data, zarr.Array) and data.nchunks_initialized < data.nchunks:
        n_missing = data.nchunks - data.nchunks_initialized
        raise ValueError(f"{n_missing:,} of {data.nchunks:,} chunks of {data.path} are missing")


def _table(root: Any, key: str) -> StoredColumns:
    node = root[key]
    if hasattr(node, "dtype"):
        return _compound_table(node, root.get("uns", {}))
    index = str(node.attrs.get("_index", "index" if "index" in node else "_index"))
    keys = [column for column in node if column not in {"__categories", index}]
    stated = [str(column) for column in node.attrs.get("column-order", ())]
    ordered = [column for column in stated if column in keys] or keys
    nodes = {column: node[column] for column in ordered}
    # From anndata 0.7 to 0.7.8, categories were beside the codes.
    known = node.get("__categories", {})
    return StoredColumns(nodes, node[index], categories={column: known[column] for column in nodes if column in known})


def _compound_table(table: Any, uns: Mapping[str, Any]) -> StoredColumns:
    """Read the table of anndata before 0.7: one array of records, categories in ``uns``."""
    first, *keys = table.dtype.names
    nodes = {key: _Field(table, key) for key in keys}
    categories = {key: uns[f"{key}_categories"] for key in keys if f"{key}_categories" in uns}
    return StoredColumns(nodes, _Field(table, first), categories=categories)


class _Field:
    """One field of an array of records, read like an array."""

    def __init__(self, table: Any, name: str) -> None:
        self._field = table.fields(name)
        self.dtype, self.shape = table.dtype[name], table.shape
        self.attrs: dict[str, Any] = {}

    def __getitem__(self, places: slice) -> Any:
        return self._field[places]


def _read_genes(root: Any, key: str) -> pd.DataFrame:
    table = _table(root, key)
    return pd.DataFrame({name: table.column(name) for name in table.kinds}, index=table.names())
