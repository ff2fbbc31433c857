"""Read small files that were written earlier, with words where one is missing or damaged."""

import json
import zlib
from pathlib import Path
from typing import Any

import pandas as pd

from selfcell.core.errors import InputError


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    InputError
        If it is missing, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(_message(path, error)) from error


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
    try:
        return pd.read_csv(path, **how)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(_message(path, error)) from error


def _message(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path.parent} is incomplete: {path.name} is missing."
    first_line = str(error).strip().split("\n")[0]
    return f"{path} is damaged, or cut short ({first_line}). Copy it again, or make it again."
