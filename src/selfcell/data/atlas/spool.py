"""What is known of cells, as records of fixed size: names, codes, numbers; obs on its way."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from selfcell.data.atlas.index import CategoryColumn, ObsColumn

_NAME = "name"


def pack_obs(names: pd.Index, frame: pd.DataFrame, columns: Mapping[str, ObsColumn]) -> np.ndarray:
    """Put names and columns into one record a cell.

    Parameters
    ----------
    names
        Of the cells.
    frame
        The columns, as :class:`selfcell.data.atlas.obs.ObsPlan` gives them; row by row those of ``names``.
    columns
        What each of them is.
    """
    packed = {_NAME: _pack_text(names.to_series().astype(str))}
    for place, (column, kind) in enumerate(columns.items()):
        packed[f"{place}"] = _pack(frame[column], kind)
    records = np.empty(len(names), dtype=[(field, array.dtype) for field, array in packed.items()])
    for field, array in packed.items():
        records[field] = array
    return records


def unpack_obs(records: np.ndarray, columns: Mapping[str, ObsColumn]) -> pd.DataFrame:
    """Give back the frame, with the names as its index."""
    names = pd.Index(_unpack_text(records[_NAME]), dtype=object)
    unpacked = {column: _unpack(records[f"{place}"], kind) for place, (column, kind) in enumerate(columns.items())}
    return pd.DataFrame(unpacked, index=names, columns=list(columns))


def _pack(column: pd.Series, kind: ObsColumn) -> np.ndarray:
    if isinstance(kind, CategoryColumn):
        codes = pd.Categorical(column, categories=list(kind.categories)).codes
        return np.asarray(codes, dtype="<i4")
    if kind.kind == "bool":
        return np.where(column.isna(), -1, column.eq(other=True).fillna(value=False).astype("i1")).astype("i1")
    if kind.kind == "number":
        return np.asarray(column.to_numpy(dtype="<f8", na_value=np.nan))
    return _pack_text(column)


def _unpack(values: np.ndarray, kind: ObsColumn) -> pd.Categorical | pd.arrays.BooleanArray | np.ndarray:
    if isinstance(kind, CategoryColumn):
        return pd.Categorical.from_codes(values, categories=list(kind.categories))
    if kind.kind == "bool":
        missing = values < 0
        return pd.arrays.BooleanArray(values == 1, missing) if missing.any() else values == 1
    return values.astype("f8") if kind.kind == "number" else np.array(_unpack_text(values), dtype=object)


def _pack_text(column: pd.Series) -> np.ndarray:
    """Bytes in UTF-8 after one byte that tells them from what is missing."""
    return np.array([b"" if pd.isna(text) else b"=" + str(text).encode() for text in column], dtype="S")


def _unpack_text(values: np.ndarray) -> list[str | None]:
    return [text[1:].decode() if text else None for text in values.tolist()]
