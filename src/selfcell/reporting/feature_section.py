"""The part of the page about each feature that is predicted, such as a protein."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from selfcell.reporting.names import fullest, method_name

N_SHOWN = 15
"""Features shown from either end, the best predicted and the worst."""
_WANTED = ("fine_tuned", "from_scratch", "zero_shot", "gene_ridge")


def feature_content(details: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Give what the template shows of the table of features; nothing without one."""
    if "features" not in details:
        return {"feature_rows": []}
    features = details["features"]
    budget = fullest(list(dict.fromkeys(features["budget"])))
    of_budget = features[features["budget"] == budget].pivot(index="feature", columns="method", values="pearson")
    methods = [method for method in _WANTED if method in of_budget] or [str(features["method"].iloc[0])]
    ordered = of_budget[methods].dropna(how="all").sort_values(methods[0], ascending=False)
    rows = [
        (str(name), [f"{value:.3f}" for value in row])
        for name, row in zip(ordered.index, ordered.to_numpy(), strict=True)
    ]
    shown = rows if len(rows) <= 2 * N_SHOWN else [*rows[:N_SHOWN], *rows[-N_SHOWN:]]
    return {
        "feature_rows": shown,
        "feature_methods": [method_name(method) for method in methods],
        "feature_budget": budget,
        "n_features": f"{len(features['feature'].unique()):,}",
        "n_left_out": len(rows) - len(shown),
    }
