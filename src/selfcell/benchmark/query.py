"""Judge on another data set: its cells put beside those that are learned from."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from selfcell.benchmark.seen import Seen, what_was_seen
from selfcell.benchmark.study_plan import StudyPlan
from selfcell.benchmark.study_split import CHANCE
from selfcell.core.errors import InputError, did_you_mean, speaking_of
from selfcell.data.cell_hashes import CellHashes
from selfcell.data.cellxgene import TERM_COLUMN
from selfcell.data.genes import GeneTable
from selfcell.data.joined import join_cells
from selfcell.data.measured import as_measured
from selfcell.data.source import Cells, obs_column
from selfcell.data.splits import Split
from selfcell.data.targets import refuse_atlas
from selfcell.downstream import DOWNSTREAM_TASKS
from selfcell.training.run_folder import TrainedModel

logger = logging.getLogger(__name__)


def labelled_cells(cells: Cells, label_key: str | None) -> Cells:
    """Leave out, and count, cells that have no type; all are kept where no column is named.

    Raises
    ------
    InputError
        If there is no such column, or no cell has a type.
    """
    if label_key is None:
        return cells
    with speaking_of(cells.origin):
        return cells.with_value_in(label_key, role="label")


def with_labels_mapped(cells: Cells, label_key: str | None, label_map: Mapping[str, str] | None) -> Cells:
    """Give the same cells with types under other names; what has no type keeps none.

    Raises
    ------
    InputError
        If there is a map but no column, or the map names none of the types.
    """
    if label_map is None:
        return cells
    if label_key is None:
        raise InputError("A map of labels needs the column of labels: --label COLUMN (label_key).")
    missing = cells.obs[label_key].isna().to_numpy() if label_key in cells.obs else np.zeros(len(cells), dtype=bool)
    labels = obs_column(cells.obs[~missing], label_key, role="label")
    if not labels.isin(label_map.keys()).any() and not labels.isin(label_map.values()).any():
        raise InputError(
            f"The map of labels names none of the types in obs[{label_key!r}] of {cells.origin}. It maps "
            f"{', '.join(list(label_map)[:5])}; {did_you_mean(next(iter(label_map), ''), sorted(set(labels)))}"
        )
    renamed = np.full(len(cells), None, dtype=object)
    renamed[~missing] = labels.map(lambda name: label_map.get(name, name))
    # Ids of the ontology are of types as they were.
    obs = cells.obs.drop(columns=TERM_COLUMN, errors="ignore")
    return dataclasses.replace(cells, obs=obs.assign(**{label_key: renamed}))


def with_label_renamed(cells: Cells, label_key: str | None, query_label_key: str | None) -> Cells:
    """Give the query with its column of labels under the name that it has in the reference.

    Raises
    ------
    InputError
        If there is no such column, or the reference's is not named.
    """
    if query_label_key in (None, label_key):
        return cells
    if label_key is None:
        raise InputError("--query-label (query_label_key) needs the reference's column of labels too: --label.")
    with speaking_of(cells.origin):
        labels = obs_column(cells.obs, query_label_key, role="label")
    return dataclasses.replace(cells, obs=cells.obs.assign(**{label_key: labels}))


def with_column_renamed(cells: Cells, key: str | None, query_key: str | None) -> Cells:
    """Give the query with its column of donors or batches under the name that it has in the reference.

    Where the reference has none, that of the query cannot be used, which is logged.

    Raises
    ------
    InputError
        If the query has no such column.
    """
    if query_key is None or query_key == key:
        return cells
    if query_key not in cells.obs:
        raise InputError(
            f"{cells.origin}: There is no column {query_key!r} in obs. "
            f"{did_you_mean(query_key, list(map(str, cells.obs.columns)))}"
        )
    if key is None:
        logger.warning(
            "obs[%r] of %s is not used, as no such column is named of the cells that are learned from. Where no donors "
            "are known, test cells are drawn anew in random blocks.",
            query_key,
            cells.origin,
        )
        return cells
    return dataclasses.replace(cells, obs=cells.obs.assign(**{key: cells.obs[query_key]}))


class Joined(NamedTuple):
    """Two data sets as one."""

    cells: Cells
    split: Split
    """To learn from the first, and to judge on the second."""
    seen: Seen
    """What the models have seen of the second."""


def joined_for_judging(
    cells: Cells, query: Cells, plan: StudyPlan, models: Sequence[TrainedModel], *, allow_low_overlap: bool
) -> Joined:
    """Put the cells of a query behind those to learn from, with the split that judges on the query alone.

    Donors of the two are kept apart even where they bear the same name. A query without a donor column is one donor.

    Raises
    ------
    InputError
        If genes or columns do not match, the query has cells of the reference, or either lacks what the task predicts.
    """
    parts = _ready_to_join(cells, query, plan, models[0].genes, allow_low_overlap=allow_low_overlap)
    # The columns of donors are renamed in what is joined.
    as_they_are = dataclasses.replace(parts[1], obs=query.obs)
    seen = what_was_seen(models, as_they_are, np.arange(len(query)), other_set=True)
    joined, split = _joined(*parts, plan)
    if joined.measured is not None:
        logger.info(
            "Both %s and %s measure %s of the encoder's %s genes: all methods but scVI and scANVI learn from these.",
            cells.origin,
            query.origin,
            f"{int(joined.measured.sum()):,}",
            f"{len(joined.genes):,}",
        )
    return Joined(joined, split, seen)


def joined_cells(
    cells: Cells, query: Cells, plan: StudyPlan, genes: GeneTable, *, allow_low_overlap: bool
) -> tuple[Cells, Split]:
    """Put the cells of a query behind those to learn from, on the genes of a model; see :func:`joined_for_judging`."""
    return _joined(*_ready_to_join(cells, query, plan, genes, allow_low_overlap=allow_low_overlap), plan)


def _ready_to_join(
    cells: Cells, query: Cells, plan: StudyPlan, genes: GeneTable, *, allow_low_overlap: bool
) -> tuple[Cells, Cells]:
    reference = _part(cells, "reference", plan, genes, allow_low_overlap=allow_low_overlap)
    other = _part(query, "query", plan, genes, allow_low_overlap=allow_low_overlap)
    _refuse_common_cells(reference, other)
    return reference, other


def _joined(cells: Cells, query: Cells, plan: StudyPlan) -> tuple[Cells, Split]:
    train, test = np.arange(len(cells)), len(cells) + np.arange(len(query))
    task, settings = DOWNSTREAM_TASKS[plan.task], plan.task_settings
    joined = join_cells(cells, query, names_keys=task.names_keys(settings), needed=task.obsm_keys(settings))
    # Refused here, before hours are spent.
    as_measured(joined)
    return joined, Split(train, np.array([], dtype=np.int64), test, unit="data set")


def _refuse_common_cells(cells: Cells, query: Cells) -> None:
    common = CellHashes.of(query).found_in(CellHashes.of(cells))
    if common.mean() > CHANCE:
        raise InputError(
            f"{int(common.sum()):,} of the {len(query):,} cells of {query.origin} are in {cells.origin} too: judge on "
            "cells that are not learned from. Without --query, some of the cells are set aside for that, or those that "
            "--test-where names."
        )


def _part(cells: Cells, which: str, plan: StudyPlan, genes: GeneTable, *, allow_low_overlap: bool) -> Cells:
    """Align the cells to the model, and keep of ``obs`` what the plan names."""
    table = {}
    with speaking_of(cells.origin):
        for key in DOWNSTREAM_TASKS[plan.task].obsm_keys(plan.task_settings):
            if cells.of_atlas:
                refuse_atlas(cells.origin, key)
            if key not in cells.obsm:
                raise InputError(f"There is no obsm[{key!r}]. {did_you_mean(key, list(cells.obsm))}")
        for role, key in plan.columns._asdict().items():
            if key is None:
                continue
            if role != "label" and which == "query" and key not in cells.obs:
                # That a data set is one batch is what one expects.
                logger.log(
                    logging.WARNING if role == "donor" else logging.INFO,
                    "There is no obs[%r] in %s, so all of its cells count as one %s. If it has a column of another "
                    "name, say so: --query-%s COLUMN (query_%s_key), or in a plan %s = COLUMN of its cells.",
                    key,
                    cells.origin,
                    *(role,) * 4,
                )
                table[key] = np.full(len(cells), cells.origin)
                continue
            column = obs_column(cells.obs, key, role=role, missing="own category" if role == "batch" else "refuse")
            table[key] = column.to_numpy() if role == "label" else (f"{which} " + column).to_numpy()
        if plan.label_key is not None:
            # One of the two may have it alone.
            terms = cells.obs.get(TERM_COLUMN, pd.Series("", index=cells.obs.index))
            table[TERM_COLUMN] = terms.astype(str).to_numpy()
        aligned = cells.aligned_to(genes, allow_low_overlap=allow_low_overlap)
    return dataclasses.replace(aligned, obs=pd.DataFrame(table, index=cells.obs.index.astype(str)))
