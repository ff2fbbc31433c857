"""Maps from one source's names of cell types to another's."""

from pathlib import Path

from selfcell.core.errors import InputError
from selfcell.core.reading import read_table


def read_label_map(path: Path) -> dict[str, str]:
    """Read a table with the columns ``from`` and ``to``, one row a name.

    Raises
    ------
    InputError
        If there is no such file, it is no table or lacks a column, maps nothing, or maps a name twice.
    """
    if not path.exists():
        raise InputError(f"There is no map of labels {str(path)!r}.")
    table = read_table(path, dtype=str, keep_default_na=False)
    if not {"from", "to"} <= set(table.columns):
        raise InputError(
            f"{path} must be a table with the columns from and to, but has {', '.join(map(str, table.columns))}."
        )
    if table.empty:
        raise InputError(f"{path} maps nothing: give it a row for each name.")
    twice = table["from"][table["from"].duplicated()]
    if len(twice):
        raise InputError(f"{path} maps {twice.iloc[0]!r} more than once.")
    return dict(zip(table["from"], table["to"], strict=True))
