"""Open what 10x Genomics' Cell Ranger writes: .h5 files, and folders with a matrix in Matrix Market format."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import pandas as pd

from selfcell.core.errors import InputError
from selfcell.data.atlas.count_blocks import SparseRows
from selfcell.data.atlas.input_parts import Candidate, InputParts
from selfcell.data.atlas.table_columns import NamesOnly, as_strings
from selfcell.data.atlas.transpose import Entries, RowsOnDisk, Transposed

_LINES = 2**19
_GENES = ("features.tsv", "genes.tsv")


def is_tenx(root: Any) -> bool:
    """Tell whether an open HDF5 file is of Cell Ranger."""
    return bool(_genomes(root))


def open_tenx(file: h5py.File) -> InputParts:
    """Open a .h5 file of Cell Ranger, version 2 or later.

    Raises
    ------
    InputError
        If it holds more than one genome.
    """
    genomes = _genomes(file)
    if len(genomes) > 1:
        raise InputError(f"It holds several genomes: {', '.join(genomes)}. Give each a file of its own.")
    group = file[genomes[0]]
    n_genes, n_cells = (int(length) for length in group["shape"][:])
    matrix = Candidate(
        "matrix",
        lambda: SparseRows(group["data"], group["indices"], group["indptr"], shape=(n_cells, n_genes)),
        lambda: _read_features(group),
    )
    names = pd.Index(as_strings(group["barcodes"][:]), dtype=object)
    return InputParts({"X": matrix}, NamesOnly(names), file.close)


def is_tenx_folder(path: Path) -> bool:
    """Tell whether a folder holds a matrix in Matrix Market format."""
    return path.is_dir() and any(path.glob("*matrix.mtx*"))


def open_tenx_folder(folder: Path, *, scratch: Path, memory_bytes: int) -> InputParts:
    """Open a folder with ``matrix.mtx``, ``features.tsv`` or ``genes.tsv``, and ``barcodes.tsv``, each .gz or not.

    Raises
    ------
    InputError
        If a file is missing, or sets of several samples are in one folder.
    """
    matrix_path = _only(folder, "matrix.mtx")
    genes = _read_features_table(_only(folder, *_GENES))
    names = pd.Index(_read_table(_only(folder, "barcodes.tsv"))[0].astype(str), dtype=object)
    matrix = MatrixMarket(
        matrix_path, n_cells=len(names), n_genes=len(genes), scratch=scratch, memory_bytes=memory_bytes
    )
    return InputParts({"X": Candidate("matrix", lambda: matrix, lambda: genes)}, NamesOnly(names), matrix.close)


class MatrixMarket(Transposed):
    """A sparse matrix as text, genes x cells or the other way round; made into rows on disk when it is first read.

    Raises
    ------
    ValueError
        If the head of the file is not that of such a matrix, or does not fit the numbers of cells and genes.
    """

    def __init__(self, path: Path, *, n_cells: int, n_genes: int, scratch: Path, memory_bytes: int) -> None:
        self._path = path
        self._head, n_rows, n_columns, self._n_entries = _read_head(path)
        if (n_rows, n_columns) not in {(n_genes, n_cells), (n_cells, n_genes)}:
            raise ValueError(
                f"{path.name} is {n_rows:,} x {n_columns:,}, but there are {n_genes:,} genes and {n_cells:,} barcodes"
            )
        self._genes_first = (n_rows, n_columns) == (n_genes, n_cells)
        shape = n_cells, n_genes
        rows = RowsOnDisk(scratch, shape=shape, n_entries=self._n_entries, memory_bytes=memory_bytes)
        super().__init__(shape=shape, rows=rows)

    def sample(self) -> np.ndarray:
        """Give the first stored values: a text has no places to jump to."""
        if not self._n_entries:
            return np.empty(0)
        with _open(self._path) as stream:
            return np.asarray(self._table(stream, nrows=_LINES // 4)["value"])

    def _table(self, stream: Any, **options: Any) -> Any:
        return pd.read_csv(
            stream,
            sep=r"\s+",
            header=None,
            skiprows=self._head,
            names=["row", "column", "value"],
            comment="%",
            **options,
        )

    def _entries(self) -> Iterator[Entries]:
        n_read = 0
        if self._n_entries:
            with _open(self._path) as stream:
                for part in self._table(stream, chunksize=_LINES):
                    n_read += len(part)
                    rows, columns = part["row"].to_numpy() - 1, part["column"].to_numpy() - 1
                    cells, genes = (columns, rows) if self._genes_first else (rows, columns)
                    yield cells, genes, part["value"].to_numpy()
        if n_read != self._n_entries:
            raise ValueError(f"{self._path.name} has {n_read:,} entries, but its head says {self._n_entries:,}")


def _genomes(root: Any) -> list[str]:
    needed = {"barcodes", "data", "indices", "indptr", "shape"}
    return [key for key in root if isinstance(root[key], h5py.Group) and needed <= set(root[key])]


def _read_features(group: Any) -> pd.DataFrame:
    if "features" not in group:
        return pd.DataFrame(
            {"gene_ids": as_strings(group["genes"][:])}, index=pd.Index(as_strings(group["gene_names"][:]))
        )
    features = group["features"]
    columns = {"gene_ids": as_strings(features["id"][:])}
    if "feature_type" in features:
        columns["feature_types"] = as_strings(features["feature_type"][:])
    return pd.DataFrame(columns, index=pd.Index(as_strings(features["name"][:]), dtype=object))


def _read_features_table(path: Path) -> pd.DataFrame:
    table = _read_table(path)
    names = pd.Index(table[min(1, table.shape[1] - 1)], dtype=object)
    columns = {"gene_ids": table[0].to_numpy()}
    if table.shape[1] > 2:
        columns["feature_types"] = table[2].to_numpy()
    return pd.DataFrame(columns, index=names)


def _read_table(path: Path) -> pd.DataFrame:
    with _open(path) as stream:
        return pd.read_csv(stream, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)


def _only(folder: Path, *names: str) -> Path:
    """Find one file by how its name ends: a prefix, as GEO puts before it, and .gz are taken too."""
    found = sorted(path for name in names for end in ("", ".gz") for path in folder.glob(f"*{name}{end}"))
    plain = {path.name.removesuffix(".gz") for path in found}
    if len(plain) > 1:
        raise InputError(f"It holds several samples: {', '.join(sorted(plain))}. Give each a folder of its own.")
    if not found:
        raise InputError(f"It has no {' or '.join(names)} (.gz or not).")
    return found[0]


def _open(path: Path) -> IO[Any]:
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")


def _read_head(path: Path) -> tuple[int, int, int, int]:
    """Give how many lines the head has, and the numbers of rows, columns and entries."""
    with _open(path) as stream:
        words = stream.readline().lower().split()
        if words[:1] != ["%%matrixmarket"] or words[2:] not in (["coordinate", kind, "general"] for kind in _NUMBERS):
            raise ValueError(f"{path.name} is not a sparse matrix in Matrix Market format")
        n_lines = 2
        while (line := stream.readline()).startswith("%") or (line and not line.strip()):
            n_lines += 1
        n_rows, n_columns, n_entries = (int(word) for word in line.split())
    return n_lines, n_rows, n_columns, n_entries


_NUMBERS = ("integer", "real")
