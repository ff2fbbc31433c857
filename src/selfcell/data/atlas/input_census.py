"""Open cells of the CELLxGENE Census as an input: what is known of them is fetched once, counts are streamed."""

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from selfcell.core.atomic import atomic_path
from selfcell.core.errors import InputError
from selfcell.data.atlas.census import JOIN_COLUMN, CensusCells
from selfcell.data.atlas.census_query import read_filtered
from selfcell.data.atlas.count_blocks import NotCountsError, as_counts, canonical, describe_fault
from selfcell.data.atlas.input_parts import Candidate, InputParts
from selfcell.data.atlas.table_columns import as_categories, as_strings

_LENGTH_COLUMN = "nnz"
_ID_COLUMN = "feature_id"
_SAMPLE_PLACES, _SAMPLE_CELLS = 8, 64
_BYTES_PER_VALUE = 80
"""While a block is read: two positions and a value as TileDB gives them, joined, and as rows."""


def open_census(cells: CensusCells, *, scratch: Path, memory_bytes: int) -> InputParts:
    """Open cells of the census.

    Parameters
    ----------
    cells
        Which.
    scratch
        Where the columns of obs are kept; they are fetched where they are not there yet.
    memory_bytes
        What reading may take.

    Raises
    ------
    InputError
        If the census cannot be read, or the query gives other cells than before.
    """
    with contextlib.ExitStack() as stack:
        experiment = stack.enter_context(cells.experiment(memory_bytes=memory_bytes))
        file = scratch / f"census-{hashlib.sha256(str(cells).encode()).hexdigest()[:16]}.parquet"
        with cells.reading():
            if not file.is_file():
                _fetch_obs(cells, experiment.obs, file)
            measured = experiment.ms["RNA"]
            var = measured.var.read().concat().to_pandas().sort_values(JOIN_COLUMN)
            counts = measured.X["raw"]
        obs = KeptColumns(file)
        blocks = CensusCounts(cells, counts, obs, gene_numbers=var[JOIN_COLUMN].to_numpy())
        genes = var.drop(columns=JOIN_COLUMN).set_index(_ID_COLUMN)
        raw = Candidate("X", lambda: blocks, lambda: genes)
        return InputParts({"X": raw}, obs, stack.pop_all().close)


