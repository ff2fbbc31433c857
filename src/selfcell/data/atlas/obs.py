"""The obs columns of an atlas: one set of columns for inputs that name and fill theirs differently."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from selfcell.core.errors import InputError, did_you_mean
from selfcell.data.atlas.index import CategoryColumn, ObsColumn, ValueColumn
from selfcell.data.atlas.inputs import CellInput
from selfcell.data.atlas.places import address_of
from selfcell.data.atlas.table_columns import as_categories, as_strings

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""The value of cells whose file lacks a column of names. Where a file has the column but no value, it is missing."""
MOST_CATEGORIES = 65_536
"""Columns of more names than these hold them as strings."""
_TRUTH_VALUES = {"True": True, "False": False, "TRUE": True, "FALSE": False, "true": True, "false": False}
_FILLED = {"number": "NaN", "bool": "no value"}
_KINDS = {"category": "names", "string": "names", "number": "numbers", "bool": "truth values"}


@dataclass(frozen=True)
class ObsPlan:
    """The columns of the atlas, and how each input fills them."""

    columns: dict[str, ObsColumn]
    rename: dict[str, str]
    """Name in an input to name in the atlas."""
    source_key: str | None = None
    """Column with the name of the file that a cell is from."""
    source_names: dict[str, str] = field(default_factory=dict)
    """Path of an input to that name."""

    def frame(self, source: CellInput) -> pd.DataFrame:
        """Give the planned columns of all cells of an input.

        Returns
        -------
        Indexed by the names of the cells. Columns of names are categoricals with all categories of the plan, or, where
        there are too many, strings with ``""`` for a missing one; numbers are float64, truth values ``boolean``.

        Raises
        ------
        InputError
            If the input has a value that it had not when the plan was made.
        """
        own = _own_names(source, self.rename)
        read = source.obs([own[name] for name in self.columns if name in own])
        filled = {
            name: _fill(
                read[own[name]] if name in own else None, column, len(read), where=f"{source.path}, obs[{name!r}]"
            )
            for name, column in self.columns.items()
            if name != self.source_key
        }
        if self.source_key is not None:
            name = self.source_names[address_of(source.path)]
            filled[self.source_key] = _fill(
                pd.Series(pd.Categorical([name]).repeat(len(read))),
                self.columns[self.source_key],
                len(read),
                where=str(source.path),
            )
        return pd.DataFrame(filled, index=read.index, columns=list(self.columns))


def plan_obs(
    inputs: Sequence[CellInput],
    *,
    keep: Sequence[str] | None,
    rename: Mapping[str, str],
    strict: bool,
    previous: dict[str, ObsColumn] | None = None,
    source_key: str | None = None,
) -> tuple[ObsPlan, list[dict[str, Any]]]:
    """Plan the columns of an atlas.

    A column of names that an input lacks is filled with ``unknown``; one of numbers or of truth values has no value for
    its cells. A column of which some inputs have names and others numbers is one of names.

    Parameters
    ----------
    inputs
        The open files, in order.
    keep
        Names of the columns to take, as they are in the atlas; None for all.
    rename
        Name in an input to name in the atlas; applied where an input has it. No input of a build having it is an error.
    strict
        Refuse columns that some inputs lack or have of another kind.
    previous
        The columns of the atlas that is appended to: these and no others are filled, and new categories come last.
    source_key
        Column to add, with the name of the file that each cell is from.

    Returns
    -------
    The plan; and for each input, for JSON: ``columns`` of the atlas with the input's own name of each or None where it
    lacks it, ``filled`` columns with what they are filled with, ``made_names`` of columns of another kind, and columns
    ``left_out``.

    Raises
    ------
    InputError
        If a column named is nowhere, two of one input come to the same name, or as ``strict`` or ``previous`` demand.
    """
    plan = ObsPlan({}, dict(rename), source_key)
    owns = [_own_names(source, plan.rename) for source in inputs]
    names = _wanted(inputs, owns, keep=keep, rename=rename, previous=previous)
    for name in names:
        if name == source_key:
            continue
        kinds = {source.obs_kinds[own[name]] if name in own else None for source, own in zip(inputs, owns, strict=True)}
        if strict:
            _refuse_differences(name, inputs, owns)
        before = previous[name] if previous is not None else None
        plan.columns[name] = _plan_column(name, inputs, owns, kinds=kinds, before=before)
    if source_key is not None:
        _add_sources(plan, inputs, owns, before=None if previous is None else previous[source_key])
    reports = [
        _report(source, own, plan.columns, source_key=source_key) for source, own in zip(inputs, owns, strict=True)
    ]
    _say(inputs, reports)
    return plan, reports


