"""Judge pre-trained models on labelled cells: every regime, every baseline, seeds, intervals."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from selfcell.benchmark.outcome_store import OutcomeStore
from selfcell.benchmark.query import (
    joined_for_judging,
    labelled_cells,
    with_column_renamed,
    with_label_renamed,
    with_labels_mapped,
)
from selfcell.benchmark.results import UNFINISHED
from selfcell.benchmark.study import Study
from selfcell.benchmark.study_plan import JUDGED_BY_TYPES, USUAL, LabelBudget, StudyPlan, check_plan
from selfcell.benchmark.study_split import set_aside_one_by_one
from selfcell.benchmark.trials import Workplace
from selfcell.core.atomic import atomic_folder
from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.core.words import counted
from selfcell.data.cellxgene import DONOR_COLUMN, donor_column, label_column, warn_of_copies
from selfcell.data.counts import Scale
from selfcell.data.source import Cells, CellSource, open_cells
from selfcell.downstream import DOWNSTREAM_TASKS, REGIMES
from selfcell.downstream.base import SupervisedSettings
from selfcell.downstream.embed import as_model
from selfcell.training.out_folder import MARKER, check_folder, claim_folder
from selfcell.training.run_folder import TrainedModel

logger = logging.getLogger(__name__)


def evaluate(
    model: TrainedModel | str | Path | Sequence[TrainedModel | str | Path],
    cells: CellSource,
    *,
    task: str = "cell_type",
    label_key: str | None = None,
    donor_key: str | None = None,
    batch_key: str | None = None,
    out: str | Path | None = None,
    regimes: Sequence[str] = tuple(REGIMES),
    baselines: Sequence[str] = (USUAL,),
    labelled_donors: Sequence[int | None] = (None,),
    labelled_fractions: Sequence[float] = (),
    n_seeds: int = 3,
    crossed: bool = False,
    test_fraction: float | None = None,
    test_where: str | None = None,
    query: CellSource | None = None,
    query_label_key: str | None = None,
    query_donor_key: str | None = None,
    query_batch_key: str | None = None,
    label_map: Mapping[str, str] | None = None,
    settings: SupervisedSettings | dict[str, Any] | None = None,
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
        Cells of which the truth is known. Donors that the model's run set aside (``data.test_fraction``) are judged on;
        if it set none aside, they are drawn.
    task
        The downstream task.
    label_key, donor_key, batch_key
        Columns of ``obs`` with the type, the donor, and the batch. Types that are not named are those of ``cell_type``,
        where it is there and the task is judged by them; cells without a type are left out. Donors that are not named
        are those of ``donor_id``, where it is there; an empty text for none. Without donors cells are split one by one,
        which overstates scores on new donors.
    out
        Folder for the tables that :func:`selfcell.report` draws from, written when all is done. Trials that are done
        are kept there until then: an interrupted comparison goes on where it was if it is asked for again.
    regimes, baselines
        What to compare; ``selfcell list`` names them. ``usual`` stands for the baselines of the task that are quick and
        need no further package, and ``obsm:KEY`` takes an embedding which the cells bring along.
    labelled_donors
        Label budgets: how many training donors are labelled, None for all.
    labelled_fractions
        Further label budgets: the share of the training cells that are labelled, between 0 and 1.
    n_seeds
        Seeds of fine-tuning and of the draw of labelled donors; with several models each seed has its own in turn.
    crossed
        Fine-tune each of several models with every seed.
    test_fraction
        Share of the cells to judge on, where the model's run has set none aside; 0.3 if left out.
    test_where
        The cells to judge on, by a query over ``obs`` such as ``"study == 'Muraro'"``; all others are for training.
    query
        Judge on these cells, of another data set, instead; all of ``cells`` are for training.
    query_label_key, query_donor_key, query_batch_key
        Columns of the query's ``obs`` with the type, the donor and the batch, where they have other names than
        ``label_key``, ``donor_key`` and ``batch_key``. A query without the column of donors counts as one donor.
    label_map
        Types under another name: from the name in ``obs`` to the one to use, for the labels of ``cells`` and ``query``.
        Types that are not in it keep their names.
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

    Examples
    --------
    >>> scores = selfcell.evaluate(
    ...     "runs/mae",
    ...     "cells.h5ad",
    ...     label_key="cell_type",
    ...     donor_key="donor_id",
    ...     out="judged",
    ...     regimes=["zero_shot"],
    ...     baselines=["pca_knn"],
    ...     n_seeds=1,
    ...     show_progress=False,
    ... )
    >>> by_method = scores.query("metric == 'macro_f1'").groupby("method")["value"].mean()
    >>> sorted(by_method.index)
    ['pca_knn', 'zero_shot']
    """
    given = [model] if isinstance(model, TrainedModel | str | Path) else model
    models = [as_model(one) for one in given]
    _refuse_unused(models, n_seeds=n_seeds, crossed=crossed)
    task_class = DOWNSTREAM_TASKS[task]
    # Columns of the tables, in this order: all donors, which come last among them, stay last.
    budgets = [LabelBudget(fraction=fraction) for fraction in labelled_fractions]
    budgets += [LabelBudget(n_donors) for n_donors in labelled_donors]
    plan = StudyPlan(
        task=task,
        label_key=label_key,
        donor_key=donor_key,
        batch_key=batch_key,
        seeds=tuple(range(n_seeds)),
        crossed=crossed,
        budgets=tuple(budgets),
        regimes=tuple(regimes),
        baselines=tuple(baselines),
        settings=settings if isinstance(settings, SupervisedSettings) else build(task_class.Settings, settings or {}),
        test_fraction=test_fraction,
        test_where=test_where,
        maps=out is not None,
        examined=out is not None,
    )
    check_plan(plan)
    _refuse_two_ways(plan, is_query=query is not None)
    of_query = {"label": query_label_key, "donor": query_donor_key, "batch": query_batch_key}
    for role, key in of_query.items():
        if query is None and key is not None:
            raise InputError(
                f"--query-{role} (query_{role}_key) names a column of the cells of --query, which are not given."
            )
    if out is not None:
        check_folder(Path(out), overwrite=overwrite)
    opened = open_cells(cells, layer=layer, scale=scale, gene_column=gene_column)
    if task in JUDGED_BY_TYPES:
        label_key = label_column(opened, label_key)
    opened = with_labels_mapped(labelled_cells(opened, label_key), label_key, label_map)
    warn_of_copies(opened)
    plan = dataclasses.replace(plan, label_key=label_key, donor_key=_donor_column(opened, donor_key, models[0]))
    split, seen = None, None
    if query is not None:
        query_label_key = query_label_key or label_key
        asked = open_cells(query, layer=layer, scale=scale, gene_column=gene_column)
        asked = with_labels_mapped(labelled_cells(asked, query_label_key), query_label_key, label_map)
        asked = with_label_renamed(asked, label_key, query_label_key)
        asked = with_column_renamed(asked, plan.donor_key, query_donor_key)
        asked = with_column_renamed(asked, plan.batch_key, query_batch_key)
        opened, split, seen = joined_for_judging(opened, asked, plan, models, allow_low_overlap=allow_low_overlap)
    study = Study(plan, opened, models, split=split, seen=seen, allow_low_overlap=allow_low_overlap)
    if out is not None:
        claim_folder(Path(out), overwrite=overwrite)
    store = None if out is None else _store_of(Path(out), study)
    results = study.run(Workplace(jobs=jobs, show_progress=show_progress), store=store)
    if out is not None:
        with atomic_folder(Path(out)) as temporary:
            results.write(temporary)
            (temporary / MARKER).touch()
    return results.scores


