"""Cells of two data sets as one."""

import dataclasses
import logging
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from selfcell.core.errors import InputError
from selfcell.data.measured import in_both
from selfcell.data.source import Cells
from selfcell.data.target_names import align_targets
from selfcell.data.targets import Targets

logger = logging.getLogger(__name__)


def join_cells(
    first: Cells, second: Cells, *, names_keys: Mapping[str, str] | None = None, needed: Collection[str] = ()
) -> Cells:
    """Put the cells of one data set behind those of another, which must have the same genes in the same order.

    Of ``obs`` the columns that both have are kept. Of ``obsm`` what has names in both, as columns of a table or in
    ``uns`` (``protein_names`` for ``protein_counts``), is restricted to the names that both have, in the order of the
    first, however they are spelled (:func:`selfcell.data.target_names.align_targets`); what has names in one alone is
    left out; of the rest what is as wide in both is kept. Genes are measured that were in both.

    Parameters
    ----------
    first, second
        The cells.
    names_keys
        Keys of ``uns`` with the names of the columns of ``obsm``, by their keys, where they are not the usual ones.
    needed
        Keys of ``obsm`` that must be kept.

    Raises
    ------
    InputError
        If the genes differ, or something that is needed cannot be put together.
    """
    if first.genes != second.genes:
        raise InputError(f"{first.origin} and {second.origin} have different genes: align both to an encoder first.")
    obsm, uns = _stacked(first, second, names_keys or {}, needed)
    shared = [column for column in first.obs if column in second.obs]
    return dataclasses.replace(
        first,
        counts=sp.csr_matrix(sp.vstack([first.counts, second.counts])),
        obs=pd.concat([first.obs[shared], second.obs[shared]]),
        origin=f"{first.origin}, then {second.origin}",
        alignment=None,
        measured=in_both(first.measured, second.measured),
        obsm=obsm,
        uns=uns,
    )


def _stacked(
    first: Cells, second: Cells, names_keys: Mapping[str, str], needed: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give ``obsm`` and ``uns`` of both."""
    obsm, uns = {}, dict(first.uns)
    for key in [key for key in first.obsm if key in second.obsm]:
        names_key = names_keys.get(key, _names_key(key))
        parts = [first.obsm[key], second.obsm[key]]
        names = [_names_of(cells, key, names_key) for cells in (first, second)]
        if names[0] is not None and names[1] is not None:
            targets = _as_targets(first, key, names[0]), _as_targets(second, key, names[1])
            try:
                shared = _shared(*targets)
            except InputError as error:
                _leave_out(f"obsm[{key!r}] of the two data sets cannot be put together: {error}", needed=key in needed)
                continue
            parts, uns[names_key] = [shared[0].matrix, shared[1].matrix], np.array(shared[0].names, dtype=object)
        elif names[0] is not None or names[1] is not None:
            unnamed = second if names[1] is None else first
            _leave_out(
                f"The columns of obsm[{key!r}] have no names in {unnamed.origin} (uns[{names_key!r}]), so they are not "
                "put beside those of the other data set.",
                needed=key in needed,
            )
            continue
        elif parts[0].shape[1:] != parts[1].shape[1:]:
            _leave_out(
                f"obsm[{key!r}] has {parts[0].shape[1]:,} columns in {first.origin} and {parts[1].shape[1]:,} in "
                f"{second.origin}, and no names (uns[{names_key!r}]) that tell which are the same.",
                needed=key in needed,
            )
            continue
        if any(map(sp.issparse, parts)):
            obsm[key] = sp.csr_matrix(sp.vstack([sp.csr_matrix(part) for part in parts]))
        else:
            obsm[key] = np.concatenate([np.asarray(part) for part in parts])
    return obsm, uns


def _leave_out(why: str, *, needed: bool) -> None:
    if needed:
        raise InputError(why)
    logger.info("%s It is left out.", why)


def _shared(first: Targets, second: Targets) -> tuple[Targets, Targets]:
    """Give what both have, in one order; an error where they share next to nothing."""
    alignment = align_targets(second, first.names)
    logger.info(
        "%s: %s of %s columns of the one and %s of the other data set are shared and used.",
        first.origin,
        f"{len(alignment.shared):,}",
        f"{len(first.names):,}",
        f"{len(second.names):,}",
    )
    return first.columns(alignment.shared), alignment.apply(second)


def _as_targets(cells: Cells, key: str, names: tuple[str, ...]) -> Targets:
    part = cells.obsm[key]
    matrix = sp.csr_matrix(part) if sp.issparse(part) else np.asarray(part)
    return Targets(matrix, names, "values", f"obsm[{key!r}]")


def _names_key(key: str) -> str:
    return key.removesuffix("_counts") + "_names"


def _names_of(cells: Cells, key: str, names_key: str) -> tuple[str, ...] | None:
    part = cells.obsm[key]
    if isinstance(part, pd.DataFrame) and names_key == _names_key(key):
        return tuple(map(str, part.columns))
    names = cells.uns.get(names_key)
    if names is None or part.ndim != 2 or len(names) != part.shape[1]:
        return None
    return tuple(map(str, np.asarray(names).ravel()))
