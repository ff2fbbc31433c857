"""MuData, several modalities of the same cells, as an AnnData of RNA that carries the others in ``obsm``."""

import logging
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import anndata
import numpy as np
import pandas as pd

from selfcell.core.errors import InputError, did_you_mean
from selfcell.core.extras import import_extra
from selfcell.data.counts import find_counts

logger = logging.getLogger(__name__)

RNA = "rna"
_CALLED = {"prot": "protein", "adt": "protein"}


@runtime_checkable
class MuDataLike(Protocol):
    """What is needed of a MuData, so that mudata need not be imported to know one."""

    mod: Mapping[str, Any]
    """AnnData objects by modality."""
    obs: pd.DataFrame
    axis: int


def read_mudata(path: Path) -> MuDataLike:
    """Read an .h5mu file.

    Raises
    ------
    InputError
        If mudata is not installed, or the file cannot be read.
    """
    mudata = import_extra("mudata", extra="mudata", use=f"{path} is a MuData file: reading it")
    try:
        with warnings.catch_warnings():
            # They announce changes of mudata's own, or say what is checked here in our own words.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", UserWarning)
            return cast("MuDataLike", mudata.read_h5mu(path))
    except Exception as error:
        raise InputError(what_damaged(path, error)) from error


def what_damaged(path: Path, error: object) -> str:
    """Say that a file cannot be read, and how that may be mended."""
    first_line = (str(error).strip() or type(error).__name__).split("\n")[0]
    return (
        f"{path} cannot be read as a MuData file ({path.stat().st_size:,} bytes): {first_line}. It may be truncated, "
        "so copy or download it again; or it is an AnnData file, which ends in .h5ad."
    )


def modality_of(path: Path) -> tuple[Path, str] | None:
    """Tell apart the file and the modality in ``cells.h5mu/gex``, as mudata writes it; None for another path."""
    return (path.parent, path.name) if path.parent.suffix == ".h5mu" else None


def refuse_missing_modality(modality: str, known: Iterable[str]) -> None:
    """Refuse a modality that is not among those of a MuData.

    Raises
    ------
    InputError
        With the nearest name, and how to give another.
    """
    if modality not in (names := list(known)):
        raise InputError(
            f"There is no modality {modality!r} with the genes. {did_you_mean(modality, names)} Name it behind the "
            "file: cells.h5mu/NAME; of a MuData in memory, pass mdata[NAME], or with the other modalities "
            "selfcell.data.mudata_input.adata_of_mudata(mdata, modality=NAME)."
        )


def adata_of_mudata(mdata: MuDataLike, modality: str = RNA) -> anndata.AnnData:
    """Give one modality as an AnnData, with the counts of every other in ``obsm``.

    Counts of proteins (``prot``, ``adt``) come into ``obsm["protein_counts"]`` and their names into
    ``uns["protein_names"]``; those of another modality under its own name, such as ``atac_counts`` and ``atac_names``.
    A modality without raw counts is left out, and a line says why. Cells that lack a modality that is kept are
    dropped, and their number is logged. ``obs`` is that of the modality and of the MuData together.

    Parameters
    ----------
    mdata
        It is not changed.
    modality
        The modality that has the genes.

    Raises
    ------
    InputError
        If there is no such modality, no cell has all, cells are named twice, or a column of ``obs`` has other values
        in the MuData than in the modality.
    """
    if mdata.axis != 0:
        raise InputError("The modalities of this MuData do not share cells (its axis is not 0), but genes.")
    refuse_missing_modality(modality, mdata.mod)
    genes = mdata.mod[modality]
    others = _counts_of_others(mdata, modality)
    if len(mdata.mod) > 1:
        logger.info("Genes are those of modality %r of %s.", modality, ", ".join(mdata.mod))
    shared = _shared_cells(genes, {name: mdata.mod[name] for name in others}, modality)
    adata = genes[shared].copy()
    adata.obs = _joined_obs(adata.obs, mdata.obs, modality)
    for name, (counts, names) in others.items():
        called = _called(name, others)
        if f"{called}_counts" in adata.obsm:
            raise InputError(
                f"obsm[{f'{called}_counts'!r}] of modality {modality!r} is where the counts of {name!r} would come. "
                "Remove or rename either."
            )
        adata.obsm[f"{called}_counts"] = counts[mdata.mod[name].obs_names.get_indexer(shared)]
        adata.uns[f"{called}_names"] = np.array(names, dtype=object)
    return adata


def _counts_of_others(mdata: MuDataLike, modality: str) -> dict[str, tuple[Any, list[str]]]:
    found = {}
    for name, other in mdata.mod.items():
        if name == modality:
            continue
        try:
            counts = find_counts(other)
        except InputError as error:
            logger.warning("Modality %r is left out. %s", name, error)
        else:
            found[name] = (counts.matrix, list(map(str, counts.var.index)))
    return found


def _called(name: str, others: Mapping[str, Any]) -> str:
    """Give the name under which the package knows a modality, unless two would have it."""
    called = _CALLED.get(name.lower(), name)
    return name if sum(_CALLED.get(other.lower(), other) == called for other in others) > 1 else called


def _shared_cells(genes: anndata.AnnData, others: Mapping[str, anndata.AnnData], modality: str) -> pd.Index:
    shared = genes.obs_names
    for name, adata in {modality: genes, **others}.items():
        if not adata.obs_names.is_unique:
            raise InputError(
                f"Cells of modality {name!r} are named twice, for example "
                f"{adata.obs_names[adata.obs_names.duplicated()][0]!r}, so modalities cannot be put together by name. "
                "Rename them with obs_names_make_unique() in every modality alike."
            )
        shared = shared[shared.isin(adata.obs_names)]
    if not len(shared):
        sizes = ", ".join(f"{name} {adata.n_obs:,}" for name, adata in {modality: genes, **others}.items())
        raise InputError(f"No cell has all modalities ({sizes} cells). Are cells named alike in obs_names of each?")
    n_dropped = genes.n_obs - len(shared)
    if n_dropped:
        logger.warning(
            "%s of %s cells lack one of the modalities %s and are dropped.",
            f"{n_dropped:,}",
            f"{genes.n_obs:,}",
            ", ".join(others),
        )
    return shared


def _joined_obs(own: pd.DataFrame, common: pd.DataFrame, modality: str) -> pd.DataFrame:
    """Add the columns of the MuData to those of the modality."""
    joined, common = own.copy(), common.loc[own.index]
    for column in common.columns:
        # MuData keeps copies of the columns of its modalities, named after them.
        if str(column).removeprefix(f"{modality}:") in own.columns and str(column).startswith(f"{modality}:"):
            continue
        if column in own.columns and not _same(own[column], common[column]):
            raise InputError(
                f"Column {column!r} of obs has other values in the MuData than in its modality {modality!r}. Delete or "
                f"rename either: mdata.obs[{column!r}] or mdata[{modality!r}].obs[{column!r}]."
            )
        if column not in own.columns:
            joined[column] = common[column]
    return joined


def _same(one: pd.Series, other: pd.Series) -> bool:
    """Tell whether values are the same, whatever their type; a missing one is the same as a missing one."""
    known = one.notna().to_numpy()
    if not np.array_equal(known, other.notna().to_numpy()):
        return False
    return bool(one[known].astype(object).tolist() == other[known].astype(object).tolist())
