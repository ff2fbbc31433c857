"""One read-only face on what holds cells: AnnData or MuData in memory, .h5ad and .h5mu files, AnnData .zarr folders."""

import dataclasses
import hashlib
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool

from selfcell.core.errors import InputError, did_you_mean, speaking_of
from selfcell.core.memory import available_memory
from selfcell.data.atlas.export import export_cells
from selfcell.data.atlas.index import is_atlas, is_url, read_index
from selfcell.data.counts import Scale, find_counts
from selfcell.data.declared_size import refuse_too_large
from selfcell.data.genes import Alignment, GeneTable, align_genes
from selfcell.data.mudata_input import RNA, MuDataLike, adata_of_mudata, modality_of, read_mudata
from selfcell.data.obs_query import no_cells_message, query_mask
from selfcell.data.streamed import CodedColumn

logger = logging.getLogger(__name__)

_BYTES_A_VALUE = 24
"""Of a non-zero count of an atlas: shards, and the matrix that they are put together to, lie in memory at once."""
CellSource: TypeAlias = anndata.AnnData | MuDataLike | str | Path
"""What functions that take cells accept: an AnnData, a MuData, the path of an .h5ad or .h5mu file, of a .zarr folder
or of an atlas."""


@dataclass(frozen=True)
class Cells:
    """Raw counts of cells with what is known of them; read-only."""

    counts: sp.csr_matrix
    """Cells x genes, float32."""
    genes: GeneTable
    obs: pd.DataFrame
    origin: str
    """The file they came from, or ``adata``."""
    counts_address: str
    """Where the counts were found, such as ``layers['counts']``."""
    scale: str
    """``counts``, or ``log1p`` where normalization was undone at the user's word."""
    alignment: Alignment | None = None
    """How they were put into an encoder's order of genes, if they were."""
    measured: Bool[np.ndarray, " n_genes"] | None = None
    """Which of the genes were measured in all cells; the others, which an encoder has and they lack, are zero. None
    for all."""
    obsm: Mapping[str, Any] = field(default_factory=dict)
    """What else was measured or computed of each cell, as in AnnData: proteins, chromatin, embeddings."""
    uns: Mapping[str, Any] = field(default_factory=dict)
    of_atlas: bool = False
    """Whether they were read from an atlas, which keeps counts and obs alone."""

    def __len__(self) -> int:
        return int(self.counts.shape[0])

    def subset(self, rows: np.ndarray) -> "Cells":
        """Give some of the cells, by position, in the order asked for."""
        obsm = {
            key: part.iloc[rows] if isinstance(part, pd.DataFrame) else part[rows] for key, part in self.obsm.items()
        }
        return dataclasses.replace(self, counts=self.counts[rows], obs=self.obs.iloc[rows], obsm=obsm)

    def aligned_to(self, genes: GeneTable, *, allow_low_overlap: bool = False) -> "Cells":
        """Put the cells into an encoder's order of genes; see :func:`selfcell.data.genes.align_genes`."""
        alignment = align_genes(self.genes, genes, self.counts, allow_low_overlap=allow_low_overlap)
        column = alignment.column_of_gene
        measured = column >= 0 if self.measured is None else (column >= 0) & self.measured[column]
        aligned = dataclasses.replace(
            self,
            counts=alignment.apply(self.counts),
            genes=genes,
            alignment=alignment,
            measured=None if measured.all() else measured,
        )
        refuse_empty_cells(aligned)
        return aligned

    def where(self, query: str) -> "Cells":
        """Keep the cells for which a query over obs columns holds, as in :meth:`pandas.DataFrame.query`.

        Raises
        ------
        InputError
            If the query cannot be understood or holds for no cell.
        """
        chosen = np.flatnonzero(query_mask(self.obs, query))
        if not chosen.size:
            named = [name for name in self.obs.columns if str(name) in query]
            raise InputError(no_cells_message(query, [self.obs[named]]))
        return self.subset(chosen)

    def with_value_in(self, key: str, *, role: str) -> "Cells":
        """Keep the cells that have a value in an obs column, and say how many have none.

        Raises
        ------
        InputError
            If there is no such column, or no cell has a value.
        """
        if key not in self.obs or not (missing := self.obs[key].isna().to_numpy()).any():
            obs_column(self.obs, key, role=role)
            return self
        if missing.all():
            raise InputError(f"No cell has a value in obs[{key!r}], used as {role}.")
        logger.info(
            "%s of %s cells have no value in obs[%r], used as %s, and are left out.",
            f"{int(missing.sum()):,}",
            f"{len(self):,}",
            key,
            role,
        )
        return self.subset(np.flatnonzero(~missing))

    def coded(self, key: str, *, role: str) -> CodedColumn:
        """Give an obs column of names as codes; see :func:`obs_column`."""
        names, codes, sizes = np.unique(
            obs_column(self.obs, key, role=role).to_numpy(dtype=str), return_inverse=True, return_counts=True
        )
        return CodedColumn(codes.astype(np.int64), tuple(map(str, names)), sizes)

    def fingerprint(self) -> str:
        """SHA-256 over counts, genes and cell names: the same cells give the same one, whatever file they lie in."""
        digest = hashlib.sha256()
        for part in (self.counts.indptr.astype(np.int64), self.counts.indices.astype(np.int32), self.counts.data):
            digest.update(np.ascontiguousarray(part).tobytes())
        digest.update("\n".join([*self.genes.ids, *map(str, self.obs.index)]).encode())
        return digest.hexdigest()


