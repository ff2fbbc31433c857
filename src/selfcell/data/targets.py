"""What is predicted from a cell's genes: its proteins, its chromatin, or other values measured in the same cells."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from selfcell.core.errors import InputError, did_you_mean
from selfcell.data.counts import checked_sparse, find_fault
from selfcell.data.source import Cells

logger = logging.getLogger(__name__)

TargetKind = Literal["protein_counts", "chromatin_counts", "values"]
"""Counts of proteins, counts in peaks or genes of chromatin, or any numbers."""

_CHROMATIN = ("atac", "chromatin", "peak")
_SMALLEST_COUNTS = 2
"""The least that whole numbers must reach to be taken for counts: 0 and 1 may be categories."""


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
        What they are. By default a key that ends in ``_counts`` has counts, and so has one with whole numbers that are
        none below zero and not all 0 or 1, which is said; any other key has values. Counts are of chromatin where the
        key speaks of atac, chromatin or peaks, and else of proteins.

    Raises
    ------
    InputError
        If there is no such key; names are too few, too many or given twice; or the values are no counts where counts
        are needed, or no numbers.
    """
    if isinstance(adata, Cells) and adata.of_atlas:
        refuse_atlas(adata.origin, key)
    if key not in adata.obsm:
        raise InputError(f"There is nothing in obsm[{key!r}] to predict. {did_you_mean(key, list(adata.obsm))}")
    found, origin = adata.obsm[key], f"obsm[{key!r}]"
    matrix = _as_float32(found, origin)
    kind = kind or _kind_of(key, matrix)
    if kind == "protein_counts" and not isinstance(matrix, np.ndarray):
        matrix = matrix.toarray()
    _refuse_faults(matrix, kind, origin)
    names = _names(found, adata.uns, key, names_key, n_targets=matrix.shape[1])
    return Targets(matrix, names, kind, origin)


def refuse_atlas(atlas: str | Path, key: str) -> NoReturn:
    """Say why an atlas has nothing in ``obsm``, and what to give instead.

    Parameters
    ----------
    atlas
        Its name or folder.
    key
        What is asked for.

    Raises
    ------
    InputError
        Always.
    """
    raise InputError(
        f"{atlas} is an atlas, which keeps counts and obs alone: there is no obsm[{key!r}] in it to predict. Give the "
        ".h5ad or .h5mu file that it was built of."
    )


def _kind_of(key: str, matrix: np.ndarray | sp.csr_matrix) -> TargetKind:
    counts: TargetKind = "protein_counts"
    if any(word in key.lower() for word in _CHROMATIN):
        counts = "chromatin_counts"
    if key.endswith("_counts"):
        return counts
    stored = matrix if isinstance(matrix, np.ndarray) else matrix.data
    if find_fault(stored.ravel()) is not None or not stored.size or stored.max() < _SMALLEST_COUNTS:
        return "values"
    logger.info(
        "obsm[%r] has whole numbers, so they are taken for counts (kind=%s). To predict them as they are: kind=values.",
        key,
        counts,
    )
    return counts


def _as_float32(found: Any, origin: str) -> np.ndarray | sp.csr_matrix:
    if isinstance(found, pd.DataFrame):
        words = [str(name) for name, dtype in found.dtypes.items() if not pd.api.types.is_numeric_dtype(dtype)]
        if words:
            raise InputError(
                f"Column {words[0]!r} of {origin} has no numbers. Drop it, or keep what is known of cells in obs."
            )
        found = found.to_numpy()
    if sp.issparse(found):
        return sp.csr_matrix(checked_sparse(found, origin), dtype=np.float32)
    try:
        matrix = np.asarray(found, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{origin} has values that are no numbers ({error}).") from error
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
