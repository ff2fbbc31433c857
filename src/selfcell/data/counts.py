"""Find the raw counts of an AnnData, and refuse what is not counts before any work begins."""

import logging
from dataclasses import dataclass
from typing import Any, Literal

import anndata
import numpy as np
import scipy.sparse as sp

from selfcell.core.errors import InputError, did_you_mean

logger = logging.getLogger(__name__)

TARGET_TOTAL = 10_000.0
"""Counts per cell after size-factor normalization."""

Scale = Literal["auto", "counts", "log1p"]
"""What the values are: ``auto`` takes whole numbers only; ``counts`` also takes fractional counts, as ambient-RNA
removal leaves them; ``log1p`` takes the natural logarithm of 1 + counts scaled to one total per cell, and undoes it."""


@dataclass(frozen=True)
class CountMatrix:
    """Counts, and where they were found."""

    matrix: sp.csr_matrix
    """Cells x genes, float32, no negative values, no explicit zeros."""
    address: str
    """The place as a user would type it, such as ``layers['counts']``."""
    var: Any
    """The genes that belong to the columns: ``adata.var`` or ``adata.raw.var``."""
    scale: Literal["counts", "log1p"]
    """How the values were read."""


def find_counts(adata: anndata.AnnData, *, layer: str | None = None, scale: Scale = "auto") -> CountMatrix:
    """Find raw counts.

    With ``layer`` and ``scale`` left alone, ``layers["counts"]``, ``X`` and ``raw.X`` are looked at in this order, and
    the first that holds whole non-negative numbers is taken; which one it was is logged.

    Parameters
    ----------
    adata
        Cells x genes. It is not changed.
    layer
        A key of ``adata.layers``, or ``"X"`` or ``"raw.X"``, to take that and nothing else.
    scale
        What the values are, see :data:`Scale`.

    Raises
    ------
    InputError
        If no candidate holds counts, naming for each what it holds instead.
    """
    candidates = _candidates(adata, layer=layer)
    refusals: list[str] = []
    for address, matrix, var in candidates:
        counts = sp.csr_matrix(checked_sparse(matrix, address), dtype=np.float32)
        fault = find_fault(counts.data, scale=scale)
        if fault is None:
            _say_where_from(address, refusals)
            return CountMatrix(
                matrix=_to_counts(counts, scale=scale),
                address=address,
                var=var,
                scale="log1p" if scale == "log1p" else "counts",
            )
        refusals.append(f"{address} {fault}")
        if scale != "auto":
            break
    raise InputError(_no_counts_message(adata, refusals, layer=layer, scale=scale))


def checked_sparse(matrix: Any, address: str) -> Any:
    """Refuse a sparse matrix whose arrays do not fit one another; give any other matrix as it is.

    Nobody checks them before, and compiled loops would read and write past the ends of arrays.

    Parameters
    ----------
    matrix
        Sparse by rows or by columns, or dense.
    address
        What to call it.

    Raises
    ------
    InputError
        If indices lie outside of it, offsets do not ascend, numbers of values and indices differ, or it is no matrix.
    """
    if getattr(matrix, "ndim", None) != 2:
        raise InputError(f"{address} is no matrix of cells x genes.")
    if isinstance(matrix, sp.csr_matrix | sp.csc_matrix | sp.csr_array | sp.csc_array):
        try:
            matrix.check_format(full_check=True)
        except (ValueError, IndexError, TypeError) as error:
            raise InputError(
                f"{address} is a sparse matrix that does not hold together: {error}. It is damaged: make it again."
            ) from error
    return matrix


