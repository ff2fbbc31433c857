"""Which cells a study learns from, and which it judges on."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from selfcell.benchmark.study_plan import StudyPlan
from selfcell.core.errors import InputError
from selfcell.data.source import Cells
from selfcell.data.splits import Split, split_by_query, split_cells, split_from_json, unnamed_donor_column
from selfcell.training.run_folder import TrainedModel

logger = logging.getLogger(__name__)

TEST_FRACTION = 0.3
"""Share of the cells to judge on, where the models' runs have set none aside."""


class ChosenSplit(NamedTuple):
    """Which cells to learn from and to judge on."""

    split: Split
    has_seen: bool
    """Whether a model may have been pre-trained on cells that are judged on, though not on their labels."""


def choose_split(
    plan: StudyPlan, cells: Cells, models: Sequence[TrainedModel], donors: pd.Series | None
) -> ChosenSplit:
    """Take the cells to judge on from the plan, or else those that the models' runs set aside, or else draw some.

    Raises
    ------
    InputError
        If the models set different cells aside, or a share is asked for where they have set some aside.
    """
    if plan.test_where is not None:
        split = split_by_query(cells.obs, plan.test_where, unit=plan.donor_key, donors=donors)
        return ChosenSplit(split, _warn_of_seen(models, split, cells))
    saved = [model.split for model in models if model.split is not None]
    if any(other != saved[0] for other in saved[1:]):
        raise InputError("The models were pre-trained on different splits, so they cannot be judged on the same cells.")
    if saved and saved[0]["unit"] == (plan.donor_key or "cell") and _sets_aside(saved[0], cells, models):
        split = split_from_json(saved[0], len(cells), donors)
        if len(split.test):
            if plan.test_fraction is not None:
                raise InputError(
                    f"The run set {len(split.test):,} of these cells aside to be judged on (data.test_fraction), so "
                    "no share of them can be chosen here. Leave --test-fraction (test_fraction) out, or name the cells "
                    "to judge on: --test-where."
                )
            return ChosenSplit(split, has_seen=False)
    test_fraction = TEST_FRACTION if plan.test_fraction is None else plan.test_fraction
    split = split_cells(len(cells), donors, validation_fraction=0.0, test_fraction=test_fraction, seed=0)
    if donors is None and saved and (column := unnamed_donor_column(saved[0], cells.obs)) is not None:
        logger.warning(
            "Pre-training set donors of obs[%r] aside to be judged on, but no donor column is named, so others are "
            "judged on, which it may have seen, though not their labels. Name the column: --donor %s.",
            column,
            column,
        )
        return ChosenSplit(split, has_seen=True)
    return ChosenSplit(split, _warn_of_seen(models, split, cells))


def _warn_of_seen(models: Sequence[TrainedModel], split: Split, cells: Cells) -> bool:
    has_seen = any(_has_seen(model, split, cells) for model in models)
    if has_seen:
        logger.warning(
            "The model was pre-trained on these cells or donors with none set aside (data.test_fraction), so it has "
            "seen the test cells, though not their labels."
        )
    return has_seen


def _has_seen(model: TrainedModel, split: Split, cells: Cells) -> bool:
    """Tell whether a model was pre-trained on donors of the test part or on these very cells."""
    if model.split is not None and model.split["unit"] == split.unit != "cell":
        seen = {donor for part in ("train", "validation") for donor in model.split["donors"][part]}
        return bool(seen & set(split.donors["test"]))
    return bool(model.manifest["data"]["fingerprint"] == cells.fingerprint())


def _sets_aside(saved: dict[str, Any], cells: Cells, models: Sequence[TrainedModel]) -> bool:
    """Tell whether a saved split applies: positions of cells mean something for the very same cells only."""
    if saved["unit"] != "cell":
        return bool(saved["donors"]["test"])
    return bool(saved["positions"]["test"]) and models[0].manifest["data"]["fingerprint"] == cells.fingerprint()
