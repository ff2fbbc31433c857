"""What a benchmark's target will learn from and judge on, told before anything is pre-trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from selfcell.benchmark.study_plan import StudyPlan
from selfcell.benchmark.study_split import Run, RunSplit, as_set_aside, choose_split, id_of_test_cells
from selfcell.core.errors import InputError
from selfcell.data.cell_hashes import CellHashes
from selfcell.data.source import Cells, obs_column
from selfcell.data.splits import Split
from selfcell.downstream.base import DownstreamTask
from selfcell.training.inputs import draw_split, open_training_cells
from selfcell.training.known_cells import KnownCells
from selfcell.training.settings import DataSettings, PretrainSettings


def foresee_run(data: DataSettings, corpus: Cells | Path) -> RunSplit:
    """Split a corpus as pre-training with these settings will.

    Raises
    ------
    InputError
        If it cannot be split so, or no cells are left by ``data.where``.
    """
    # A plan names its donors: none are taken that it does not name.
    settings = PretrainSettings(data=data.model_copy(update={"donor_key": data.donor_key or None}))
    cells = open_training_cells(corpus, settings)
    split = draw_split(cells, settings)
    known = None
    if isinstance(cells, Cells) and isinstance(split, Split) and split.unit == "cell":
        hashes = CellHashes.of(cells)
        known = KnownCells(hashes[np.concatenate([split.train, split.validation])], hashes[split.test])
    return RunSplit(split.to_json(), known, cells.genes)


class ForeseenCells(NamedTuple):
    """Which cells of a target are for what."""

    trainable: np.ndarray
    """Positions of the cells that labels are drawn from."""
    test_cells: str
    """The hash, as tables will hold it, of the cells that are judged on."""


def foresee(
    plan: StudyPlan, task: DownstreamTask, cells: Cells, runs: Sequence[Run], split: Split | None
) -> ForeseenCells:
    """Tell which of the cells will be learned from and judged on.

    Parameters
    ----------
    plan
        What a target asks.
    task
        Its task, made of the cells.
    cells
        The cells of the target, and of its query behind them, aligned to the genes of the runs.
    runs
        What each pre-training of an encoder sets aside, or has set aside.
    split
        Where there is a query: that judges on it.

    Raises
    ------
    InputError
        If there is nothing to learn from or to judge on, or a share of the cells is asked for where pre-training sets
        some aside.
    """
    donors = None if plan.donor_key is None else obs_column(cells.obs, plan.donor_key, role="donor")
    if split is None:
        asks_share = plan.test_fraction is not None and plan.test_where is None
        if asks_share and any(as_set_aside(plan, cells, run, donors) is not None for run in runs):
            raise InputError(
                "test_fraction is for cells of which pre-training sets none aside, but the corpus does "
                "(data.test_fraction), and these are judged on. Leave test_fraction out, or name the cells to judge "
                "on: test_where or query."
            )
        split = choose_split(plan, cells, runs, donors)
    trainable = np.sort(np.concatenate([split.train, split.validation]))
    if not len(trainable) or not len(split.test):
        raise InputError(
            f"{'All' if len(split.test) else 'None'} of the cells are of what pre-training sets aside, but there must "
            "be some to learn from and some to judge on. Name those to judge on: test_where or query."
        )
    test = task.usable(split.test, reference=trainable)
    return ForeseenCells(trainable, id_of_test_cells(cells, test, donors))