def log_normalize(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Give ``log1p`` of counts scaled to 10,000 per cell, sparse; what the network sees, for methods outside torch."""
    total = np.asarray(counts.sum(axis=1)).ravel()
    scale = TARGET_TOTAL / np.where(total > 0, total, 1)
    expression = counts.copy()
    expression.data = np.log1p(expression.data * np.repeat(scale, np.diff(counts.indptr)).astype(np.float32))
    return expression


def _say_where_from(address: str, refusals: list[str]) -> None:
    """Say which matrix is taken and which were passed over; loudly where their name promises counts."""
    if refusals:
        level = logging.WARNING if refusals[0].startswith("layers") else logging.INFO
        logger.log(level, "Counts are taken from %s, since %s.", address, " and ".join(refusals))
    elif address != "X":
        logger.info("Counts are taken from %s.", address)


def _candidates(adata: anndata.AnnData, *, layer: str | None) -> list[tuple[str, Any, Any]]:
    """List (address, matrix, var) in the order of preference."""
    found: dict[str, tuple[str, Any, Any]] = {}
    if "counts" in adata.layers:
        found["counts"] = ("layers['counts']", adata.layers["counts"], adata.var)
    if adata.X is not None:
        found["X"] = ("X", adata.X, adata.var)
    if adata.raw is not None:
        found["raw.X"] = ("raw.X", adata.raw.X, adata.raw.var)
    for key in adata.layers:
        found.setdefault(key, (f"layers[{key!r}]", adata.layers[key], adata.var))
    if layer is not None:
        if layer not in found:
            raise InputError(f"There is no layer {layer!r}. {did_you_mean(layer, list(found))}")
        return [found[layer]]
    usual = [found[key] for key in ("counts", "X", "raw.X") if key in found]
    if not usual:
        raise InputError("The data hold no matrix: X, raw.X and layers['counts'] are all missing.")
    return usual


def find_fault(values: np.ndarray, *, scale: Scale = "auto") -> str | None:
    """Say what is wrong with stored values, such as ``has negative values``, or None if nothing is."""
    if not np.isfinite(values).all():
        return "has values that are NaN or infinite"
    if values.size and values.min() < 0:
        return f"has negative values (smallest {values.min():g}), so it looks scaled or centred"
    if scale == "auto":
        fractional = values[values != np.rint(values)]
        if fractional.size:
            kind = "so it looks log-normalized" if values.max() < 20 else "so it looks normalized but not logged"
            shown = f"the first is {fractional[0]:g}, the largest {values.max():g}"
            return f"has fractional values ({shown}), {kind}"
    if scale == "log1p" and values.size and values.max() > 20:
        return f"reaches {values.max():g}, too large for log1p values"
    return None


def _to_counts(matrix: sp.csr_matrix, *, scale: Scale) -> sp.csr_matrix:
    if scale == "auto" and matrix.has_canonical_format and matrix.data.all():
        return matrix
    # A copy: the arrays may be the user's own.
    matrix = matrix.copy()
    matrix.sum_duplicates()
    if scale == "log1p":
        # Proportional to the counts within each cell, and that is all that size-factor normalization keeps.
        np.expm1(matrix.data, out=matrix.data)
    matrix.eliminate_zeros()
    return matrix


def _holds_counts(adata: anndata.AnnData, key: str) -> bool:
    matrix = checked_sparse(adata.layers[key], f"layers[{key!r}]")
    return find_fault(sp.csr_matrix(matrix).data, scale="auto") is None


def _no_counts_message(adata: anndata.AnnData, refusals: list[str], *, layer: str | None, scale: Scale) -> str:
    message = "Raw counts are needed, but " + "; ".join(refusals) + "."
    # Looked for only now: a mistaken guess must never be taken in silence.
    others = [key for key in adata.layers if key != "counts" and key != layer and _holds_counts(adata, key)]
    if others:
        return f"{message} layers[{others[0]!r}] holds counts: pass layer={others[0]!r} (--layer {others[0]})."
    if scale == "auto" and "log-normalized" in message:
        return (
            f"{message} Pass the layer that has the counts (--layer NAME), or, if there is none and the values are "
            "log1p of counts scaled to one total per cell, say so with scale='log1p' (--scale log1p)."
        )
    if scale == "auto" and "fractional" in message:
        return (
            f"{message} Pass the layer that has the counts (--layer NAME); or, if these are counts corrected for "
            "ambient RNA, say so with scale='counts' (--scale counts)."
        )
    return f"{message} Store the counts in adata.layers['counts'], or pass the layer that has them (--layer NAME)."
