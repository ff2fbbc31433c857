"""Pages from templates: tables that are sorted, filtered and taken along, figures whose ids differ."""

import base64
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from selfcell.core.atomic import write_text
from selfcell.core.reading import reading
from selfcell.core.words import file_name

_DRAWING = re.compile(r"<svg\b.*?</svg>", flags=re.DOTALL)
_TAG = re.compile(r"<[^<>]+>")
_ID = re.compile(r"""(\bid="|\bhref="#|url\(#)""")
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def write_page(template: str, content: Mapping[str, Any], path: Path, *, source: Path) -> Path:
    """Write a page from a template; what does not fit it is said of ``source``, the folder that it tells of."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("selfcell.reporting", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.globals |= {"shown": shown, "next_number": itertools.count(1).__next__}
    with reading(source):
        page = with_own_ids(environment.get_template(template).render(**content))
    write_text(path, page)
    return path


def with_own_ids(page: str) -> str:
    """Give the ids of each figure of a page a prefix of its own: matplotlib's are the same in all of them."""
    numbers = itertools.count(1)

    def own(drawing: re.Match[str]) -> str:
        with_prefix = rf"\g<1>f{next(numbers)}-"
        return _TAG.sub(lambda tag: _ID.sub(with_prefix, tag[0]), drawing[0])

    return _DRAWING.sub(own, page)


def sheet(table: pd.DataFrame, name: str) -> dict[str, Any]:
    """Give what the template shows of a table.

    Parameters
    ----------
    table
        Its columns of numbers are sorted as such.
    name
        Of its file, and in its labels; no other table of the page may bear it.
    """
    is_number = [pd.api.types.is_numeric_dtype(table[column]) for column in table]
    rows = [
        [_cell(value, is_number=numeric) for value, numeric in zip(row, is_number, strict=True)]
        for row in table.itertuples(index=False, name=None)
    ]
    return _sheet(name, list(zip(map(str, table.columns), is_number, strict=True)), rows, table)


def shown(name: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Any]]]) -> dict[str, Any]:
    """Give what the template shows of a table of texts, which are sorted by the number that they begin with.

    Parameters
    ----------
    name
        As of :func:`sheet`.
    columns
        Of which the first is of names.
    rows
        What the row is called, and its texts.
    """
    cells = [
        [
            {"text": str(first), "is_number": False},
            *({"text": str(text), "is_number": True, "value": _begin(str(text))} for text in rest),
        ]
        for first, rest in rows
    ]
    table = pd.DataFrame([[cell["text"] for cell in row] for row in cells], columns=list(columns))
    return _sheet(name, [(column, place > 0) for place, column in enumerate(columns)], cells, table)


def link(name: str, kind: str, content: bytes) -> dict[str, str]:
    """Give what a link to a file holds that is within the page."""
    return {"name": name, "href": f"data:{kind};base64,{base64.b64encode(content).decode()}"}


def _sheet(
    name: str, columns: list[tuple[str, bool]], rows: list[list[dict[str, Any]]], table: pd.DataFrame
) -> dict[str, Any]:
    csv = link(f"{file_name(name)}.csv", "text/csv", table.to_csv(index=False, float_format="%.6g").encode())
    return {"name": name.replace("-", " "), "columns": columns, "rows": rows, "csv": csv}


def _begin(text: str) -> str:
    found = _NUMBER.match(text)
    return found[0].replace(",", "") if found else ""


def _cell(value: Any, *, is_number: bool) -> dict[str, Any]:
    if not is_number:
        return {"text": "" if pd.isna(value) else str(value), "is_number": False}
    if pd.isna(value):
        return {"text": "", "is_number": True, "value": ""}
    is_whole = float(value).is_integer() and abs(value) >= 1
    # Three digits of a large number would be 1.27e+03.
    text = f"{value:,.0f}" if is_whole or abs(value) >= 999.5 else f"{value:.3g}"
    return {"text": text, "is_number": True, "value": f"{value:.8g}"}
