"""How far confidence can be trusted, in numbers, from a table of cells whose type is known.

No torch here: reports compute from the same functions.
"""

import numpy as np
import pandas as pd

from selfcell.downstream.rejection import area_under_risk_coverage
from selfcell.downstream.reliability import expected_calibration_error

CONFIDENCE_COLUMNS = (
    "method",
    "donor",
    "truth",
    "predicted",
    "confidence",
    "uncalibrated",
    "n_in_set",
    "truth_in_set",
    "is_unknown",
)
"""Columns of the table of test cells. ``confidence`` is calibrated, ``uncalibrated`` the share of votes or the
probability as it is; ``n_in_set`` is the number of types in the cell's prediction set."""


def confidence_scores(cells: pd.DataFrame) -> pd.DataFrame:
    """Summarize a table of cells with the columns of :data:`CONFIDENCE_COLUMNS`, one row a method.

    Returns
    -------
    ``accuracy``; the expected calibration error before (``ece_uncalibrated``) and after (``ece``) temperature scaling;
    the mean share of errors among the surest cells (``area_under_risk_coverage``); the share of prediction sets that
    hold the true type (``coverage``, promised: 0.95) and their mean size; the share called unknown, though all types
    are known, and the share of errors among the others.
    """
    methods = cells.groupby("method", sort=False)
    return pd.DataFrame([_scores_of(str(method), of_method) for method, of_method in methods])


def _scores_of(method: str, cells: pd.DataFrame) -> dict[str, object]:
    correct = (cells["truth"] == cells["predicted"]).to_numpy()
    confidence, known = cells["confidence"].to_numpy(), ~cells["is_unknown"].to_numpy(dtype=bool)
    return {
        "method": method,
        "n_cells": len(cells),
        "accuracy": correct.mean(),
        "ece_uncalibrated": expected_calibration_error(cells["uncalibrated"].to_numpy(), correct),
        "ece": expected_calibration_error(confidence, correct),
        "area_under_risk_coverage": area_under_risk_coverage(confidence, correct),
        "coverage": cells["truth_in_set"].mean(),
        "set_size": cells["n_in_set"].mean(),
        "called_unknown": 1 - known.mean(),
        "errors_if_not_unknown": 1 - correct[known].mean() if known.any() else np.nan,
    }
