"""Choose cells by a query over their obs columns, written as for :meth:`pandas.DataFrame.query`."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.errors import UndefinedVariableError

from selfcell.core.errors import InputError, did_you_mean

_EXAMPLE = "\"tissue == 'lung' and n_genes > 500\""
_SHOWN_VALUES = 12
_SINGLE_EQUALS = re.compile(r"(?<![=!<>])=(?!=)")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_NAMES = re.compile(r"`([^`]+)`|([^\W\d]\w*)")
_UNDEFINED = re.compile(r"name '(.+?)' is not defined")


def query_mask(obs: pd.DataFrame, query: str, *, columns: Sequence[str] = ()) -> np.ndarray:
    """Tell for each cell whether a query over obs columns holds; of a truth value that is missing nothing holds.

    Parameters
    ----------
    obs
        The columns that the query names, at least.
    query
        Such as ``"tissue == 'lung'"``.
    columns
        All columns that there are, for messages; those of ``obs`` if left out.

    Raises
    ------
    InputError
        If pandas cannot make sense of it, or it names a column that is not there.
    """
    columns = list(columns) or [str(name) for name in obs.columns]
    if _SINGLE_EQUALS.search(_QUOTED.sub("", query)):
        raise InputError(f"The query {query!r} sets a value: two values are compared by ==. Such as: {_EXAMPLE}.")
    try:
        found: Any = obs.eval(query, engine="python")
    except UndefinedVariableError as error:
        name = _UNDEFINED.search(str(error))
        unknown = name[1] if name else query
        raise InputError(
            f"The query {query!r} names {unknown!r}, but there is no such column in obs (values stand in quotes). "
            f"{did_you_mean(unknown, columns)}"
        ) from error
    except Exception as error:
        raise InputError(
            f"The query {query!r} cannot be understood ({error}). It is written as for pandas, for example {_EXAMPLE}."
        ) from error
    if isinstance(found, pd.Series) and isinstance(found.dtype, pd.BooleanDtype):
        found = found.fillna(value=False).to_numpy(dtype=bool)
    mask: np.ndarray = np.asarray(found)
    if mask.dtype != bool or mask.shape != (len(obs),):
        raise InputError(
            f"The query {query!r} must be true or false for each cell, but gives {_what(mask)}. Such as: {_EXAMPLE}."
        )
    return mask


def named_columns(query: str, columns: Iterable[str]) -> list[str]:
    """Give those of some columns that a query names."""
    named = {quoted or bare for quoted, bare in _NAMES.findall(_QUOTED.sub("", query))}
    return [name for name in columns if name in named]


def no_cells_message(query: str, frames: Iterable[pd.DataFrame]) -> str:
    """Say that a query holds for no cell, with the values that the columns in it have.

    Parameters
    ----------
    query
        The query.
    frames
        The columns that it names, for one stretch of cells after the other.
    """
    found: dict[str, list[pd.Series]] = {}
    n_cells = 0
    for frame in frames:
        n_cells += len(frame)
        for name, column in frame.items():
            # Of each stretch a few values are enough to choose from.
            found.setdefault(str(name), []).append(_told(column.dropna()))
    said = [f"{name} {_listed(pd.concat(parts))}" for name, parts in found.items()]
    return f"The query {query!r} selects none of the {n_cells:,} cells: {'; '.join(said)}."


def _told(column: pd.Series) -> pd.Series:
    if _is_number(column):
        return column.sort_values().iloc[[0, -1]] if len(column) else column
    return column.astype(str).drop_duplicates().iloc[: _SHOWN_VALUES + 1]


def _listed(values: pd.Series) -> str:
    if values.empty:
        return "has no values"
    if _is_number(values):
        return f"goes from {values.min():g} to {values.max():g}"
    names = sorted(set(values))
    return f"is {', '.join(names[:_SHOWN_VALUES])}{' and others' if len(names) > _SHOWN_VALUES else ''}"


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _what(mask: np.ndarray) -> str:
    return "one value" if mask.ndim == 0 else f"{mask.dtype} values"
