"""Choose how much rare types weigh when a classifier is trained, and whether labels are smoothed.

Judged on the validation donors of ``liu_covid_pbmc``, never on its test donors, and on two other data sets.

    python benchmarks/class_weights.py --out real        # pre-trainings are those of benchmarks/real_data.py
"""

import argparse
import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from real.corpora import CORPORA, cells_of

from selfcell.benchmark.query import joined_for_judging
from selfcell.benchmark.study import Study
from selfcell.benchmark.study_plan import LabelBudget, StudyPlan
from selfcell.benchmark.study_split import ChosenSplit
from selfcell.benchmark.trials import Workplace
from selfcell.core.config import build
from selfcell.data.source import Cells
from selfcell.data.splits import Split, split_from_json
from selfcell.downstream.cell_type import CellTypeSettings
from selfcell.training.run_folder import TrainedModel

DOCS = Path(__file__).parent.parent / "docs" / "results"
N_SEEDS = 2
VARIANTS = {
    f"{weights}{', smoothed' if smoothing else ''}": {"class_weights": weights, "label_smoothing": smoothing}
    for weights, smoothing in itertools.product(("balanced", "root", "none"), (0.0, 0.1))
}
JUDGED = ("validation donors", "kang_ifnb", "pbmc3k")
METRICS = ("macro_f1", "micro_f1", "balanced_accuracy")


def main() -> None:
    """Train every variant, and write the means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pre-trainings")
    parser.add_argument("--jobs", type=int)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    models = CORPORA["liu"].models(given.out / "runs", n_seeds=N_SEEDS, network={})
    parts = []
    for judged, (name, settings) in itertools.product(JUDGED, VARIANTS.items()):
        scores = study(judged, models, settings).run(Workplace(jobs=given.jobs)).scores
        scores = scores[scores["metric"].isin(METRICS)]
        means = scores.groupby(["budget", "method", "metric"], sort=False)["value"].mean().unstack()
        parts.append(means.reset_index().assign(judged_on=judged, variant=name))
    columns = ["judged_on", "variant", "budget", "method", *METRICS]
    pd.concat(parts)[columns].to_csv(DOCS / "class_weights.csv", index=False, float_format="%.3f")


def study(judged: str, models: list[TrainedModel], settings: dict[str, Any]) -> Study:
    """Make the comparison of one variant."""
    liu = cells_of("liu_covid_pbmc")
    is_own = judged == JUDGED[0]
    task = {**settings} if is_own else {**settings, "training": {"max_epochs": 8}}
    plan = StudyPlan(
        label_key="mergedcelltype" if is_own else "blood_type",
        donor_key="Donor" if is_own else None,
        seeds=tuple(range(N_SEEDS)),
        budgets=(LabelBudget(2, 40), LabelBudget(None, 8)) if is_own else (LabelBudget(),),
        regimes=("fine_tuned", "from_scratch"),
        baselines=(),
        settings=build(CellTypeSettings, task),
        n_mapped=0,
    )
    cells, split = _own(liu, models[0]) if is_own else _other(liu, cells_of(judged), plan, models)
    return Study(plan, cells, models, split=split)


def _own(cells: Cells, model: TrainedModel) -> tuple[Cells, ChosenSplit]:
    split = split_from_json(model.split or {}, len(cells), cells.obs["Donor"].astype(str))
    nobody = np.array([], dtype=np.int64)
    return cells, ChosenSplit(Split(split.train, nobody, split.validation, unit="Donor"), has_seen=False)


def _other(cells: Cells, query: Cells, plan: StudyPlan, models: list[TrainedModel]) -> tuple[Cells, ChosenSplit]:
    return joined_for_judging(cells, query, plan, models, allow_low_overlap=True)


if __name__ == "__main__":
    main()