def _add_sources(
    plan: ObsPlan, inputs: Sequence[CellInput], owns: list[dict[str, str]], *, before: ObsColumn | None
) -> None:
    """Name the inputs by their files, or by their paths where files of one name come together."""
    key = str(plan.source_key)
    for source, own in zip(inputs, owns, strict=True):
        if key in own:
            raise InputError(f"{source.path} has a column {key!r} in obs already: name another one (--source-key).")
    known = before.categories if isinstance(before, CategoryColumn) else ()
    stems = [source.path.stem for source in inputs]
    for source in inputs:
        stem, path = source.path.stem, address_of(source.path)
        plan.source_names[path] = path if stem in known or stems.count(stem) > 1 else stem
    plan.columns[key] = CategoryColumn(categories=tuple(dict.fromkeys([*known, *plan.source_names.values()])))


def _own_names(source: CellInput, rename: Mapping[str, str]) -> dict[str, str]:
    """Give name in the atlas to name in the input."""
    own: dict[str, str] = {}
    for column in source.obs_kinds:
        name = rename.get(column, column)
        if name in own:
            raise InputError(
                f"{source.path} has both {own[name]!r} and {column!r} in obs, and both would be {name!r}. "
                "Rename one of them to another name (--rename OLD=NEW)."
            )
        own[name] = column
    return own


def _wanted(
    inputs: Sequence[CellInput],
    owns: list[dict[str, str]],
    *,
    keep: Sequence[str] | None,
    rename: Mapping[str, str],
    previous: dict[str, ObsColumn] | None,
) -> list[str]:
    everywhere = list(dict.fromkeys(column for source in inputs for column in source.obs_kinds))
    # An append takes over the names that the build's inputs needed, which its own may not.
    for column in rename if previous is None else ():
        if column not in everywhere:
            raise InputError(
                f"No input has a column {column!r} in obs to be renamed. {did_you_mean(column, everywhere)}"
            )
    if previous is not None:
        return list(previous)
    known = list(dict.fromkeys(name for own in owns for name in own))
    for name in keep or ():
        if name not in known:
            raise InputError(f"No input has a column {name!r} in obs. {did_you_mean(name, known)}")
    return known if keep is None else list(dict.fromkeys(keep))


def _refuse_differences(name: str, inputs: Sequence[CellInput], owns: list[dict[str, str]]) -> None:
    kinds = {
        str(source.path): source.obs_kinds.get(own.get(name, "")) for source, own in zip(inputs, owns, strict=True)
    }
    lacking = [path for path, kind in kinds.items() if kind is None]
    if lacking:
        raise InputError(
            f"{len(lacking)} of {len(kinds)} inputs have no column {name!r} in obs; the first is {lacking[0]}. Rename "
            "the column that has it (--rename OLD=NEW), name the columns to keep without it, or do not be strict."
        )
    if len(set(kinds.values())) > 1:
        listed = "; ".join(f"{kind} in {path}" for path, kind in list(kinds.items())[:5])
        raise InputError(f"obs[{name!r}] is of different kinds: {listed}. Make them one kind, or do not be strict.")


def _plan_column(
    name: str,
    inputs: Sequence[CellInput],
    owns: list[dict[str, str]],
    *,
    kinds: set[str | None],
    before: ObsColumn | None,
) -> ObsColumn:
    kind = _common_kind(name, inputs, owns, kinds=kinds, before=before)
    if before is not None and before.kind != "category":
        if before.kind not in {"string", kind} and kind is not None:
            theirs = " and ".join(_KINDS[str(one)] for one in sorted(map(str, kinds - {before.kind, None})))
            raise InputError(
                f"obs[{name!r}] of the atlas holds {_KINDS[before.kind]}, but that of some new inputs holds {theirs}. "
                "Change the column in these files, or build the atlas anew with all inputs."
            )
        return before
    if before is None and kind in {"number", "bool"}:
        return ValueColumn(kind=kind)
    categories = dict.fromkeys(before.categories if isinstance(before, CategoryColumn) else ())
    for source, own in zip(inputs, owns, strict=True):
        found = _as_names(source.obs([own[name]])[own[name]]).categories if name in own else [UNKNOWN]
        categories |= dict.fromkeys(found)
    if len(categories) <= MOST_CATEGORIES:
        return CategoryColumn(categories=tuple(categories))
    if before is not None:
        raise InputError(
            f"obs[{name!r}] would have {len(categories):,} categories, more than {MOST_CATEGORIES:,}. "
            "Build the atlas anew with all inputs, so that it holds strings, or rename the column."
        )
    return ValueColumn(kind="string")


