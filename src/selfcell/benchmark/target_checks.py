"""What can be told of a benchmark's target before anything is pre-trained for it."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from selfcell.baselines.find import PRECOMPUTED
from selfcell.baselines.spaces import precomputed_space
from selfcell.benchmark.foreseen import ForeseenCells, foresee
from selfcell.benchmark.planned import GivenEncoder, PlannedEncoder, PlannedStudy
from selfcell.benchmark.query import joined_cells
from selfcell.benchmark.study_plan import StudyPlan
from selfcell.benchmark.study_split import Run
from selfcell.core.errors import InputError
from selfcell.data.genes import GeneTable
from selfcell.data.obs_query import query_mask
from selfcell.data.source import Cells, obs_column
from selfcell.data.splits import Split
from selfcell.downstream import DOWNSTREAM_TASKS
from selfcell.downstream.base import DownstreamTask
from selfcell.pretext.masked_autoencoder import MaskedAutoencoderSettings

RunsOf: TypeAlias = Mapping[PlannedEncoder | GivenEncoder, Sequence[Run]]
"""What the pre-trainings of each encoder set aside, or have set aside."""


def check_target(studies: Sequence[PlannedStudy], cells: Cells, query: Cells | None, runs_of: RunsOf) -> None:
    """Refuse what would fail after hours of pre-training.

    Parameters
    ----------
    studies
        A target asked of each of its encoders.
    cells
        The cells to learn from, those with a type where types are asked.
    query
        The cells to judge on, where they are of another data set.
    runs_of
        What encoders set aside.

    Raises
    ------
    InputError
        If columns, modalities or embeddings are missing, there is nothing to learn from or to judge on, a query has
        cells that are learned from, there are fewer donors to learn from than are to be labelled, encoders of two
        corpora would be judged on different cells, or one will have no decoder where one is needed.
    """
    plan = studies[0].plan
    _check_as_they_are(plan, cells)
    at_hand: dict[tuple[str, ...], tuple[Cells, Split | None, DownstreamTask]] = {}
    found: dict[PlannedEncoder | GivenEncoder, ForeseenCells] = {}
    for planned in studies:
        _check_decoder(planned)
        runs = runs_of[planned.encoder]
        genes = runs[0].genes
        if genes.ids not in at_hand:
            # One at a time: they are copies.
            at_hand = {genes.ids: _aligned(planned, cells, query, genes)}
        aligned, split, task = at_hand[genes.ids]
        found[planned.encoder] = foresee(plan, task, aligned, runs, split)
        _check_budgets(planned, aligned, found[planned.encoder])
    _refuse_different_cells({one: cells for one, cells in found.items() if isinstance(one, PlannedEncoder)})


def _check_as_they_are(plan: StudyPlan, cells: Cells) -> None:
    DOWNSTREAM_TASKS[plan.task].of(plan.task_settings, cells, plan.columns)
    for method in plan.methods:
        if method.startswith(PRECOMPUTED):
            precomputed_space(cells, method.removeprefix(PRECOMPUTED))
    if plan.test_where is not None:
        is_test = query_mask(cells.obs, plan.test_where)
        if is_test.all() or not is_test.any():
            raise InputError(
                f"test_where = {plan.test_where!r} holds for {'all' if is_test.all() else 'none'} of the cells."
            )
    if plan.donor_key is None and any(budget.n_donors is not None for budget in plan.budgets):
        raise InputError("budgets count donors, so the cells need their column: donor.")


def _aligned(
    planned: PlannedStudy, cells: Cells, query: Cells | None, genes: GeneTable
) -> tuple[Cells, Split | None, DownstreamTask]:
    """Put cells, and those of a query behind them, on the genes of a corpus or model, and make the task of them."""
    plan, encoder = planned.plan, planned.encoder
    split = None
    if query is not None:
        cells, split = joined_cells(cells, query, plan, genes, allow_low_overlap=True)
        for method in plan.methods:
            if method.startswith(PRECOMPUTED):
                precomputed_space(cells, method.removeprefix(PRECOMPUTED))
    elif cells.genes != genes:
        # Of the most variable genes, more may be there than of all.
        some = isinstance(encoder, PlannedEncoder) and encoder.settings.data.n_top_genes is not None
        cells = cells.aligned_to(genes, allow_low_overlap=some)
    return cells, split, DOWNSTREAM_TASKS[plan.task].of(plan.task_settings, cells, plan.columns)


def _check_budgets(planned: PlannedStudy, cells: Cells, found: ForeseenCells) -> None:
    plan = planned.plan
    counted = [budget.n_donors for budget in plan.budgets if budget.n_donors is not None]
    if not counted or plan.donor_key is None:
        return
    donors = obs_column(cells.obs, plan.donor_key, role="donor").iloc[found.trainable]
    n_donors = len(np.unique(donors.astype(str)))
    if max(counted) > n_donors:
        raise InputError(
            f"{max(counted)} labelled donors are asked for, but there are {n_donors} beside those that are judged on: "
            f"ask for fewer in budgets ({planned.encoder.title})."
        )


def _check_decoder(planned: PlannedStudy) -> None:
    needing = set(planned.plan.regimes) & DOWNSTREAM_TASKS[planned.plan.task].regimes_of_decoder
    if not needing or not isinstance(planned.encoder, PlannedEncoder):
        return
    if not isinstance(planned.encoder.settings.pretext, MaskedAutoencoderSettings):
        raise InputError(
            f"{planned.encoder.title} will have no decoder, which {', '.join(sorted(needing))} needs: leave it out of "
            "regimes, or the encoder out of encoders."
        )


def _refuse_different_cells(found: dict[PlannedEncoder, ForeseenCells]) -> None:
    """Refuse encoders that could be told apart by the cells that they are judged on."""
    first = next(iter(found), None)
    for other in found:
        if first is not None and found[other].test_cells != found[first].test_cells:
            raise InputError(
                f"{first.title} and {other.title} would be judged on different cells, so that their scores are of no "
                "use to compare: their pre-trainings set others aside. Give both the same data.donor_key, "
                "data.test_fraction and data.split_seed, name the cells to judge on (test_where or query), or ask each "
                "in a target of its own (corpora, encoders)."
            )
