"""Put together what several machines have done of one plan."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfcell.benchmark.fingerprints import refuse_changed, together
from selfcell.benchmark.outcome_store import SUFFIX, OutcomeStore
from selfcell.benchmark.trials import Outcome
from selfcell.core.atomic import atomic_folder, atomic_path, write_json, write_text
from selfcell.core.config import read_toml
from selfcell.core.digest import sha256_of
from selfcell.core.errors import InputError
from selfcell.core.reading import read_json
from selfcell.training.out_folder import is_finished_run

logger = logging.getLogger(__name__)

WEIGHTS = "encoder.safetensors"


def merge_benchmarks(out: str | Path, others: Sequence[str | Path]) -> int:
    """Take over the finished pre-trainings and the trials of other folders of the same plan.

    What failed, or is not finished, in ``out`` gives way to what came to something elsewhere. Tables and page are made
    when the benchmark is run again on ``out``, which then runs what none of them has.

    Parameters
    ----------
    out
        The folder to add to; it may be empty or not there.
    others
        Folders of the same plan, on the same cells. They stay as they are.

    Returns
    -------
    The number of trials that were taken over.

    Raises
    ------
    InputError
        If a folder is no benchmark, or of another plan or other cells; before anything is copied.
    """
    out, folders = Path(out), [Path(other) for other in others]
    known = [*([out] if (out / "plan.toml").exists() else []), *folders]
    names = {folder: _plan_name(folder) for folder in known}
    fingerprints: dict[str, Any] = {}
    for folder in known:
        if names[folder] != names[known[0]]:
            raise InputError(f"{folder} is of the plan {names[folder]!r}, not of {names[known[0]]!r}.")
        # The plan is written first: killed before its cells were, a folder has no results of any.
        of_folder = read_json(folder / "cells.json") if (folder / "cells.json").exists() else {}
        refuse_changed(fingerprints, of_folder, known[0])
        fingerprints = together(fingerprints, of_folder)
    if not (out / "plan.toml").exists():
        write_text(out / "plan.toml", (folders[0] / "plan.toml").read_text(encoding="utf-8"))
    write_json(out / "cells.json", fingerprints)
    return sum(_take_over(folder, out) for folder in folders)


def _plan_name(folder: Path) -> str:
    if not (folder / "plan.toml").exists():
        raise InputError(f"{folder} is no folder of a benchmark: it has no plan.toml.")
    return str(read_toml(folder / "plan.toml").get("name"))


def _take_over(folder: Path, out: Path) -> int:
    for run in sorted(path.parent for path in (folder / "runs").glob("[!.]*/manifest.json")):
        target = out / "runs" / run.name
        if not is_finished_run(run):
            continue
        if is_finished_run(target):
            _warn_of_other_weights(run, target)
        else:
            with atomic_folder(target) as temporary:
                shutil.copytree(run, temporary, dirs_exist_ok=True)
    theirs, ours = OutcomeStore(folder / "trials"), OutcomeStore(out / "trials")
    new = [work_id for work_id in theirs if work_id not in ours or _is_better(work_id, theirs, ours)]
    for work_id in new:
        name = f"{work_id}{SUFFIX}"
        with atomic_path(ours.folder / name) as temporary:
            shutil.copyfile(theirs.folder / name, temporary)
    logger.info("%s: %d trials that %s did not have.", folder, len(new), out)
    return len(new)


def _warn_of_other_weights(run: Path, ours: Path) -> None:
    """Say so where a pre-training came out otherwise on another machine: trials go by the weights they began from."""
    if sha256_of(run / WEIGHTS) != sha256_of(ours / WEIGHTS):
        logger.warning(
            "%s has other weights than %s, as another machine rounds otherwise, and its trials that begin from them "
            "are run anew. Pre-train once (--only TARGET, then copy runs/), and share that.",
            run,
            ours,
        )


def _is_better(work_id: str, theirs: OutcomeStore, ours: OutcomeStore) -> bool:
    """Tell whether a trial came to something there, but failed here or is damaged."""
    return not isinstance(ours.read(work_id), Outcome) and isinstance(theirs.read(work_id), Outcome)
