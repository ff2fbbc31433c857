"""Read what a checkpoint does not hold, from tables beside it: the genes of its input, the names of its types."""

import collections
from pathlib import Path

import pandas as pd

from selfcell.core.errors import InputError, speaking_of
from selfcell.core.reading import read_table, reading
from selfcell.data.genes import ID_COLUMNS, SYMBOL_COLUMNS, GeneTable, is_ensembl

_NAME_COLUMNS = ("label", "cell_type", "name")


def read_gene_table(path: Path, *, n_genes: int) -> GeneTable:
    """Read the genes of an encoder's input, in its order.

    Parameters
    ----------
    path
        A Parquet or CSV file: Ensembl ids as the index or in a column such as ``feature_id``, symbols in one such as
        ``feature_name``; or the ``genes.csv`` of a run.
    n_genes
        Rows that there must be.

    Raises
    ------
    InputError
        If no column names genes, there are more or fewer rows, or genes without a name or named twice.
    """
    table = _read(path)
    if len(table) != n_genes:
        raise InputError(
            f"{path} has {len(table):,} genes, but the network takes {n_genes:,}. Give the table that belongs to the "
            "checkpoint: --genes (genes)."
        )
    with speaking_of(str(path)):
        if {"id", "symbol"} <= set(table.columns):
            return GeneTable.from_frame(table)
        return GeneTable.from_var(table, gene_column=_gene_column(table))


def read_class_names(path: Path, *, n_classes: int) -> tuple[str, ...]:
    """Read the names of a classifier's types, in the order of its outputs.

    Parameters
    ----------
    path
        Text with one a line; or a Parquet or CSV file with one column, or one called ``label``, ``cell_type`` or
        ``name``.
    n_classes
        How many there must be.

    Raises
    ------
    InputError
        If there are more or fewer, some are empty, or one stands twice.
    """
    if path.suffix in {".csv", ".parquet"}:
        names = _name_column(path, _read(path))
    else:
        with reading(_existing(path)):
            names = [line.strip() for line in path.read_text(encoding="utf-8").rstrip().split("\n")]
    if len(names) != n_classes:
        raise InputError(f"{path} has {len(names):,} names, but the classifier has {n_classes:,} types.")
    twice = [name for name, times in collections.Counter(names).items() if times > 1]
    if twice or "" in names:
        fault = "an empty name" if "" in names else f"{twice[0]!r} more than once"
        raise InputError(f"{path} has {fault}: each type needs a name of its own.")
    return tuple(names)


def _gene_column(table: pd.DataFrame) -> str | None:
    """Name the column that names genes best: Ensembl ids before symbols; None is the index."""
    if _are_ids(table.index):
        return None
    lowered = {str(column).lower(): str(column) for column in table.columns}
    of_ids = [lowered[name] for name in ID_COLUMNS if name in lowered and _are_ids(table[lowered[name]])]
    named = [*of_ids, *(lowered[name] for name in SYMBOL_COLUMNS if name in lowered)]
    if named:
        return named[0]
    if isinstance(table.index, pd.RangeIndex) or pd.api.types.is_numeric_dtype(table.index):
        raise InputError(
            "no column names genes: Ensembl ids are looked for in the index and in feature_id, symbols in feature_name."
            f" There are {', '.join(map(str, table.columns)) or 'none'}."
        )
    return None


def _are_ids(values: pd.Series | pd.Index) -> bool:
    return bool(len(values)) and bool(is_ensembl([str(value) for value in values]).mean() > 0.5)


def _name_column(path: Path, table: pd.DataFrame) -> list[str]:
    columns = [name for name in _NAME_COLUMNS if name in table.columns] or list(table.columns)
    if len(table.columns) > 1 and columns[0] not in _NAME_COLUMNS:
        raise InputError(
            f"{path} has the columns {', '.join(map(str, columns))}: call the one with the names of types 'label'."
        )
    if not columns:
        raise InputError(f"{path} has no column.")
    return [str(value) for value in table[columns[0]]]


def _read(path: Path) -> pd.DataFrame:
    """Read a table; what a CSV file has in a first column without a name is the index."""
    _existing(path)
    if path.suffix == ".parquet":
        with reading(path):
            return pd.read_parquet(path)
    if path.suffix != ".csv":
        raise InputError(f"{path} must be a .parquet or .csv file.")
    table = read_table(path, dtype=str, keep_default_na=False)
    return table.set_index(table.columns[0]) if str(table.columns[0]).startswith("Unnamed: ") else table


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"There is no file {str(path)!r}.")
    return path
