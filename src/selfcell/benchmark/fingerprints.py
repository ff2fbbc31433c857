"""Hashes of what a plan reads of its cells: by them a changed file is noticed, and what in it has changed."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp

from selfcell.baselines.find import PRECOMPUTED
from selfcell.benchmark.plan import Plan, planned_encoders, planned_studies
from selfcell.benchmark.planned import PlannedEncoder
from selfcell.core.digest import digest_of
from selfcell.core.errors import InputError
from selfcell.data.cellxgene import TERM_COLUMN
from selfcell.data.obs_query import named_columns
from selfcell.data.source import Cells
from selfcell.downstream import DOWNSTREAM_TASKS
from selfcell.training.settings import DataSettings

Fingerprint: TypeAlias = dict[str, str]
"""Hashes by what they are of, such as ``counts`` or ``obs['donor']``."""

CONTENTS = ("counts", "genes", "cell names")
"""What every fingerprint is of, but that of an atlas."""
_WHOLE = "counts, genes, cell names or a column of label, donor or batch"
"""What the one hash was of that folders of before have of each set of cells."""


def contents(cells: Cells) -> Fingerprint:
    """Hash counts, genes and names of cells."""
    hashes = (
        _digest_of_counts(cells.counts),
        digest_of(np.array(cells.genes.ids)),
        digest_of(cells.obs.index.astype(str)),
    )
    return dict(zip(CONTENTS, hashes, strict=True))


def read_beside_counts(plan: Plan, name: str, cells: Cells) -> Fingerprint:
    """Hash the columns of ``obs`` and what of ``obsm`` a plan reads of some of its cells, where they are there."""
    settings = plan.cells[name]
    columns = {settings.label, settings.donor, settings.batch, TERM_COLUMN}
    keys: set[str] = set()
    encoders = planned_encoders(plan)
    for encoder in encoders:
        if isinstance(encoder, PlannedEncoder) and plan.corpora[encoder.corpus].cells == name:
            columns |= columns_of_data(encoder.settings.data, cells)
    for planned in planned_studies(plan, encoders):
        target, study = plan.targets[planned.target], planned.plan
        if target.cells == name and study.test_where is not None:
            columns |= set(named_columns(study.test_where, cells.obs.columns))
        if name in (target.cells, target.query):
            keys |= set(DOWNSTREAM_TASKS[study.task].obsm_keys(study.task_settings))
            keys |= {one.removeprefix(PRECOMPUTED) for one in study.methods if one.startswith(PRECOMPUTED)}
    obs = {f"obs[{column!r}]": digest_of(cells.obs[column]) for column in cells.obs if column in columns}
    return obs | {f"obsm[{key!r}]": digest_of(cells.obsm[key]) for key in sorted(keys) if key in cells.obsm}


def columns_of_data(data: DataSettings, cells: Cells) -> set[str]:
    """Give the columns that settings of pre-training name."""
    named = {data.donor_key, data.batch_key, data.balance_key}
    named |= set() if data.where is None else set(named_columns(data.where, cells.obs.columns))
    return {column for column in named if column is not None and column in cells.obs}


def refuse_changed(before: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    """Refuse cells that are not those of a folder's results.

    Parameters
    ----------
    before, now
        Fingerprints by the name of the cells; or the one hash that folders of before have.
    out
        The folder.

    Raises
    ------
    InputError
        With the names of the cells, and what changed.
    """
    changed = {}
    for name in now:
        known = _as_parts(before.get(name, {}))
        parts = [part for part, found in _as_parts(now[name]).items() if known.get(part, found) != found]
        if parts:
            changed[name] = ", ".join(parts)
    if changed:
        told = "; ".join(f"{name}: {parts}" for name, parts in changed.items())
        raise InputError(
            f"The cells of {', '.join(changed)} are not those that {out} has results of. What changed, in the file or "
            f"by how the plan prepares it, is {told}. Put back what it was, or name another folder."
        )


def together(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Put fingerprints of the same cells together."""
    merged = dict(before)
    for name, found in now.items():
        known = merged.get(name)
        merged[name] = known | found if isinstance(known, dict) and isinstance(found, dict) else found
    return merged


def _as_parts(found: Any) -> Mapping[str, str]:
    return found if isinstance(found, dict) else {_WHOLE: found}


def _digest_of_counts(counts: sp.csr_matrix) -> str:
    digest = hashlib.sha256()
    for part in (counts.indptr.astype(np.int64), counts.indices.astype(np.int32), counts.data):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