def _refuse_two_ways(plan: StudyPlan, *, is_query: bool) -> None:
    """Refuse to be told in two ways which cells to judge on."""
    if is_query and plan.test_where is not None:
        raise InputError(
            "Judge on the cells of --query (query), or on those of --test-where (test_where), not on both."
        )
    if plan.test_fraction is None:
        return
    if is_query:
        raise InputError("With --query (query) its cells are judged on: leave --test-fraction (test_fraction) out.")
    if plan.test_where is not None:
        raise InputError(
            "--test-where (test_where) names the cells to judge on: leave --test-fraction (test_fraction) out."
        )


def _donor_column(cells: Cells, donor_key: str | None, model: TrainedModel) -> str | None:
    """Find the column of donors; none, if not named, where the model's run has set some cells aside one by one."""
    if donor_key is None and DONOR_COLUMN in cells.obs:
        aligned = cells.aligned_to(model.genes, allow_low_overlap=True)
        if set_aside_one_by_one(aligned, model) is not None:
            return None
    return donor_column(cells, donor_key)


def _store_of(out: Path, study: Study) -> OutcomeStore:
    """Give the store of trials that are done, and warn where it keeps none of these."""
    store = OutcomeStore(out / UNFINISHED)
    n_kept = len(list(store))
    if n_kept and not any(study.work_id(trial) in store for trial in study.trials):
        logger.warning(
            "The %s in %s are of other settings or cells, and of no use here: all are run anew.",
            counted(n_kept, "finished trial"),
            out,
        )
    return store


def _refuse_unused(models: Sequence[TrainedModel], *, n_seeds: int, crossed: bool) -> None:
    """Refuse fewer seeds than models: some would not be used.

    Raises
    ------
    InputError
        With the way out.
    """
    if n_seeds < len(models) and not crossed:
        raise InputError(
            f"{counted(n_seeds, 'seed')} would leave {len(models) - n_seeds} of the {len(models)} models out: "
            "as many are needed (--seeds, n_seeds), or every model with every seed (--crossed)."
        )
