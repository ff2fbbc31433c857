"""Match targets by name, as different laboratories spell them."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from selfcell.core.errors import InputError
from selfcell.data.targets import Targets

logger = logging.getLogger(__name__)

_SHOWN = 5
_SEPARATORS = re.compile(r"[-_.:/\s]+")
# Between two digits a separator tells names apart: CD3-1 is not CD31.
_REMOVABLE = re.compile(r"(?<!\d)-|-(?!\d)")
_PEAK = re.compile(r"^(?:chr)?(.+-\d+-\d+)$")


@dataclass(frozen=True)
class TargetAlignment:
    """Where the targets that a model knows are among those of some cells."""

    column_of_name: np.ndarray
    """For each target of the model the column of the cells' targets, or -1 where the cells lack it."""
    missing: tuple[str, ...]
    """Names of the model's targets that the cells lack."""
    respelled: tuple[tuple[str, str], ...]
    """Pairs of names, the model's and the cells', that were taken for the same but are spelled differently."""

    @property
    def shared(self) -> np.ndarray:
        """Positions of the model's targets that the cells have."""
        return np.flatnonzero(self.column_of_name >= 0)

    def apply(self, targets: Targets) -> Targets:
        """Give the shared targets of the cells, in the model's order."""
        return targets.columns(self.column_of_name[self.shared])


def align_targets(query: Targets, names: Sequence[str]) -> TargetAlignment:
    """Match the targets of some cells to those that a model knows.

    Names match, the strictest rule first and each name once: as they are; without regard to case and to which of
    ``- _ . : /`` and space stand between the parts, so that ``HLA.DR`` is ``HLA-DR``, ``CD8a`` is ``CD8A`` and
    ``chr1:100-200`` is ``chr1-100-200``, with or without ``chr``; with separators removed but between digits
    (``PD-1``, ``PD1``); without the parts that all names of one side begin or end with (``ADT_CD3``,
    ``CD3_TotalSeqB``). Where a rule makes two names of one side the same, it matches neither.

    Parameters
    ----------
    query
        Targets of the cells.
    names
        Names of the model's targets.

    Raises
    ------
    InputError
        If fewer than two are shared, with examples of both namings.
    """
    column_of_name = np.full(len(names), -1, dtype=np.int64)
    for of_query, of_model in _rules(query.names, names):
        if (column_of_name >= 0).all():
            break
        free = set(range(len(query.names))) - set(column_of_name.tolist())
        column = _unique([of_query(name) for name in query.names])
        position = _unique([of_model(name) for name in names])
        for spelled, at in position.items():
            if column_of_name[at] < 0 and column.get(spelled, -1) in free:
                column_of_name[at] = column[spelled]
    missing = tuple(name for name, column in zip(names, column_of_name, strict=True) if column < 0)
    pairs = [(name, query.names[column]) for name, column in zip(names, column_of_name, strict=True) if column >= 0]
    respelled = tuple((name, theirs) for name, theirs in pairs if name != theirs)
    _judge(query, names, missing=missing, respelled=respelled)
    return TargetAlignment(column_of_name, missing, respelled)


def _rules(query: Sequence[str], names: Sequence[str]) -> Iterator[tuple[Callable[[str], str], Callable[[str], str]]]:
    """Give functions that spell the names of either side, the strictest rule first."""
    yield str, str
    yield _unified, _unified
    yield _joined, _joined
    query_bare, names_bare = _without_common_parts(query), _without_common_parts(names)
    yield query_bare, _joined
    yield _joined, names_bare
    yield query_bare, names_bare


def _unified(name: str) -> str:
    unified = _SEPARATORS.sub("-", name.casefold()).strip("-")
    peak = _PEAK.match(unified)
    return peak[1] if peak else unified


def _joined(name: str) -> str:
    return _REMOVABLE.sub("", _unified(name))


def _without_common_parts(names: Sequence[str]) -> Callable[[str], str]:
    """Make a function that takes off the parts that all names begin or end with, but never all parts of a name."""
    parts = [_unified(name).split("-") for name in names]
    # What two names have in common may be what they are.
    spare = min(map(len, parts)) - 1 if len(parts) > 2 else 0
    first = _n_common(parts, spare)
    last = _n_common([of_name[::-1] for of_name in parts], spare - first)

    def bare(name: str) -> str:
        of_name = _unified(name).split("-")
        return _joined("-".join(of_name[first : len(of_name) - last]))

    return bare


def _n_common(parts: list[list[str]], at_most: int) -> int:
    for number in range(at_most):
        if len({of_name[number] for of_name in parts}) > 1:
            return number
    return max(at_most, 0)


def _unique(spelled: list[str]) -> dict[str, int]:
    times = Counter(spelled)
    return {name: position for position, name in enumerate(spelled) if times[name] == 1}


def _judge(
    query: Targets,
    names: Sequence[str],
    *,
    missing: tuple[str, ...],
    respelled: tuple[tuple[str, str], ...],
) -> None:
    n_shared = len(names) - len(missing)
    if n_shared < min(2, len(names)):
        raise InputError(
            f"Only {n_shared:,} of the model's {len(names):,} targets are among the {len(query.names):,} of "
            f"{query.origin}. The model's are named such as {_listed(names)}; those of the cells such as "
            f"{_listed(query.names)}. Rename those of the cells, or name another key."
        )
    if respelled:
        shown = ", ".join(f"{theirs} for {ours}" for ours, theirs in respelled[:_SHOWN])
        logger.info("%s targets of %s are spelled differently: %s.", f"{len(respelled):,}", query.origin, shown)
    if missing:
        logger.warning(
            "%s of the model's %s targets are not in %s and are not scored: %s.",
            f"{len(missing):,}",
            f"{len(names):,}",
            query.origin,
            _listed(missing),
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
