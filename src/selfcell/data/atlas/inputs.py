"""One face on a file of cells, whatever its format: read block by block, each block checked to be counts.

=========== ==========================================================================================================
.h5ad       AnnData; counts by rows, by columns or dense, in ``layers['counts']``, ``X`` or ``raw.X``
.zarr       AnnData in a Zarr folder, format 2 or 3; the same
.h5         Cell Ranger's, version 2 or later (or an AnnData: the content decides)
folder      Cell Ranger's ``matrix.mtx``, ``features.tsv`` or ``genes.tsv``, ``barcodes.tsv``, each .gz or not
.loom       ``matrix`` or a layer; read with h5py alone, since loompy is no longer kept up
a query     of the CELLxGENE Census: :class:`~selfcell.data.atlas.census.CensusCells`
=========== ==========================================================================================================
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
import zarr

from selfcell.core.errors import InputError, did_you_mean
from selfcell.data.atlas.census import CensusCells
from selfcell.data.atlas.count_blocks import CountBlocks, NotCountsError, as_counts, describe_fault
from selfcell.data.atlas.index import is_atlas
from selfcell.data.atlas.input_anndata import open_anndata
from selfcell.data.atlas.input_census import open_census
from selfcell.data.atlas.input_loom import is_loom, open_loom
from selfcell.data.atlas.input_parts import Candidate, InputParts
from selfcell.data.atlas.input_tenx import is_tenx, is_tenx_folder, open_tenx, open_tenx_folder
from selfcell.data.atlas.places import Place, as_place
from selfcell.data.atlas.vocabulary import InputGenes

logger = logging.getLogger(__name__)

_HDF5 = {".h5ad", ".h5", ".hdf5", ".loom"}
_GENES_ARE = "Gene Expression"
_NO_COUNTS = "Name the layer that has them (--layer NAME); a file without raw counts cannot be used."


class CellInput:
    """One open input; a context manager.

    Made by :func:`open_input`.
    """

    def __init__(
        self, path: Place, parts: InputParts, *, counts: tuple[str, CountBlocks], var: pd.DataFrame, genes: InputGenes
    ) -> None:
        self.path = path
        self.counts_address, self._blocks = counts
        """Where the counts are, such as ``X`` or ``layers['counts']``."""
        self.n_cells = self._blocks.shape[0]
        self._kept = _gene_columns(var, path)
        self.genes = genes if self._kept is None else genes.subset(self._kept)
        """Names as in the file, in the order of the columns; duplicates are allowed."""
        self.obs_kinds = dict(parts.cells.kinds)
        """Column of ``obs`` to ``category``, ``number`` or ``bool``; strings are ``category``."""
        self._parts = parts

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Read cells ``start`` to ``stop``.

        Returns
        -------
        Cells x genes of the file; uint32, genes ascending within a cell, no zeros; what stands twice is summed.

        Raises
        ------
        InputError
            If a value is not a count, naming the first such cell; or if the file is damaged.
        """
        with _readable(self.path):
            try:
                block = self._blocks.read(start, stop)
            except NotCountsError as error:
                raise InputError(
                    f"{self.path}: {self.counts_address} {error.fault}; the first such cell is "
                    f"{self.names()[error.cell]!r}. Raw counts are needed: whole numbers, none negative. "
                    f"{_NO_COUNTS}"
                ) from error
        return block if self._kept is None else sp.csr_matrix(block[:, self._kept])

    def names(self) -> pd.Index:
        """Give the names of the cells, as strings."""
        if (n_named := self._parts.cells.n_rows) != self.n_cells:
            raise InputError(f"{self.path} names {n_named:,} cells, but has counts of {self.n_cells:,}.")
        with _readable(self.path):
            return self._parts.cells.names()

    def obs(self, columns: Sequence[str]) -> pd.DataFrame:
        """Read some columns of ``obs``, all cells, indexed by their names.

        Raises
        ------
        InputError
            If there is no such column, or the file is damaged.
        """
        unknown = [column for column in columns if column not in self.obs_kinds]
        if unknown:
            hint = did_you_mean(unknown[0], list(self.obs_kinds))
            raise InputError(f"{self.path} has no column {unknown[0]!r} in obs. {hint}")
        names = self.names()
        with _readable(self.path):
            read = {column: self._parts.cells.column(column) for column in columns}
            return pd.DataFrame(read, index=names, columns=list(columns))

    def block_size(self, memory_bytes: int) -> int:
        """Give how many cells :meth:`read` can take at once so that it stays under ``memory_bytes``; at least one.

        Counts stored by genes or as text are put into rows of cells first, in ``scratch``.
        """
        try:
            with _readable(self.path):
                # Leaving out columns takes a copy.
                return self._blocks.block_size(memory_bytes if self._kept is None else memory_bytes // 2)
        except NotCountsError:
            # Said by the first read, with the cell's name.
            return 1

    def close(self) -> None:
        """Close the file and remove what was written to ``scratch``."""
        self._parts.close()

    def __enter__(self) -> "CellInput":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_input(
    path: str | Path | CensusCells,
    *,
    layer: str | None = None,
    gene_column: str | None = None,
    scratch: Path,
    memory_bytes: int,
) -> CellInput:
    """Open a file of cells; only a sample of its counts is read.

    Parameters
    ----------
    path
        See the table above.
    layer
        Where the counts are: a layer, ``"X"`` or ``"raw.X"``. Without it, the first of ``layers['counts']``, ``X`` and
        ``raw.X`` is taken whose sample holds counts. 10x files have one matrix, so there it says nothing.
    gene_column
        Column of ``var`` that names the genes, instead of their index.
    scratch
        Where counts stored by genes or as text are put into rows of cells.
    memory_bytes
        What that may take.

    Raises
    ------
    InputError
        If the file is missing, of another kind, damaged, empty, or holds no counts.
    """
    path = as_place(path)
    parts = _open_parts(path, scratch=scratch, memory_bytes=memory_bytes)
    try:
        with _readable(path):
            chosen, blocks = _choose_counts(parts, layer)
            if 0 in blocks.shape:
                raise InputError(f"It is empty: {blocks.shape[0]:,} cells x {blocks.shape[1]:,} genes.")
            if (n_named := parts.cells.n_rows) != blocks.shape[0]:
                raise ValueError(f"{n_named:,} cells are named, but {chosen.address} has {blocks.shape[0]:,}")
            var = chosen.var()
            genes = InputGenes.from_var(var, gene_column=gene_column)
            if len(genes) != blocks.shape[1]:
                raise ValueError(
                    f"{chosen.address} has {blocks.shape[1]:,} columns, but {len(genes):,} genes are named"
                )
            return CellInput(path, parts, counts=(chosen.address, blocks), var=var, genes=genes)
    except BaseException:
        parts.close()
        raise


def _open_parts(path: Place, *, scratch: Path, memory_bytes: int) -> InputParts:
    if isinstance(path, CensusCells):
        return open_census(path, scratch=scratch, memory_bytes=memory_bytes)
    if not path.exists():
        beside = sorted(other.name for other in path.parent.glob("*") if not other.name.startswith("."))
        raise InputError(
            f"There is no file {str(path)!r}. {did_you_mean(path.name, beside) if beside else ''}".rstrip()
        )
    if is_atlas(path):
        raise InputError(
            f"{path} is an atlas. To add files to it: selfcell atlas append {path} INPUT...; to make one of several "
            "atlases, build it of the files that they were built of."
        )
    with _readable(path):
        if is_tenx_folder(path):
            return open_tenx_folder(path, scratch=scratch, memory_bytes=memory_bytes)
        if path.is_dir() and any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zattrs")):
            return open_anndata(zarr.open_group(path, mode="r"), scratch=scratch, memory_bytes=memory_bytes)
        if path.is_file() and path.suffix in _HDF5:
            return _open_hdf5(h5py.File(path, "r"), scratch=scratch, memory_bytes=memory_bytes)
    raise InputError(
        f"{path} is none of the kinds that can be read: .h5ad, AnnData .zarr, 10x .h5, a folder with 10x matrix.mtx, "
        ".loom. Convert it first, for example with scanpy's readers."
    )


def _open_hdf5(file: h5py.File, *, scratch: Path, memory_bytes: int) -> InputParts:
    try:
        if is_loom(file):
            return open_loom(file)
        if "obs" in file and "var" in file:
            return open_anndata(file, scratch=scratch, memory_bytes=memory_bytes)
        if is_tenx(file):
            return open_tenx(file)
        raise InputError("It is HDF5, but neither an AnnData nor Cell Ranger's nor loom.")
    except BaseException:
        file.close()
        raise


def _choose_counts(parts: InputParts, layer: str | None) -> tuple[Candidate, CountBlocks]:
    """Give the first candidate whose sample holds counts."""
    only = list(parts.candidates.values())
    refusals = []
    for candidate in only if [one.address for one in only] == ["matrix"] else parts.choose(layer):
        blocks = candidate.open()
        values = blocks.sample()
        if as_counts(values)[1] is None:
            return candidate, blocks
        refusals.append(f"{candidate.address} {describe_fault(values)}")
    # Looked for only now: a mistaken guess must never be taken in silence.
    others = [key for key in parts.candidates if key not in parts.usual and key != layer and _holds_counts(parts, key)]
    remedy = (
        f"layers[{others[0]!r}] holds counts: pass layer={others[0]!r} (--layer {others[0]})." if others else _NO_COUNTS
    )
    raise InputError(f"Raw counts are needed, but {'; '.join(refusals)}. {remedy}")


def _holds_counts(parts: InputParts, key: str) -> bool:
    return as_counts(parts.candidates[key].open().sample())[1] is None


def _gene_columns(var: pd.DataFrame, path: Place) -> np.ndarray | None:
    """Give the columns that are genes where the file also has proteins or peaks, else None."""
    if "feature_types" not in var.columns:
        return None
    is_gene = (var["feature_types"].astype(str) == _GENES_ARE).to_numpy()
    if is_gene.all() or not is_gene.any():
        return None
    others = ", ".join(sorted(set(var["feature_types"].astype(str)[~is_gene])))
    logger.warning("%s: %s features are not genes (%s) and are left out.", path, f"{(~is_gene).sum():,}", others)
    return np.flatnonzero(is_gene)


@contextlib.contextmanager
def _readable(path: Place) -> Iterator[None]:
    """Turn what the libraries raise on a damaged file into words."""
    try:
        yield
    except NotCountsError:
        raise
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from error
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise InputError(
            f"{path} cannot be read: {first_line}. It may be truncated or damaged: copy or download it again."
        ) from error
