"""What can be told of a benchmark's target before anything is pre-trained for it."""

import numpy as np

from selfcell.benchmark.planned import PlannedEncoder, PlannedStudy
from selfcell.core.errors import InputError
from selfcell.data.obs_query import query_mask
from selfcell.data.source import Cells, obs_column
from selfcell.downstream import DOWNSTREAM_TASKS
from selfcell.pretext.masked_autoencoder import MaskedAutoencoderSettings


def check_target(planned: PlannedStudy, cells: Cells) -> None:
    """Refuse what would fail after hours of pre-training.

    Parameters
    ----------
    planned
        A target asked of an encoder.
    cells
        The cells to learn from, those with a type where types are asked.

    Raises
    ------
    InputError
        If columns or modalities are missing, the cells to judge on are all or none, there are fewer donors than are to
        be labelled, or the encoder will have no decoder where one is needed.
    """
    plan = planned.plan
    DOWNSTREAM_TASKS[plan.task].of(plan.task_settings, cells, plan.columns)
    if plan.test_where is not None:
        is_test = query_mask(cells.obs, plan.test_where)
        if is_test.all() or not is_test.any():
            raise InputError(
                f"test_where = {plan.test_where!r} holds for {'all' if is_test.all() else 'none'} of the cells."
            )
    _check_budgets(planned, cells)
    _check_decoder(planned)


def _check_budgets(planned: PlannedStudy, cells: Cells) -> None:
    plan = planned.plan
    counted = [budget.n_donors for budget in plan.budgets if budget.n_donors is not None]
    if not counted:
        return
    if plan.donor_key is None:
        raise InputError("budgets count donors, so the cells need their column: donor.")
    n_donors = len(np.unique(obs_column(cells.obs, plan.donor_key, role="donor").astype(str)))
    if max(counted) > n_donors:
        raise InputError(f"{max(counted)} labelled donors are asked for, but there are {n_donors}.")


def _check_decoder(planned: PlannedStudy) -> None:
    needing = set(planned.plan.regimes) & DOWNSTREAM_TASKS[planned.plan.task].regimes_of_decoder
    if not needing or not isinstance(planned.encoder, PlannedEncoder):
        return
    if not isinstance(planned.encoder.settings.pretext, MaskedAutoencoderSettings):
        raise InputError(
            f"{planned.encoder.title} will have no decoder, which {', '.join(sorted(needing))} needs: leave it out of "
            "regimes, or the encoder out of encoders."
        )
