"""Harmony as a baseline of data integration (the extra ``integration``)."""

from typing import Any

import numpy as np
import pandas as pd

from selfcell.baselines.base import Problem
from selfcell.core.extras import import_extra
from selfcell.core.seeds import derive_seed
from selfcell.downstream.integration import IntegrationTask


def integrate_by_harmony(problem: Problem[IntegrationTask]) -> Any:
    """Correct the principal components for batches :cite:p:`korsunsky2019`.

    Harmony cannot place new cells: it moves the cells that it is given. So it is given the test cells too, with their
    batches, which neither the encoder's regimes nor scVI are.

    Raises
    ------
    InputError
        If harmonypy is not installed.
    """
    harmonypy = import_extra("harmonypy", extra="integration", use="The baseline harmony")
    space, split = problem.compared.principal_components, problem.split
    rows = np.concatenate([split.train, split.test])
    batch_names = pd.DataFrame({"batch": problem.task.batch_code[rows].astype(str)})
    seed = derive_seed(problem.seed, "harmony") % 2**31
    corrected = harmonypy.run_harmony(space[rows], batch_names, "batch", verbose=False, random_state=seed).Z_corr
    moved = np.zeros_like(space)
    moved[rows] = corrected
    return problem.task.answer_in_space(moved, split)
