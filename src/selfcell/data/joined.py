"""Cells of two data sets as one."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from selfcell.core.errors import InputError
from selfcell.data.source import Cells


def join_cells(first: Cells, second: Cells) -> Cells:
    """Put the cells of one data set behind those of another, which must have the same genes in the same order.

    Of ``obs`` the columns that both have are kept, and of ``obsm`` what is as wide in both.

    Raises
    ------
    InputError
        If the genes differ.
    """
    if first.genes != second.genes:
        raise InputError(f"{first.origin} and {second.origin} have different genes: align both to an encoder first.")
    shared = [column for column in first.obs if column in second.obs]
    return dataclasses.replace(
        first,
        counts=sp.csr_matrix(sp.vstack([first.counts, second.counts])),
        obs=pd.concat([first.obs[shared], second.obs[shared]]),
        origin=f"{first.origin}, then {second.origin}",
        alignment=None,
        obsm=_stacked(first.obsm, second.obsm),
    )


def _stacked(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    stacked = {}
    for key in [key for key in first if key in second and first[key].shape[1:] == second[key].shape[1:]]:
        parts = first[key], second[key]
        stacked[key] = sp.csr_matrix(sp.vstack(parts)) if sp.issparse(parts[0]) else np.concatenate(parts)
    return stacked