class KeptColumns:
    """The obs columns of chosen cells in a Parquet file, of which one is read at a time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        schema = pq.read_schema(file)
        self.n_rows: int = pq.read_metadata(file).num_rows
        kinds = {name: _kind(schema.field(name).type) for name in schema.names if name != JOIN_COLUMN}
        self.kinds = {name: kind for name, kind in kinds.items() if kind is not None}

    def names(self) -> pd.Index:
        """Give the names of the cells: their numbers, as strings."""
        return pd.Index(self.numbers().astype(str).astype(object), dtype=object)

    def numbers(self) -> np.ndarray:
        """Give the numbers of the cells, ascending."""
        return np.asarray(self._read(JOIN_COLUMN).to_numpy(), dtype=np.int64)

    def column(self, key: str) -> Any:
        """Give a column: a Categorical of strings, in their order, or an array of numbers or of truth values."""
        read = self._read(key)
        if self.kinds[key] == "category":
            return _sorted_names(read)
        if self.kinds[key] == "bool" and read.null_count:
            return pd.array(read.to_pandas(), dtype="boolean")
        return read.to_numpy()

    def _read(self, key: str) -> pa.ChunkedArray:
        return pq.read_table(self._file, columns=[key])[key]


class CensusCounts:
    """Raw counts of chosen cells of the census, read some cells at a time.

    Parameters
    ----------
    cells
        Which, for messages.
    array
        The sparse array that has them.
    obs
        What is known of the cells; ``nnz`` says how many values each has.
    gene_numbers
        Numbers of the genes, ascending.
    """

    def __init__(self, cells: CensusCells, array: Any, obs: KeptColumns, *, gene_numbers: np.ndarray) -> None:
        self._cells, self._array, self._gene_numbers = cells, array, gene_numbers
        self._numbers = obs.numbers()
        self.shape = (len(self._numbers), len(gene_numbers))
        self._lengths = np.asarray(obs.column(_LENGTH_COLUMN)) if _LENGTH_COLUMN in obs.kinds else None

    def sample(self) -> np.ndarray:
        """Give stored values from several places."""
        return np.concatenate([self._entries(start, stop)[2] for start, stop in self._sampled()])

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Give cells ``start`` to ``stop``, checked and canonical, uint32."""
        rows, columns, values = self._entries(start, stop)
        counts, _ = as_counts(values)
        found = sp.csr_matrix((counts, (rows, columns)), shape=(stop - start, self.shape[1]))
        wrong = rows[counts != values]
        if len(wrong):
            raise NotCountsError(describe_fault(values), cell=start + int(wrong.min()))
        return canonical(found, first_cell=start)

    def block_size(self, memory_bytes: int) -> int:
        """Give the most cells such that wherever a block begins, its values fit."""
        n_values = memory_bytes // _BYTES_PER_VALUE
        if self._lengths is None:
            sampled = [np.bincount(self._entries(start, stop)[0]).max(initial=1) for start, stop in self._sampled()]
            return max(1, n_values // int(max(sampled)))
        ends = np.concatenate([[0], np.cumsum(self._lengths, dtype=np.int64)])
        fits, too_many = 1, self.shape[0] + 1
        while too_many - fits > 1:
            size = (fits + too_many) // 2
            fits, too_many = (size, too_many) if (ends[size:] - ends[:-size]).max() <= n_values else (fits, size)
        return fits

    def _sampled(self) -> list[tuple[int, int]]:
        last = max(0, self.shape[0] - _SAMPLE_CELLS)
        starts = sorted({int(place) for place in np.linspace(0, last, _SAMPLE_PLACES)})
        return [(start, min(start + _SAMPLE_CELLS, self.shape[0])) for start in starts]

    def _entries(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read cells, counted from ``start``, genes and values, in any order."""
        numbers = self._numbers[start:stop]
        with self._cells.reading():
            tables = pa.concat_tables(self._array.read((numbers,)).tables())
        of_cell, of_gene = tables["soma_dim_0"].to_numpy(), tables["soma_dim_1"].to_numpy()
        rows, columns = np.searchsorted(numbers, of_cell), np.searchsorted(self._gene_numbers, of_gene)
        return rows, columns, tables["soma_data"].to_numpy()


def _fetch_obs(cells: CensusCells, obs: Any, file: Path) -> None:
    """Write the columns of the cells to a file, table by table."""
    digest = hashlib.sha256()
    with atomic_path(file) as temporary, contextlib.ExitStack() as stack:
        writer = None
        for table in read_filtered(obs, cells.query, obs.schema.names):
            writer = writer or stack.enter_context(pq.ParquetWriter(temporary, table.schema))
            writer.write_table(table)
            digest.update(table[JOIN_COLUMN].to_numpy().astype("<i8").tobytes())
        stack.close()
        if digest.hexdigest() != cells.sha256_cells:
            raise InputError(f"{cells} gives other cells than before. Let nothing write to the census meanwhile.")


def _kind(stored: pa.DataType) -> str | None:
    if pa.types.is_dictionary(stored):
        stored = stored.value_type
    if pa.types.is_boolean(stored):
        return "bool"
    if pa.types.is_integer(stored) or pa.types.is_floating(stored):
        return "number"
    return "category" if pa.types.is_string(stored) or pa.types.is_large_string(stored) else None


def _sorted_names(column: pa.ChunkedArray) -> pd.Categorical:
    """Make a Categorical whose order does not depend on how the column came in parts."""
    codes, unique = pd.factorize(column.to_pandas(strings_to_categorical=True), sort=True)
    return as_categories(codes, as_strings(unique))
