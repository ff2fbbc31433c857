"""Read one column at a time of a table of cells or genes, as AnnData and loom store them in HDF5 and Zarr."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import h5py
import numpy as np
import pandas as pd

_SLAB = 2**17


@runtime_checkable
class TableColumns(Protocol):
    """A table whose columns are read when they are asked for."""

    @property
    def kinds(self) -> dict[str, str]:
        """Column to ``category``, ``number`` or ``bool``; columns of other kinds are not in it."""

    @property
    def n_rows(self) -> int:
        """How many rows have names."""

    def names(self) -> pd.Index:
        """Give the names of the rows."""

    def column(self, key: str) -> Any:
        """Give a column: a Categorical of strings, or an array of numbers or of truth values, some perhaps missing."""


class NamesOnly:
    """A table that has names of rows and no columns."""

    def __init__(self, names: pd.Index) -> None:
        self._names = names
        self.kinds: dict[str, str] = {}

    @property
    def n_rows(self) -> int:
        """How many rows have names."""
        return len(self._names)

    def names(self) -> pd.Index:
        """Give the names of the rows."""
        return self._names

    def column(self, key: str) -> Any:
        """Refuse: there is none."""
        raise KeyError(key)


class StoredColumns:
    """A table whose columns are arrays, or groups that hold codes with categories or values with a mask.

    Parameters
    ----------
    nodes
        Column to its array or group, of HDF5 or Zarr.
    index
        The array or group of the names of the rows.
    categories
        Where other places hold them (as AnnData before 0.8 did): column to its categories.
    """

    def __init__(self, nodes: Mapping[str, Any], index: Any, *, categories: Mapping[str, Any] | None = None) -> None:
        self._nodes, self._index = nodes, index
        self._categories = {} if categories is None else categories
        kinds = {key: "category" if key in self._categories else _kind(node) for key, node in nodes.items()}
        self.kinds = {key: kind for key, kind in kinds.items() if kind is not None}
        self.n_rows = _n_rows(index)
        # Before any is read: one that says it is longer may say that it is longer than the memory.
        for key, node in nodes.items():
            if key in self.kinds and _n_rows(node) != self.n_rows:
                raise ValueError(f"column {key} has {_n_rows(node):,} rows, but {self.n_rows:,} are named")

    def names(self) -> pd.Index:
        """Give the names of the rows."""
        slabs = list(_string_slabs(self._index))
        return pd.Index(np.concatenate(slabs) if slabs else np.array([], dtype=object), dtype=object)

    def column(self, key: str) -> Any:
        """Give a column: a Categorical of strings, or an array of numbers or of truth values."""
        node = self._nodes[key]
        if key in self._categories:
            return as_categories(node[:], self._categories[key][:])
        return _READERS[_encoding(node)](node)


def as_categories(codes: np.ndarray, categories: Any) -> pd.Categorical:
    """Make a Categorical of strings; categories that come to the same string become one, -1 stays missing."""
    merged, unique = pd.factorize(np.array(as_strings(categories), dtype=object))
    # One more at the end, for code -1.
    return pd.Categorical.from_codes(np.append(merged, -1)[codes], categories=pd.Index(unique, dtype=object))


def as_strings(values: Any) -> list[str]:
    """Give values as strings: bytes as UTF-8, whole numbers without a point, whatever their type is."""
    return [_as_string(value) for value in np.asarray(values, dtype=object)]


def _as_string(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _n_rows(node: Any) -> int:
    part = next((node[name] for name in ("codes", "values") if name in node), node) if _is_group(node) else node
    return int(part.shape[0])


def _is_group(node: Any) -> bool:
    return not hasattr(node, "dtype")


def _encoding(node: Any) -> str:
    stated = str(node.attrs.get("encoding-type", ""))
    if stated in {"categorical", "nullable-boolean", "nullable-integer", "nullable-string-array"}:
        return stated
    if _is_group(node) or node.shape is None or len(node.shape) != 1:
        return "other"
    if h5py.check_string_dtype(node.dtype) is not None:
        return "string"
    return {"b": "bool", "i": "number", "u": "number", "f": "number", "O": "string", "S": "string", "U": "string"}.get(
        node.dtype.kind, "string" if node.dtype.kind == "T" else "other"
    )


def _kind(node: Any) -> str | None:
    return {
        "categorical": "category",
        "nullable-boolean": "bool",
        "nullable-string-array": "category",
        "string": "category",
        "nullable-integer": "number",
        "number": "number",
        "bool": "bool",
    }.get(_encoding(node))


def _read_nullable_integer(group: Any) -> np.ndarray:
    values, mask = np.asarray(group["values"][:]), np.asarray(group["mask"][:], dtype=bool)
    return np.where(mask, np.nan, values) if mask.any() else values


def _read_nullable_boolean(group: Any) -> Any:
    values, mask = np.asarray(group["values"][:], dtype=bool), np.asarray(group["mask"][:], dtype=bool)
    return pd.arrays.BooleanArray(values, mask) if mask.any() else values


def _read_strings(node: Any) -> pd.Categorical:
    """Read strings slab by slab: as many objects at once as there are cells would take gigabytes."""
    place: dict[str, int] = {}
    slabs = [np.empty(0, dtype=np.int32)]
    for slab in _string_slabs(node):
        codes, unique = pd.factorize(slab)
        merged = np.array([place.setdefault(value, len(place)) for value in unique], dtype=np.int32)
        slabs.append(merged[codes])
    return as_categories(np.concatenate(slabs), list(place))


def _read_nullable_strings(group: Any) -> pd.Categorical:
    column = _read_strings(group["values"])
    codes = np.where(np.asarray(group["mask"][:], dtype=bool), -1, column.codes)
    return pd.Categorical.from_codes(codes, categories=column.categories).remove_unused_categories()


def _string_slabs(node: Any) -> Iterator[np.ndarray]:
    values = node["values"] if _encoding(node) == "nullable-string-array" else node
    for start in range(0, values.shape[0], _SLAB):
        yield np.array(as_strings(values[start : start + _SLAB]), dtype=object)


_READERS: dict[str, Callable[[Any], Any]] = {
    "categorical": lambda node: as_categories(np.asarray(node["codes"][:]), _values(node["categories"])),
    "nullable-boolean": _read_nullable_boolean,
    "nullable-integer": _read_nullable_integer,
    "nullable-string-array": _read_nullable_strings,
    "string": _read_strings,
    "number": lambda node: np.asarray(node[:]),
    "bool": lambda node: np.asarray(node[:], dtype=bool),
}


def _values(node: Any) -> Any:
    return (node["values"] if _encoding(node) == "nullable-string-array" else node)[:]
