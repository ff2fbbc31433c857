"""A query over the cells of the CELLxGENE Census, which TileDB answers; and what is wrong with one."""

import ast
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from selfcell.core.errors import InputError, did_you_mean

_EXAMPLE = "\"tissue_general == 'blood' and cell_type in ['B cell', 'T cell']\""
_WRITTEN = f"It compares columns of obs with values, for example {_EXAMPLE}."
_FUNCTIONS = {"attr", "val"}
"""TileDB's own, for columns with names that Python would not take."""
_SHOWN_VALUES = 12


def read_filtered(obs: Any, query: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Read some columns of the cells for which a query holds, table by table, in the order of their numbers.

    Raises
    ------
    InputError
        If TileDB cannot make sense of the query.
    """
    import tiledbsoma  # noqa: PLC0415 - takes seconds, and only the census needs it

    try:
        reader = obs.read(value_filter=query, column_names=list(columns), result_order="row-major")
    except (tiledbsoma.SOMAError, TypeError, ValueError) as error:
        said = re.sub(r"^SOMAError: ", "", str(error).split("\n")[0]).split(" The following")[0].strip().rstrip(".")
        raise InputError(
            f"The query {query!r} cannot be understood ({said}). {_WRITTEN} {_listed(obs.schema.names)}"
        ) from error
    yield from reader


def refuse_bad_grammar(query: str) -> None:
    """Refuse a query that is no expression, which can be told before the census is reached.

    Raises
    ------
    InputError
        With an example.
    """
    try:
        ast.parse(query.strip(), mode="eval")
    except SyntaxError as error:
        raise InputError(f"The query {query!r} cannot be understood ({error.msg}). {_WRITTEN}") from error


def refuse_unknown(query: str, columns: Sequence[str]) -> None:
    """Refuse a query that names a column that is not there.

    Raises
    ------
    InputError
        With the columns that are there.
    """
    tree = ast.parse(query.strip(), mode="eval")
    unknown = [name for name in _names(tree) if name not in columns]
    if unknown:
        raise InputError(
            f"The query {query!r} names {unknown[0]!r}, but the census has no such column in obs (values stand in "
            f"quotes). {did_you_mean(unknown[0], list(columns)).partition('Known: ')[0]}{_listed(columns)}"
        )


def no_cells_message(obs: Any, query: str, *, census: str) -> str:
    """Say that a query holds for no cell, with values of the columns in it that have names for values."""
    named = list(dict.fromkeys(_names(ast.parse(query.strip(), mode="eval"))))
    texts = [name for name in named if pa.types.is_dictionary(obs.schema.field(name).type)]
    values = obs.get_enumeration_values(texts) if texts else {}
    told = "".join(f" {name} is {_some(sorted(values[name].to_pylist()))}." for name in texts)
    return f"The query {query!r} holds for no cell of {census} ({obs.count:,} cells).{told}"


def _names(tree: ast.AST) -> list[str]:
    return [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id not in _FUNCTIONS]


def _listed(columns: Sequence[str]) -> str:
    return f"Known: {', '.join(columns)}."


def _some(values: list[str]) -> str:
    return f"{', '.join(values[:_SHOWN_VALUES])}{' and others' if len(values) > _SHOWN_VALUES else ''}"
