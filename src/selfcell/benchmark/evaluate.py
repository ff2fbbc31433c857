"""Judge pre-trained models on labelled cells: every regime, every baseline, seeds, intervals."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from selfcell.baselines import BASELINES
from selfcell.benchmark.study import LabelBudget, Study, StudyPlan
from selfcell.core.config import build
from selfcell.data.counts import Scale
from selfcell.data.source import CellSource, open_cells
from selfcell.downstream import DOWNSTREAM_TASKS, REGIMES
from selfcell.downstream.cell_type import CellTypeSettings
from selfcell.downstream.embed import as_model
from selfcell.training.run_folder import TrainedModel, check_folder, prepare_folder


def evaluate(
    model: TrainedModel | str | Path | Sequence[TrainedModel | str | Path],
    cells: CellSource,
    *,
    label_key: str,
    donor_key: str | None = None,
    batch_key: str | None = None,
    task: str = "cell_type",
    out: str | Path | None = None,
    regimes: Sequence[str] = tuple(REGIMES),
    baselines: Sequence[str] = tuple(BASELINES),
    labelled_donors: Sequence[int | None] = (None,),
    n_seeds: int = 3,
    test_fraction: float = 0.3,
    settings: CellTypeSettings | dict[str, Any] | None = None,
    layer: str | None = None,
    scale: Scale = "auto",
    gene_column: str | None = None,
    allow_low_overlap: bool = False,
    jobs: int | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
) -> pd.DataFrame:
    """Compare every way of using a model with baselines, on cells of held-out donors.

    Parameters
    ----------
    model
        A pre-trained model or its run folder; or several that differ in ``training.seed`` alone, so that the spread
        over pre-trainings shows too.
    cells
        Labelled cells. Donors that the model's run set aside (``data.test_fraction``) are judged on; if it set none
        aside, they are drawn.
    label_key, donor_key, batch_key
        Columns of ``obs`` with the type, the donor, and the batch (shown on maps only). Without donors cells are split
        one by one, which overstates scores on new donors.
    task
        The downstream task.
    out
        Folder for the tables that :func:`selfcell.report` draws from.
    regimes, baselines
        What to compare; ``selfcell list`` names them.
    labelled_donors
        Label budgets: how many training donors are labelled, None for all.
    n_seeds
        Seeds of fine-tuning and of the draw of labelled donors; with several models each seed has its own in turn.
    test_fraction
        Share of the cells to judge on, where the model's run has set none aside.
    settings
        Settings of the task, or those that differ from the defaults.
    layer, scale, gene_column, allow_low_overlap
        As in :func:`selfcell.embed`.
    jobs
        Processes to run trials in; the number of cores, but four at most, if left out.
    overwrite
        Replace what is in ``out``.
    show_progress
        Show a progress bar.

    Returns
    -------
    One row a score; see :data:`selfcell.benchmark.results.SCORE_COLUMNS`.

    Raises
    ------
    InputError
        If models, cells or columns cannot be worked with; before any training.
    """
    DOWNSTREAM_TASKS[task]
    given = [model] if isinstance(model, TrainedModel | str | Path) else model
    models = [as_model(one) for one in given]
    plan = StudyPlan(
        label_key=label_key,
        donor_key=donor_key,
        batch_key=batch_key,
        n_seeds=n_seeds,
        budgets=tuple(LabelBudget(n_donors) for n_donors in labelled_donors),
        regimes=tuple(regimes),
        baselines=tuple(baselines),
        settings=settings if isinstance(settings, CellTypeSettings) else build(CellTypeSettings, settings or {}),
        test_fraction=test_fraction,
        n_mapped=2_000 if out is not None else 0,
    )
    if out is not None:
        check_folder(Path(out), overwrite=overwrite)
    opened = open_cells(cells, layer=layer, scale=scale, gene_column=gene_column)
    study = Study(plan, opened, models, allow_low_overlap=allow_low_overlap)
    if out is not None:
        prepare_folder(Path(out), overwrite=overwrite)
    results = study.run(jobs=jobs, show_progress=show_progress)
    if out is not None:
        results.write(Path(out))
    return results.scores