_READERS = {".h5mu": ("mudata.read_h5mu", "['rna']"), ".zarr": ("anndata.read_zarr", "")}
_COMMANDS = {"predict_modality": "predict"}
"""Of functions that are called otherwise than their command."""


def refuse_mudata(adata: Any, call: str) -> None:
    """Refuse to write into a file, or a MuData, whose cells may be others than those of its RNA, in another order.

    Parameters
    ----------
    adata
        What would be written into.
    call
        The name of the function, for the message.

    Raises
    ------
    InputError
        If it is no AnnData.
    """
    if isinstance(adata, str | Path):
        reader, part = _READERS.get(Path(adata).suffix, ("anndata.read_h5ad", ""))
        raise InputError(
            f"What {call} gives is written into an AnnData, but this is a path, {str(adata)!r}. Read it first: "
            f"adata = {reader}({str(adata)!r}){part}. Or give it to the command, which writes a file: selfcell "
            f"{_COMMANDS.get(call, call)} MODEL {adata} --out FILE{'.h5mu' if reader.startswith('mudata') else '.h5ad'}"
        )
    if not isinstance(adata, anndata.AnnData):
        raise InputError(
            f"What {call} gives is written into an AnnData, but this is a {type(adata).__name__}. Of a MuData give the "
            f"modality with the counts: selfcell.{call}(mdata['rna'], ...); mdata.update() then knows of it."
        )


def open_cells(
    source: CellSource, *, layer: str | None = None, scale: Scale = "auto", gene_column: str | None = None
) -> Cells:
    """Read cells and check them: counts, gene names, size.

    Parameters
    ----------
    source
        An AnnData or a MuData (never changed), or the path of an .h5ad or .h5mu file, of a .zarr folder in AnnData's
        layout, or of an atlas, which is read whole. Of a MuData the modality ``rna`` is taken, or that of
        ``cells.h5mu/gex``; see :func:`selfcell.data.mudata_input.adata_of_mudata`.
    layer, scale
        Where the counts are and what they are; see :func:`selfcell.data.counts.find_counts`.
    gene_column
        Column of ``var`` that names the genes, instead of ``var_names``.

    Raises
    ------
    InputError
        If the file cannot be read, there are no cells or genes, there are no counts, or gene names are unusable.
    """
    of_atlas = False
    if isinstance(source, str | Path):
        adata, origin, of_atlas = read_adata(source), _name_of(Path(source)), is_atlas(source)
    elif isinstance(source, anndata.AnnData):
        adata, origin = source, "adata"
    else:
        adata, origin = adata_of_mudata(source), "mdata"
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise InputError(f"{origin} is empty: {adata.n_obs:,} cells x {adata.n_vars:,} genes.")
    with speaking_of(origin):
        cells = _checked(adata, origin, layer=layer, scale=scale, gene_column=gene_column)
    return dataclasses.replace(cells, of_atlas=of_atlas)


def _checked(adata: anndata.AnnData, origin: str, *, layer: str | None, scale: Scale, gene_column: str | None) -> Cells:
    found = find_counts(adata, layer=layer, scale=scale)
    return Cells(
        counts=found.matrix,
        genes=GeneTable.from_var(found.var, gene_column=gene_column),
        obs=adata.obs,
        origin=origin,
        counts_address=found.address,
        scale=found.scale,
        obsm=dict(adata.obsm),
        uns=dict(adata.uns),
    )


