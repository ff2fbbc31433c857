"""The part of the page that tells how far confidence can be trusted."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from selfcell.downstream.confidence_scores import confidence_scores
from selfcell.downstream.rejection import risk_coverage
from selfcell.downstream.reliability import reliability_table
from selfcell.reporting.confidence_figures import plot_reliability, plot_risk_coverage
from selfcell.reporting.names import method_name

_SCORES = {
    "accuracy": "Accuracy",
    "ece_uncalibrated": "Calibration error: mean gap between confidence and accuracy, as it is",
    "ece": "The same, calibrated",
    "area_under_risk_coverage": "Share of errors among the surest cells, mean over all numbers of them",
    "coverage": "Prediction sets that hold the true type; 0.95 is promised",
    "set_size": "Types in a prediction set",
    "called_unknown": "Cells called unknown, though all are of known types",
    "errors_if_not_unknown": "Share of errors among the others",
}


def confidence_content(details: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Give what the template shows of the tables that :meth:`CellTypeTask.examine` makes; nothing without them."""
    if "confidence" not in details:
        return {"confidence_rows": []}
    cells = details["confidence"]
    reliability, risk = {}, {}
    for method, of_method in cells.groupby("method", sort=False):
        name = method_name(str(method))
        correct = (of_method["truth"] == of_method["predicted"]).to_numpy()
        reliability[f"{name}, as it is"] = reliability_table(of_method["uncalibrated"].to_numpy(), correct)
        reliability[f"{name}, calibrated"] = reliability_table(of_method["confidence"].to_numpy(), correct)
        risk[name] = risk_coverage(of_method["confidence"].to_numpy(), correct)
    scores = confidence_scores(cells).set_index("method")
    return {
        "confidence_methods": [method_name(str(method)) for method in scores.index],
        "confidence_rows": [(_SCORES[name], [_shown(value) for value in scores[name]]) for name in _SCORES],
        "reliability_figure": plot_reliability(reliability),
        "risk_figure": plot_risk_coverage(risk),
        "unseen_rows": [
            (
                str(row["class"]),
                [f"{int(row['n_cells']):,}", *(_shown(float(value)) for value in row.drop(["class", "n_cells"]))],
            )
            for _, row in details.get("unseen_types", pd.DataFrame()).iterrows()
        ],
    }


def _shown(value: float) -> str:
    return f"{value:.3f}"
