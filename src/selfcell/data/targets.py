"""What is predicted from a cell's genes: its proteins, its chromatin, or other values measured in the same cells."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from selfcell.core.errors import InputError, did_you_mean
from selfcell.data.counts import find_fault
from selfcell.data.source import Cells

logger = logging.getLogger(__name__)

TargetKind = Literal["protein_counts", "chromatin_counts", "values"]
"""Counts of proteins, counts in peaks or genes of chromatin, or any numbers."""

_CHROMATIN = ("atac", "chromatin", "peak")


@dataclass(frozen=True)
class Targets:
    """Values of cells that are to be predicted; read-only."""

    matrix: np.ndarray | sp.csr_matrix
    """Cells x targets, float32; proteins are dense."""
    names: tuple[str, ...]
    kind: TargetKind
    origin: str
    """Where they were found, such as ``obsm['protein_counts']``."""

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    def subset(self, rows: np.ndarray) -> "Targets":
        """Give those of some cells, by position, in the order asked for."""
        return dataclasses.replace(self, matrix=self.matrix[rows])

    def columns(self, positions: np.ndarray) -> "Targets":
        """Give some of the targets, by position, in the order asked for."""
        names = tuple(self.names[position] for position in positions)
        return dataclasses.replace(self, matrix=self.matrix[:, positions], names=names)


def read_targets(
    adata: anndata.AnnData | Cells, key: str, *, names_key: str | None = None, kind: TargetKind | None = None
) -> Targets:
    """Read targets from ``obsm``.

    Parameters
    ----------
    adata
        Cells. It is not changed.
    key
        The key of ``obsm``: an array, a sparse matrix or a table.
    names_key
        The key of ``uns`` that has their names. By default the columns of a table; else ``uns`` under the key with
        ``_names`` for ``_counts``, as the data sets of :func:`selfcell.data.datasets.load` have them; else targets are
        numbered, and a line says so.
    kind
        What they are. By default a key that ends in ``_counts`` has counts, of chromatin where it speaks of atac,
        chromatin or peaks and else of proteins, and any other key has values.

    Raises
    ------
    InputError
        If there is no such key; names are too few, too many or given twice; or the values are no counts where counts
        are needed, or no numbers.
    """
    if key not in adata.obsm:
        raise InputError(f"There is nothing in obsm[{key!r}] to predict. {did_you_mean(key, list(adata.obsm))}")
    found, origin = adata.obsm[key], f"obsm[{key!r}]"
    kind = kind or _kind_of(key)
    matrix = _as_float32(found, origin, dense=kind == "protein_counts")
    _refuse_faults(matrix, kind, origin)
    names = _names(found, adata.uns, key, names_key, n_targets=matrix.shape[1])
    return Targets(matrix, names, kind, origin)


def _kind_of(key: str) -> TargetKind:
    if not key.endswith("_counts"):
        return "values"
    return "chromatin_counts" if any(word in key.lower() for word in _CHROMATIN) else "protein_counts"


def _as_float32(found: Any, origin: str, *, dense: bool) -> np.ndarray | sp.csr_matrix:
    if isinstance(found, pd.DataFrame):
        words = [str(name) for name, dtype in found.dtypes.items() if not pd.api.types.is_numeric_dtype(dtype)]
        if words:
            raise InputError(
                f"Column {words[0]!r} of {origin} has no numbers. Drop it, or keep what is known of cells in obs."
            )
        found = found.to_numpy()
    if sp.issparse(found) and not dense:
        return sp.csr_matrix(found, dtype=np.float32)
    matrix = np.asarray(found.toarray() if sp.issparse(found) else found, dtype=np.float32)
    return matrix[:, None] if matrix.ndim == 1 else matrix


def _refuse_faults(matrix: np.ndarray | sp.csr_matrix, kind: TargetKind, origin: str) -> None:
    stored = matrix if isinstance(matrix, np.ndarray) else matrix.data
    if kind == "values":
        if not np.isfinite(stored).all():
            raise InputError(f"{origin} has values that are NaN or infinite. Drop these cells, or fill the values in.")
        return
    fault = find_fault(stored.ravel())
    if fault is not None:
        raise InputError(
            f"{origin} {fault}, but counts are needed. Put the raw counts there, or, to predict these numbers as they "
            "are, say so with kind='values'."
        )


def _names(found: Any, uns: Mapping[str, Any], key: str, names_key: str | None, *, n_targets: int) -> tuple[str, ...]:
    usual = key.removesuffix("_counts") + "_names"
    if names_key is not None and names_key not in uns:
        raise InputError(f"There is nothing in uns[{names_key!r}]. {did_you_mean(names_key, list(uns))}")
    if names_key is None and isinstance(found, pd.DataFrame):
        names, where = tuple(map(str, found.columns)), f"the columns of obsm[{key!r}]"
    elif names_key is not None or usual in uns:
        where = names_key or usual
        names, where = tuple(map(str, np.asarray(uns[where]).ravel())), f"uns[{where!r}]"
    else:
        logger.info("obsm[%r] has no names in uns[%r]: its columns are numbered.", key, usual)
        stem = key.removesuffix("_counts")
        names, where = tuple(f"{stem}_{number}" for number in range(n_targets)), "their numbers"
    if len(names) != n_targets:
        raise InputError(f"{where} has {len(names):,} names, but obsm[{key!r}] has {n_targets:,} columns. Mend either.")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise InputError(
            f"{len(twice):,} names stand more than once in {where}, for example {twice[0]!r}. Rename them, or sum or "
            "drop the duplicates."
        )
    return names