def read_adata(path: str | Path) -> anndata.AnnData:
    """Read an AnnData from an .h5ad file, an .h5mu file, a .zarr folder, or all of an atlas.

    Of an .h5mu file the modality ``rna`` is taken, or that which is named behind the file: ``cells.h5mu/gex``.

    Raises
    ------
    InputError
        If there is no such file, it is of another kind (a URL), it is damaged, or an atlas does not fit in memory.
    """
    if is_url(path):
        raise InputError(
            f"{path} is a URL. Cells are read from files on this machine; only atlases are streamed from elsewhere, "
            "by `selfcell pretrain`, `embed` and `doctor`."
        )
    path, modality = modality_of(Path(path)) or (Path(path), RNA)
    if is_atlas(path):
        return _read_atlas(path)
    if (path / ".build").is_dir():
        read_index(path)  # says that it is not finished
    readers: dict[str, Callable[[Path], anndata.AnnData]] = {
        ".h5ad": anndata.read_h5ad,
        ".zarr": anndata.read_zarr,
        ".h5mu": lambda path: _of_modality(path, modality),
    }
    if not path.exists():
        beside = sorted(other.name for other in path.parent.glob("*") if other.suffix in readers)
        raise InputError(
            f"There is no file {str(path)!r}. {did_you_mean(path.name, beside) if beside else ''}".rstrip()
        )
    if path.suffix not in readers:
        raise InputError(
            f"{path} is none of .h5ad, .h5mu and .zarr. Convert it first, for example with scanpy's readers."
        )
    refuse_too_large(path)
    try:
        with warnings.catch_warnings():
            # What matters of these is checked, and refused in our own words.
            warnings.filterwarnings("ignore", message=".*names are not unique.*")
            return readers[path.suffix](path)
    except InputError:
        raise
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise InputError(
            f"{path} cannot be read as an AnnData file ({path.stat().st_size:,} bytes): {first_line}. "
            "It may be truncated, so copy or download it again; or it was written by a newer anndata."
        ) from error


def _of_modality(path: Path, modality: str) -> anndata.AnnData:
    mdata = read_mudata(path)
    with speaking_of(path.name):
        return adata_of_mudata(mdata, modality)


def _name_of(path: Path) -> str:
    """Give the name of a file, with the modality where one is named behind it."""
    return path.name if modality_of(path) is None else f"{path.parent.name}/{path.name}"


def _read_atlas(atlas: Path) -> anndata.AnnData:
    index, free = read_index(atlas), available_memory()
    needed = _BYTES_A_VALUE * index.n_values
    if free is not None and needed > free:
        raise InputError(
            f"The {index.n_cells:,} cells of the atlas {atlas} take some {needed / 1e9:,.0f} GB as they are read, and "
            f"{free / 1e9:,.0f} GB are free. Write those that are to be used to a file: "
            f"selfcell atlas export {atlas} --where QUERY --out FILE.h5ad"
        )
    return export_cells(atlas)


def refuse_empty_cells(cells: Cells) -> None:
    """Refuse cells without a single count in the genes in use: there is nothing to say of them.

    Raises
    ------
    InputError
        With their number and the first of them.
    """
    empty = np.flatnonzero(np.diff(cells.counts.indptr) == 0)
    if empty.size:
        raise InputError(
            f"{empty.size:,} of {len(cells):,} cells in {cells.origin} have no counts in the genes used (the first is "
            f"{cells.obs.index[empty[0]]!r}). Remove them first; counts in other genes do not help."
        )


_MOST_OF_FEW = 50
"""Groups that even few cells may be in, as where each of a few cells is of its own donor."""
NO_VALUE = "(no value)"
"""The category of cells that have no value in a column, where they may have one of their own."""


def obs_column(
    obs: pd.DataFrame, key: str, *, role: str, missing: Literal["refuse", "own category"] = "refuse"
) -> pd.Series:
    """Give a column of ``obs`` as strings, whole.

    Parameters
    ----------
    obs
        What is known of the cells.
    key
        The column.
    role
        What it is used as, such as ``label``, for the message.
    missing
        Refuse cells without a value; or take them for a category of their own, :data:`NO_VALUE`, and say so.

    Raises
    ------
    InputError
        If there is no such column (with the nearest names), some cells have no value in it, and may not, or batches or
        donors have one cell each.
    """
    if key not in obs.columns:
        raise InputError(f"There is no column {key!r} in obs to use as {role}. {did_you_mean(key, list(obs.columns))}")
    column = obs[key]
    if role in {"batch", "donor"} and column.nunique() > max(len(column) // 2, _MOST_OF_FEW):
        raise InputError(
            f"obs[{key!r}] has {column.nunique():,} different values for {len(column):,} cells, so it looks like a "
            f"measurement or a name of each cell, and cannot be used as {role}. Give a column that groups cells."
        )
    n_missing = int(column.isna().sum())
    if n_missing and missing == "own category":
        logger.warning(
            "%s of %s cells have no value in obs[%r], used as %s: they are taken for one of their own, %r.",
            f"{n_missing:,}",
            f"{len(column):,}",
            key,
            role,
            NO_VALUE,
        )
        return cast("pd.Series", column.astype(object).where(column.notna(), NO_VALUE).astype(str))
    if n_missing:
        raise InputError(
            f"{n_missing:,} of {len(column):,} cells have no value in obs[{key!r}], used as {role}. "
            "Drop these cells, or give them a value of their own."
        )
    return cast("pd.Series", column.astype(str))


def encode(column: pd.Series, classes: tuple[str, ...]) -> np.ndarray:
    """Give the position of each value in ``classes``, or -1 where it is none of them."""
    codes: Any = pd.Categorical(column, categories=list(classes)).codes
    return np.asarray(codes, dtype=np.int64)
