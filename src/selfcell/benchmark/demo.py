"""The demo: the whole story on real cells, in minutes."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selfcell.benchmark.results import StudyResults
from selfcell.benchmark.study import Study
from selfcell.benchmark.study_plan import LabelBudget, StudyPlan
from selfcell.core.atomic import atomic_folder
from selfcell.core.config import build
from selfcell.core.seeds import numpy_rng
from selfcell.data.dataset_table import DATASETS
from selfcell.data.datasets import load
from selfcell.data.source import Cells, obs_column, open_cells
from selfcell.training.out_folder import MARKER, check_folder, claim_folder
from selfcell.training.pretrain import pretrain
from selfcell.training.settings import PretrainSettings

DATASET = "liu_covid_pbmc"


@dataclass(frozen=True)
class DemoScale:
    """How much of everything."""

    cells_per_donor: int | None
    pretrain_epochs: int
    pretrain_minibatch_size: int
    budgets: tuple[LabelBudget, ...]
    maps: bool


FULL = DemoScale(None, 10, 256, (LabelBudget(2, 40), LabelBudget(5, 25), LabelBudget(None, 6)), maps=True)
QUICK = DemoScale(60, 8, 64, (LabelBudget(2, 10), LabelBudget(None, 5)), maps=False)

N_SEEDS = 3


def run_demo(out: Path, *, quick: bool = False, overwrite: bool = False) -> StudyResults:
    """Pre-train on unlabelled training donors of ``liu_covid_pbmc``, judge on donors never seen, write the results.

    Each of three seeds has its own pre-training, its own fine-tuning, and its own draw of labelled donors; the donors
    that are judged on are the same.

    Parameters
    ----------
    out
        Folder for the results and, under ``runs/``, the pre-trained encoders.
    quick
        At most 60 cells a donor, fewer epochs, no map: to see that everything works, not for its numbers.
    overwrite
        Replace what is in the folder, once all of the new is there.

    Raises
    ------
    InputError
        If the data cannot be fetched, or the folder holds something already.
    """
    started = time.perf_counter()
    scale = QUICK if quick else FULL
    check_folder(out, overwrite=overwrite)
    info = DATASETS[DATASET]
    cells = dataclasses.replace(open_cells(load(DATASET)), origin=DATASET)
    cells = _thinned(cells, str(info.donor_key), scale.cells_per_donor)
    claim_folder(out, overwrite=overwrite)
    # What was there before stays until all of the new is.
    with atomic_folder(out) as temporary:
        results = _whole_story(cells, scale, temporary, started=started)
        results.about.update(note=info.note, quick=quick)
        results.write(temporary)
        (temporary / MARKER).touch()
    return results


def _whole_story(cells: Cells, scale: DemoScale, out: Path, *, started: float) -> StudyResults:
    info, models = DATASETS[DATASET], []
    for seed in range(N_SEEDS):
        settings = build(
            PretrainSettings,
            {
                "data": {"donor_key": info.donor_key, "test_fraction": 0.3},
                "training": {
                    "seed": seed,
                    "max_epochs": scale.pretrain_epochs,
                    "minibatch_size": scale.pretrain_minibatch_size,
                },
            },
        )
        models.append(pretrain(cells, settings, out=out / "runs" / f"seed{seed}"))
    pretraining_seconds = time.perf_counter() - started
    plan = StudyPlan(
        label_key=str(info.label_key),
        donor_key=info.donor_key,
        batch_key=info.batch_key,
        seeds=tuple(range(N_SEEDS)),
        budgets=scale.budgets,
        maps=scale.maps,
    )
    results = Study(plan, cells, models).run()
    results.about["seconds"] |= {
        "pre-training": round(pretraining_seconds, 1),
        "all": round(time.perf_counter() - started, 1),
    }
    return results


def _thinned(cells: Cells, donor_key: str, cells_per_donor: int | None) -> Cells:
    if cells_per_donor is None:
        return cells
    donors = obs_column(cells.obs, donor_key, role="donor").to_numpy()
    rng = numpy_rng(0, "thinning")
    shuffled = rng.permutation(len(cells))
    kept = [shuffled[donors[shuffled] == donor][:cells_per_donor] for donor in sorted(set(donors))]
    return cells.subset(np.sort(np.concatenate(kept)))
