"""Open a loom file.

Loom is plain HDF5, and all that is needed of it is read here with h5py: loompy, its own package, is no longer kept up.
"""

from typing import Any

import h5py
import pandas as pd

from selfcell.data.atlas.count_blocks import DenseRows
from selfcell.data.atlas.input_parts import Candidate, InputParts
from selfcell.data.atlas.table_columns import NamesOnly, StoredColumns, TableColumns, as_strings

_CELL_NAMES = ("CellID", "obs_names", "cell_id", "barcode")
_GENE_NAMES = ("Gene", "var_names", "gene", "Symbol")
_GENE_IDS = ("Accession", "gene_ids", "EnsemblID")


def is_loom(root: Any) -> bool:
    """Tell whether an open HDF5 file is of loom."""
    return "matrix" in root and isinstance(root["matrix"], h5py.Dataset) and "col_attrs" in root


def open_loom(file: h5py.File) -> InputParts:
    """Open a loom file: ``/matrix`` and ``/layers`` genes x cells, ``/row_attrs`` of genes, ``/col_attrs`` of cells."""

    def candidate(address: str, node: Any) -> Candidate:
        return Candidate(address, lambda: DenseRows(node, transposed=True), lambda: _read_genes(file))

    layers = file.get("layers", {})
    candidates = {key: candidate(f"layers[{key!r}]", layers[key]) for key in layers if key}
    candidates["X"] = candidate("matrix", file["matrix"])
    return InputParts(candidates, _cells(file), file.close)


def _cells(file: h5py.File) -> TableColumns:
    columns = file["col_attrs"]
    index = next((key for key in _CELL_NAMES if key in columns), None)
    if index is None:
        return NamesOnly(pd.Index(map(str, range(file["matrix"].shape[1])), dtype=object))
    return StoredColumns({key: columns[key] for key in columns if key != index}, columns[index])


def _read_genes(file: h5py.File) -> pd.DataFrame:
    rows = file["row_attrs"]
    named = next((key for key in (*_GENE_NAMES, *_GENE_IDS) if key in rows), None)
    if named is None:
        raise ValueError(f"its row_attrs have no {' or '.join(_GENE_NAMES[:1] + _GENE_IDS[:1])}")
    ids = next((key for key in _GENE_IDS if key in rows), named)
    others = {key: as_strings(rows[key][:]) for key in rows if len(rows[key].shape) == 1}
    return pd.DataFrame(others | {"gene_ids": as_strings(rows[ids][:])}, index=pd.Index(as_strings(rows[named][:])))
