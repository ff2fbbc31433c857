"""Judge on another data set: its cells put beside those that are learned from."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

from selfcell.benchmark.study_plan import StudyPlan
from selfcell.core.errors import InputError, did_you_mean
from selfcell.data.joined import join_cells
from selfcell.data.source import Cells, obs_column
from selfcell.data.splits import Split
from selfcell.training.run_folder import TrainedModel


def with_labels_mapped(cells: Cells, label_key: str | None, label_map: Mapping[str, str] | None) -> Cells:
    """Give the same cells with types under other names.

    Raises
    ------
    InputError
        If there is a map but no column, or the map names none of the types.
    """
    if label_map is None:
        return cells
    if label_key is None:
        raise InputError("A map of labels needs the column of labels: --label COLUMN (label_key).")
    labels = obs_column(cells.obs, label_key, role="label")
    if not labels.isin(label_map.keys()).any() and not labels.isin(label_map.values()).any():
        raise InputError(
            f"The map of labels names none of the types in obs[{label_key!r}] of {cells.origin}. It maps "
            f"{', '.join(list(label_map)[:5])}; {did_you_mean(next(iter(label_map)), sorted(set(labels)))}"
        )
    return dataclasses.replace(
        cells, obs=cells.obs.assign(**{label_key: labels.map(lambda name: label_map.get(name, name))})
    )


def joined_for_judging(
    cells: Cells, query: Cells, plan: StudyPlan, model: TrainedModel, *, allow_low_overlap: bool
) -> tuple[Cells, Split]:
    """Put the cells of a query behind those to learn from, with the split that judges on the query alone.

    Donors of the two are kept apart even where they bear the same name. A query without a donor column is one donor.

    Raises
    ------
    InputError
        If genes or columns do not match.
    """
    columns = {name: key for name, key in plan.columns._asdict().items() if key is not None}
    parts = []
    for which, part in (("reference", cells), ("query", query)):
        aligned = part.aligned_to(model.genes, allow_low_overlap=allow_low_overlap)
        table = {}
        for role, key in columns.items():
            if role != "label" and which == "query" and key not in part.obs:
                table[key] = np.full(len(part), f"{part.origin}")
                continue
            column = obs_column(part.obs, key, role=role, missing="own category" if role == "batch" else "refuse")
            table[key] = column.to_numpy() if role == "label" else (f"{which} " + column).to_numpy()
        parts.append(dataclasses.replace(aligned, obs=pd.DataFrame(table, index=part.obs.index.astype(str))))
    joined = join_cells(*parts)
    train, test = np.arange(len(cells)), len(cells) + np.arange(len(query))
    return joined, Split(train, np.array([], dtype=np.int64), test, unit="data set")
