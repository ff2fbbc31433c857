"""Choose how much rare types weigh when a classifier is trained, and whether labels are smoothed.

Judged on the validation donors of ``liu_covid_pbmc``, never on its test donors, and on two other data sets.

    python benchmarks/class_weights.py --out real    # a folder of plans/real.toml; it pre-trains if need be
"""

import argparse
import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from selfcell.benchmark.opened import Benchmark
from selfcell.benchmark.pretrainings import run_pretrainings
from selfcell.benchmark.query import joined_for_judging, with_label_renamed
from selfcell.benchmark.study import Study
from selfcell.benchmark.study_plan import LabelBudget, StudyPlan
from selfcell.benchmark.trials import Workplace
from selfcell.core.config import build
from selfcell.data.source import Cells
from selfcell.data.splits import Split, split_from_json
from selfcell.downstream.cell_type import CellTypeSettings
from selfcell.training.run_folder import TrainedModel, load

DOCS = Path(__file__).parent.parent / "docs" / "results"
N_SEEDS = 2
VARIANTS = {
    f"{weights}{', smoothed' if smoothing else ''}": {"class_weights": weights, "label_smoothing": smoothing}
    for weights, smoothing in itertools.product(("balanced", "root", "none"), (0.0, 0.1))
}
JUDGED = ("validation donors", "kang_common", "pbmc3k")
PLAN = Path(__file__).parent.parent / "plans" / "real.toml"
METRICS = ("macro_f1", "micro_f1", "balanced_accuracy")


def main() -> None:
    """Train every variant, and write the means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pre-trainings")
    parser.add_argument("--jobs", type=int)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    benchmark = Benchmark.open(PLAN, given.out, only=["types_liu"])
    runs = benchmark.pretrainings()[:N_SEEDS]
    run_pretrainings(runs, benchmark.corpus_cells, Workplace(jobs=given.jobs))
    models = [load(run.path) for run in runs]
    parts = []
    for judged, (name, settings) in itertools.product(JUDGED, VARIANTS.items()):
        scores = study(benchmark, judged, models, settings).run(Workplace(jobs=given.jobs)).scores
        scores = scores[scores["metric"].isin(METRICS)]
        means = scores.groupby(["budget", "method", "metric"], sort=False)["value"].mean().unstack()
        parts.append(means.reset_index().assign(judged_on=judged, variant=name))
    columns = ["judged_on", "variant", "budget", "method", *METRICS]
    pd.concat(parts)[columns].to_csv(DOCS / "class_weights.csv", index=False, float_format="%.3f")


def study(benchmark: Benchmark, judged: str, models: list[TrainedModel], settings: dict[str, Any]) -> Study:
    """Make the comparison of one variant."""
    is_own = judged == JUDGED[0]
    task = {**settings} if is_own else {**settings, "training": {"max_epochs": 8}}
    plan = StudyPlan(
        label_key="mergedcelltype",
        donor_key="Donor" if is_own else None,
        seeds=tuple(range(N_SEEDS)),
        budgets=(LabelBudget(2, 40), LabelBudget(None, 8)) if is_own else (LabelBudget(),),
        regimes=("fine_tuned", "from_scratch"),
        baselines=(),
        settings=build(CellTypeSettings, task),
        maps=False,
        examined=False,
    )
    known = benchmark.cells
    if is_own:
        return Study(plan, known["liu"], models, split=_validation_donors(known["liu"], models[0]))
    query = with_label_renamed(known[judged], plan.label_key, benchmark.plan.cells[judged].label)
    joined = joined_for_judging(known["liu_common"], query, plan, models, allow_low_overlap=True)
    return Study(plan, joined.cells, models, split=joined.split, seen=joined.seen)


def _validation_donors(cells: Cells, model: TrainedModel) -> Split:
    split = split_from_json(model.split or {}, len(cells), cells.obs["Donor"].astype(str))
    return Split(split.train, np.array([], dtype=np.int64), split.validation, unit="Donor")


if __name__ == "__main__":
    main()