def _common_kind(
    name: str,
    inputs: Sequence[CellInput],
    owns: list[dict[str, str]],
    *,
    kinds: set[str | None],
    before: ObsColumn | None,
) -> Literal["category", "number", "bool"] | None:
    """Give what the inputs have in a column, None for nothing; words True and False beside truth values are such."""
    found: set[Any] = kinds - {None}
    beside_truth = "bool" in found or (before is not None and before.kind == "bool")
    if not found or found == {"number"}:
        return next(iter(found), None)
    named = [source.obs([own[name]])[own[name]] for source, own in zip(inputs, owns, strict=True) if name in own]
    words = {
        word for column in named if isinstance(column.dtype, pd.CategoricalDtype) for word in column.cat.categories
    }
    truth = beside_truth and "number" not in found and words <= _TRUTH_VALUES.keys()
    return "bool" if truth else "category"


def _as_names(column: pd.Series) -> pd.Categorical:
    """Make a column of any kind one of names; categories that no cell has are dropped."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.array.remove_unused_categories()
    codes, unique = pd.factorize(column)
    return as_categories(codes, as_strings(unique))


def _fill(column: pd.Series | None, planned: ObsColumn, n_cells: int, *, where: str) -> Any:
    if planned.kind == "number":
        return np.full(n_cells, np.nan) if column is None else column.to_numpy(dtype=np.float64)
    if planned.kind == "bool":
        if column is not None and isinstance(column.dtype, pd.CategoricalDtype):
            column = column.map(_TRUTH_VALUES).astype(object).where(column.notna(), None)
        return pd.array([None] * n_cells if column is None else column, dtype="boolean")
    names = pd.Categorical([UNKNOWN] * n_cells) if column is None else _as_names(column)
    if not isinstance(planned, CategoryColumn):
        return np.append(np.array(names.categories, dtype=object), "")[names.codes]
    categories = pd.Index(planned.categories, dtype=object)
    code_of = np.append(categories.get_indexer(names.categories), -1)
    if (code_of[:-1] < 0).any():
        new = names.categories[int(np.argmin(code_of[:-1]))]
        raise InputError(f"{where} has a value that was not there before: {new!r}. The file has changed: build anew.")
    return pd.Categorical.from_codes(code_of[names.codes], categories=categories)


def _report(
    source: CellInput, own: dict[str, str], columns: dict[str, ObsColumn], *, source_key: str | None
) -> dict[str, Any]:
    lacking = {name: column for name, column in columns.items() if name not in own and name != source_key}
    return {
        "columns": {name: own.get(name) for name in columns},
        "filled": {name: _FILLED.get(column.kind, UNKNOWN) for name, column in lacking.items()},
        "made_names": {
            name: source.obs_kinds[own[name]]
            for name, column in columns.items()
            if name in own and column.kind in {"category", "string"} and source.obs_kinds[own[name]] != "category"
        },
        "left_out": [column for name, column in own.items() if name not in columns],
    }


def _say(inputs: Sequence[CellInput], reports: list[dict[str, Any]]) -> None:
    for source, report in zip(inputs, reports, strict=True):
        if report["filled"]:
            listed = ", ".join(f"{name} ({value})" for name, value in report["filled"].items())
            logger.warning("%s lacks columns of obs, which are filled: %s.", source.path, listed)
        if report["made_names"]:
            listed = ", ".join(f"{name} (was {kind})" for name, kind in report["made_names"].items())
            logger.warning("%s: columns of obs are made columns of names, as in other inputs: %s.", source.path, listed)
        if report["left_out"]:
            logger.info("%s: columns of obs are left out: %s.", source.path, ", ".join(report["left_out"]))
