"""Read files that were written earlier, with words where one is missing or damaged."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from selfcell.core.errors import InputError


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say of whatever a parser raises within the block that the file is missing, damaged, or of another kind.

    Only what reads and checks one file belongs into the block: a fault of the package would be taken for one of the
    file.

    Parameters
    ----------
    path
        The file or folder.

    Raises
    ------
    InputError
        With its path.
    """
    try:
        yield
    except InputError as error:
        raise error if path.name in str(error) else InputError(f"{path}: {error}") from error
    except Exception as error:
        raise InputError(_message(path, error)) from error


def read_text(path: Path) -> str:
    """Read a text file in UTF-8.

    Raises
    ------
    InputError
        If it is missing, or no such text.
    """
    with reading(path):
        return path.read_text(encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    InputError
        If it is missing, or no JSON.
    """
    text = read_text(path)
    with reading(path):
        return json.loads(text)


def read_object(path: Path, **fields: type | tuple[type, ...]) -> dict[str, Any]:
    """Read a JSON file that holds an object, and check what is relied on.

    Parameters
    ----------
    path
        The file.
    fields
        Name of each entry that there must be to the type, or types, of its value.

    Raises
    ------
    InputError
        If it is missing, no JSON, or an entry is missing or of another type.
    """
    content = read_json(path)
    with reading(path):
        check_fields(content, **fields)
    return dict(content)


def check_fields(content: Any, **fields: type | tuple[type, ...]) -> None:
    """Check that a table of facts has entries of these types.

    Raises
    ------
    ValueError
        If it is none, or an entry is missing or of another type.
    """
    if not isinstance(content, dict):
        raise ValueError("it is no table of facts")
    if missing := sorted(fields.keys() - content.keys()):
        raise ValueError(f"it lacks {', '.join(missing)}")
    for name, kinds in fields.items():
        value, wanted = content[name], kinds if isinstance(kinds, tuple) else (kinds,)
        # A truth value is an int to Python, but no number.
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise ValueError(f"{name} cannot be {json.dumps(value)[:40]}")


def read_table(path: Path, **how: Any) -> pd.DataFrame:
    """Read a CSV file, compressed or not.

    Parameters
    ----------
    path
        The file.
    how
        Passed on to :func:`pandas.read_csv`.

    Raises
    ------
    InputError
        If it is missing, cut short, or no table.
    """
    with reading(path):
        return pd.read_csv(path, **how)


def _message(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"{path.parent} is incomplete: {path.name} is missing."
    if isinstance(error, PermissionError | IsADirectoryError):
        return f"{path} cannot be read: {error.strerror}."
    first_line = (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")
    return f"{path} is damaged, or cut short ({first_line}). Copy it again, or make it again."
