"""Parts of a data set that share no donor: train, validation and test."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from selfcell.core.atomic import write_json
from selfcell.core.errors import InputError
from selfcell.core.seeds import derive_seed, numpy_rng
from selfcell.data.obs_query import query_mask
from selfcell.data.permutation import uniform

logger = logging.getLogger(__name__)

PARTS = ("train", "validation", "test")
LEFT_OUT = "left_out"
"""What ``split.json`` calls donors that are for training, but that pre-training was not given."""


@dataclass(frozen=True)
class Split:
    """Which cells are for training, for choosing when to stop, and for judging.

    Each part is an array of positions in the order of the cells. Where the split is by donor, ``donors`` names the
    donors of each part, and no donor is in two.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    unit: str
    """``cell``, or the obs column that was split by."""
    donors: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give what ``split.json`` holds: the donors of each part or, split by cell, the positions of the cells."""
        if self.unit != "cell":
            return {"unit": self.unit, "donors": {part: list(named) for part, named in self.donors.items()}}
        return {"unit": "cell", "positions": {part: getattr(self, part).tolist() for part in PARTS}}

    def write(self, path: Path) -> None:
        """Write the split as JSON, atomically."""
        write_json(path, self.to_json())


def split_cells(
    n_cells: int,
    donors: pd.Series | None,
    *,
    validation_fraction: float,
    test_fraction: float = 0.0,
    train_donor_fraction: float = 1.0,
    seed: int,
) -> Split:
    """Split by donor where donors are given, else by cell.

    Parameters
    ----------
    n_cells
        Number of cells.
    donors
        Donor of each cell; its name is that of the obs column.
    validation_fraction, test_fraction
        Share of the cells to be reached, between 0 and 1. By donor, parts are filled donor by donor in random order
        until the share is reached, so they come out a little larger.
    train_donor_fraction
        Share of the training donors to keep, at least one; smaller shares are parts of larger ones. The other donors
        are in no part.
    seed
        Seed of the draw.

    Raises
    ------
    InputError
        If the shares leave nothing to train on, there are too few donors (or cells) to give every part that was asked
        for at least one, or some of the donors are asked for and none are known.
    """
    n_parts = count_parts(validation_fraction, test_fraction)
    rng = numpy_rng(seed, "split")
    if donors is None:
        refuse_donor_fraction(train_donor_fraction)
        if n_cells < 2 * n_parts:
            raise InputError(f"{n_cells} cells are too few to split into {n_parts} parts.")
        order = rng.permutation(n_cells)
        n_test = round(test_fraction * n_cells) or int(test_fraction > 0)
        n_validation = round(validation_fraction * n_cells) or int(validation_fraction > 0)
        if n_test + n_validation >= n_cells:
            raise InputError(
                f"Holding out {n_validation:,} of {n_cells:,} cells for validation and {n_test:,} for test leaves "
                "none to train on. Hold out smaller shares."
            )
        test, validation, train = np.split(order, [n_test, n_test + n_validation])
        return Split(np.sort(train), np.sort(validation), np.sort(test), unit="cell")
    chosen = choose_donors(
        donors.value_counts(), str(donors.name), validation_fraction, test_fraction, n_parts=n_parts, rng=rng
    )
    return split_of_donors(donors, **with_share_of_donors(chosen, train_donor_fraction))


def part_by_rule(positions: np.ndarray, rule: dict[str, int | float]) -> np.ndarray:
    """Give the part that each cell falls into by its position alone: for cells on disk, split by cell.

    Parameters
    ----------
    positions
        Positions of cells.
    rule
        ``seed``, ``validation_fraction`` and ``test_fraction``.
    """
    draw = uniform(positions, seed=derive_seed(int(rule["seed"]), "split by position"))
    bounds = np.cumsum([rule["test_fraction"], rule["validation_fraction"]])
    parts: np.ndarray = np.array(["test", "validation", "train"])[np.searchsorted(bounds, draw, side="right")]
    return parts


def count_parts(validation_fraction: float, test_fraction: float) -> int:
    """Give how many parts the shares make.

    Raises
    ------
    InputError
        If they leave nothing to train on.
    """
    if validation_fraction + test_fraction >= 1:
        raise InputError(
            f"Holding out {validation_fraction:g} for validation and {test_fraction:g} for test leaves no cells to "
            "train on."
        )
    return 1 + (validation_fraction > 0) + (test_fraction > 0)


def split_from_json(saved: dict[str, Any], n_cells: int, donors: pd.Series | None) -> Split:
    """Rebuild a split that :meth:`Split.to_json` gave, for the same cells.

    Donors that the split does not know are left out of every part.
    """
    if saved["unit"] == "cell" and "rule" in saved:
        part = part_by_rule(np.arange(n_cells), saved["rule"])
        train, validation, test = (np.flatnonzero(part == name) for name in PARTS)
        return Split(train, validation, test, unit="cell")
    if saved["unit"] == "cell":
        parts = {part: np.asarray(saved["positions"][part], dtype=np.int64) for part in PARTS}
        if any(positions.size and positions.max() >= n_cells for positions in parts.values()):
            raise InputError("The saved split is of other cells: it names positions that these do not have.")
        return Split(parts["train"], parts["validation"], parts["test"], unit="cell")
    if donors is None:
        raise InputError(f"The saved split is by obs[{saved['unit']!r}], which these cells lack.")
    return split_of_donors(donors, **{part: saved["donors"][part] for part in PARTS})


def sets_aside(saved: dict[str, Any]) -> bool:
    """Tell whether a saved split has test cells; by a rule, where cells are streamed."""
    if "rule" in saved:
        return bool(saved["rule"]["test_fraction"])
    return bool(saved["donors" if "donors" in saved else "positions"]["test"])


def split_by_query(obs: pd.DataFrame, query: str, *, unit: str | None, donors: pd.Series | None) -> Split:
    """Judge on the cells for which a query over ``obs`` holds, and train on all others.

    A donor may be on both sides, as where the same people were measured twice; that is logged.

    Raises
    ------
    InputError
        If the query cannot be understood, or holds for all cells or for none.
    """
    chosen = query_mask(obs, query)
    if chosen.all() or not chosen.any():
        raise InputError(
            f"The cells to judge on are those for which {query}: these are {'all' if chosen.all() else 'none'} of "
            f"{len(obs):,} cells, but there must be some to learn from and some to judge on."
        )
    train, test = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    named: dict[str, tuple[str, ...]] = {}
    if donors is not None:
        sides = [set(donors.iloc[rows]) for rows in (train, test)]
        if shared := sorted(sides[0] & sides[1]):
            logger.warning(
                "%d donors, such as %r, have cells both to learn from and to judge on.", len(shared), shared[0]
            )
        named = dict(zip(PARTS, (tuple(sorted(sides[0])), (), tuple(sorted(sides[1]))), strict=True))
    return Split(train, np.array([], dtype=np.int64), test, unit=unit or "query", donors=named)


def refuse_donor_fraction(train_donor_fraction: float) -> None:
    """Refuse a share of donors where none are known."""
    if train_donor_fraction < 1:
        raise InputError(
            f"data.train_donor_fraction={train_donor_fraction:g} is a share of donors, so their column is needed: "
            "data.donor_key (--donor COLUMN)."
        )


def with_share_of_donors(chosen: dict[str, list[str]], share: float) -> dict[str, list[str]]:
    """Keep the first of the training donors, which are in random order, and name the others."""
    if share >= 1:
        return chosen
    n_kept = max(1, round(share * len(chosen["train"])))
    return {**chosen, "train": chosen["train"][:n_kept], LEFT_OUT: chosen["train"][n_kept:]}


def with_all_training_donors(saved: dict[str, Any]) -> dict[str, Any]:
    """Give a saved split with the donors that pre-training was not given among those to train on: they may be labelled.

    Parameters
    ----------
    saved
        What ``split.json`` holds.
    """
    if not saved.get("donors", {}).get(LEFT_OUT):
        return saved
    donors = dict(saved["donors"])
    left_out = donors.pop(LEFT_OUT)
    return {**saved, "donors": {**donors, "train": [*donors["train"], *left_out]}}


def split_of_donors(
    donors: pd.Series,
    *,
    train: Iterable[str],
    validation: Iterable[str],
    test: Iterable[str],
    left_out: Iterable[str] = (),
) -> Split:
    """Make the split with these donors in these parts; those left out are named, and in none of them.

    Raises
    ------
    InputError
        If a donor is in two parts.
    """
    named = {"train": tuple(train), "validation": tuple(validation), "test": tuple(test)}
    everyone = [donor for part in PARTS for donor in named[part]]
    twice = sorted({donor for donor in everyone if everyone.count(donor) > 1})
    if twice:
        raise InputError(f"Donor {twice[0]!r} is in two parts of the split.")
    rows = {part: np.flatnonzero(donors.isin(named[part]).to_numpy()) for part in PARTS}
    if left_out := tuple(left_out):
        named[LEFT_OUT] = left_out
    return Split(rows["train"], rows["validation"], rows["test"], unit=str(donors.name), donors=named)


def choose_donors(
    sizes: pd.Series,
    key: str,
    validation_fraction: float,
    test_fraction: float,
    *,
    n_parts: int,
    rng: np.random.Generator,
) -> dict[str, list[str]]:
    """Choose the donors of each part; ``sizes`` are the cells of each donor, ``key`` the column.

    Raises
    ------
    InputError
        If there are fewer donors than parts.
    """
    names = sorted(sizes.index)
    if len(names) < n_parts:
        found = f"obs[{key!r}] has only {len(names)} ({', '.join(names)})"
        raise InputError(
            f"Splitting into {n_parts} parts by donor needs at least {n_parts} donors, but {found}. "
            "Name another column, or leave the donor out to split by cell, which overstates results on new donors."
        )
    waiting = [names[position] for position in rng.permutation(len(names))]
    chosen: dict[str, list[str]] = {}
    for part, fraction, n_after in (("test", test_fraction, n_parts - 1), ("validation", validation_fraction, 1)):
        chosen[part] = []
        while fraction > 0 and len(waiting) > n_after and sizes[chosen[part]].sum() < fraction * sizes.sum():
            chosen[part].append(waiting.pop(0))
    return {"train": waiting, **chosen}
