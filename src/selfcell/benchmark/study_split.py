"""Which cells a study learns from, and which it judges on."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from selfcell.benchmark.study_plan import LabelBudget, StudyPlan
from selfcell.core.errors import InputError
from selfcell.core.seeds import numpy_rng
from selfcell.data.source import Cells
from selfcell.data.splits import Split, split_by_query, split_cells, split_from_json, with_all_training_donors
from selfcell.training.run_folder import TrainedModel

logger = logging.getLogger(__name__)

TEST_FRACTION = 0.3
"""Share of the cells to judge on, where the models' runs have set none aside."""
FEW_LABELLED = 30
"""Labelled cells under which a budget is warned of."""


def choose_split(plan: StudyPlan, cells: Cells, models: Sequence[TrainedModel], donors: pd.Series | None) -> Split:
    """Take the cells to judge on from the plan, or else those that the models' runs set aside, or else draw some.

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
    if saved and saved[0]["unit"] == (plan.donor_key or "cell") and _sets_aside(saved[0], cells, models):
        split = split_from_json(with_all_training_donors(saved[0]), len(cells), donors)
        if len(split.test):
            if plan.test_fraction is not None:
                raise InputError(
                    f"The run set {len(split.test):,} of these cells aside to be judged on (data.test_fraction), so "
                    "no share of them can be chosen here. Leave --test-fraction (test_fraction) out, or name the cells "
                    "to judge on: --test-where."
                )
            return split
    test_fraction = TEST_FRACTION if plan.test_fraction is None else plan.test_fraction
    return split_cells(len(cells), donors, validation_fraction=0.0, test_fraction=test_fraction, seed=0)


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


def _n_labelled(fraction: float, trainable: np.ndarray) -> int:
    return max(round(fraction * len(trainable)), 2)


def _sets_aside(saved: dict[str, Any], cells: Cells, models: Sequence[TrainedModel]) -> bool:
    """Tell whether a saved split applies: positions of cells mean something for the very same cells only."""
    if saved["unit"] != "cell":
        return bool(saved["donors"]["test"])
    return bool(saved["positions"]["test"]) and models[0].manifest["data"]["fingerprint"] == cells.fingerprint()
