"""Which cells a study learns from, and which it judges on."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from selfcell.benchmark.study_plan import LabelBudget, StudyPlan
from selfcell.core.digest import digest_of
from selfcell.core.errors import InputError
from selfcell.core.seeds import numpy_rng
from selfcell.data.cell_hashes import CellHashes
from selfcell.data.genes import GeneTable
from selfcell.data.source import Cells, obs_column
from selfcell.data.splits import Split, split_by_query, split_cells, split_from_json, with_all_training_donors
from selfcell.training.known_cells import KnownCells
from selfcell.training.run_folder import TrainedModel

logger = logging.getLogger(__name__)

TEST_FRACTION = 0.3
"""Share of the cells to judge on, where the models' runs have set none aside."""
CHANCE = 0.01
"""Share of cells that may equal others by chance, as those with few counts do."""
FEW_LABELLED = 30
"""Labelled cells under which a budget is warned of."""


class RunSplit(NamedTuple):
    """What a run of pre-training will set aside, as its model will tell."""

    split: dict[str, Any]
    """What ``split.json`` will hold."""
    known_cells: KnownCells | None
    """Where it is split by cell."""
    genes: GeneTable
    """Of the corpus: the run may take the most variable ones alone."""


Run: TypeAlias = TrainedModel | RunSplit


def choose_split(plan: StudyPlan, cells: Cells, models: Sequence[Run], donors: pd.Series | None) -> Split:
    """Take the cells to judge on from the plan, or else those that the models' runs set aside, or else draw some.

    Parameters
    ----------
    plan
        What to compare.
    cells
        All cells, aligned to the genes of the models.
    models
        Whose runs may have set some of them aside.
    donors
        Of all cells, where the plan names their column.

    Raises
    ------
    InputError
        If the models set different cells aside, or a share is asked for where they have set some aside.
    """
    if plan.test_where is not None:
        return split_by_query(cells.obs, plan.test_where, unit=plan.donor_key, donors=donors)
    saved = [model.split for model in models if model.split is not None]
    if any(other != saved[0] for other in saved[1:]):
        raise InputError("The models were pre-trained on different splits, so they cannot be judged on the same cells.")
    split = as_set_aside(plan, cells, models[0], donors)
    if split is None:
        test_fraction = TEST_FRACTION if plan.test_fraction is None else plan.test_fraction
        return split_cells(len(cells), donors, validation_fraction=0.0, test_fraction=test_fraction, seed=0)
    if plan.test_fraction is not None:
        raise InputError(
            f"The run set {len(split.test):,} of these cells aside to be judged on (data.test_fraction), so no share "
            "of them can be chosen here. Leave --test-fraction (test_fraction) out, or name the cells to judge on: "
            "--test-where."
        )
    return split


def set_aside_one_by_one(cells: Cells, model: Run) -> np.ndarray | None:
    """Find the cells that a run without donors set aside, wherever they are now.

    Parameters
    ----------
    cells
        Aligned to the genes of the model.
    model
        Of the run.

    Returns
    -------
    Whether each cell is one of them; None where it set none aside, has kept no list, or these are other cells.
    """
    if model.split is None or model.split["unit"] != "cell" or model.known_cells is None:
        return None
    found = CellHashes.of(cells).found_in(model.known_cells.set_aside)
    return found if CHANCE < found.mean() < 1 else None


def as_set_aside(plan: StudyPlan, cells: Cells, model: Run, donors: pd.Series | None) -> Split | None:
    """Judge on the cells or donors that a run set aside; None where it set none of these aside."""
    saved = model.split
    if saved is None or saved["unit"] != (plan.donor_key or "cell"):
        return None
    if saved["unit"] == "cell":
        is_test = set_aside_one_by_one(cells, model)
        if is_test is None:
            return None
        return Split(np.flatnonzero(~is_test), np.array([], dtype=np.int64), np.flatnonzero(is_test), unit="cell")
    split = split_from_json(with_all_training_donors(saved), len(cells), donors)
    return split if len(split.test) else None


def id_of_test_cells(cells: Cells, test: np.ndarray, donors: pd.Series | None) -> str:
    """Give a short hash of which cells are judged on, and of the donors that are drawn for intervals.

    Scores are paired, donor by donor, where this is the same.
    """
    which = [test, cells.obs.index[test].astype(str), *([] if donors is None else [donors.iloc[test]])]
    # A letter first, as in the ids of trials: readers of CSV take some hex digits for a number.
    return f"c{digest_of(np.array([digest_of(part) for part in which]))[:12]}"


def draw_labelled(budget: LabelBudget, trainable: np.ndarray, donors: pd.Series | None, *, seed: int) -> np.ndarray:
    """Draw the cells that bear labels at a budget.

    Parameters
    ----------
    budget
        How many.
    trainable
        Positions of the cells to draw from.
    donors
        Of all cells.
    seed
        The same one draws the same cells.

    Raises
    ------
    InputError
        If donors are counted, but not known or not as many.
    """
    if budget.fraction is not None:
        rng = numpy_rng(seed, "labelled cells", round(1e6 * budget.fraction))
        return np.sort(rng.choice(trainable, _n_labelled(budget.fraction, trainable), replace=False))
    if budget.n_donors is None:
        return trainable
    if donors is None:
        raise InputError("Label budgets count donors, so a donor column is needed (--donor COLUMN).")
    donor = donors.iloc[trainable]
    names = sorted(set(donor))
    if budget.n_donors > len(names):
        raise InputError(
            f"{budget.n_donors} labelled donors are asked for (--labelled-donors), but only {len(names)} are "
            "not held out."
        )
    drawn = numpy_rng(seed, "labelled donors", budget.n_donors).choice(names, budget.n_donors, replace=False)
    rows: np.ndarray = trainable[donor.isin(drawn).to_numpy()]
    return rows


def with_batches(cells: Cells, batch_key: str | None) -> tuple[Cells, pd.Series | None]:
    """Give the cells with a batch each, those without a value in one of their own, and that column."""
    if batch_key is None:
        return cells, None
    batch_names = obs_column(cells.obs, batch_key, role="batch", missing="own category")
    return dataclasses.replace(cells, obs=cells.obs.assign(**{batch_key: batch_names})), batch_names


def warn_of_few_labelled(budgets: Sequence[LabelBudget], trainable: np.ndarray) -> None:
    """Warn of shares that are a handful of cells."""
    for fraction in [budget.fraction for budget in budgets if budget.fraction is not None]:
        if (n_labelled := _n_labelled(fraction, trainable)) < FEW_LABELLED:
            logger.warning(
                "A share of %g of the %s training cells is %d cells: scores at that label budget say little.",
                fraction,
                f"{len(trainable):,}",
                n_labelled,
            )


def warn_of_few_neighbors(n_labelled: Mapping[str, int], n_neighbors: int | None) -> None:
    """Warn of label budgets with fewer cells than neighbors are asked: then all of them answer, whichever the cell.

    Parameters
    ----------
    n_labelled
        The fewest cells that are labelled at each budget.
    n_neighbors
        Neighbors that the task asks; None for one that asks none.
    """
    for budget, n_cells in n_labelled.items():
        if n_neighbors is not None and n_cells < n_neighbors:
            logger.warning(
                "With %s there are %d labelled cells, fewer than the %d neighbors that are asked (n_neighbors): all of "
                "them are taken, whichever the cell.",
                budget,
                n_cells,
                n_neighbors,
            )


def _n_labelled(fraction: float, trainable: np.ndarray) -> int:
    return max(round(fraction * len(trainable)), 2)
