"""What it is worth that methods learn from the genes alone that reference and query both measure.

selfcell benchmark plans/real.toml --out real --only types_liu_to_teaseq     # for the pre-trained encoders
python benchmarks/common_genes.py real types_liu_to_teaseq types_liu_to_kang

Each target that has a query is asked twice of the same encoders and seeds: with the genes that the query lacks taken
for zero, and without them.
"""

import dataclasses
import sys
from pathlib import Path

from selfcell.benchmark.opened import Benchmark
from selfcell.benchmark.query import joined_for_judging
from selfcell.benchmark.study import Study
from selfcell.benchmark.trials import Workplace
from selfcell.downstream import DOWNSTREAM_TASKS
from selfcell.training.run_folder import load

PLAN = Path(__file__).parents[1] / "plans" / "real.toml"
BASELINES = {"cell_type": ("pca_knn", "root_logistic_regression"), "cross_modality": ("gene_ridge",)}


def compare(out: Path, target: str) -> None:
    """Print the mean and standard deviation over seeds of each method, both ways."""
    benchmark = Benchmark.open(PLAN, out, only=[target])
    (planned,) = benchmark.studies()
    runs = sorted(out.glob(f"runs/{planned.encoder.corpus}-{planned.encoder.encoder}-*/manifest.json"))
    models = [load(run.parent) for run in runs]
    plan = dataclasses.replace(planned.plan, baselines=BASELINES[planned.plan.task], maps=False, examined=False)
    cells, query = benchmark.cells_of(planned)
    joined, split, seen = joined_for_judging(cells, query, plan, models, allow_low_overlap=True)
    for told, shown in (("taken for zero", dataclasses.replace(joined, measured=None)), ("left out", joined)):
        scores = Study(plan, shown, models, split=split, seen=seen).run(Workplace(jobs=2)).scores
        first = scores[scores["metric"] == DOWNSTREAM_TASKS[plan.task].headline]
        print(f"{target}, genes that one of the two lacks {told}:")
        print(first.groupby("method", sort=False)["value"].agg(["mean", "std", "size"]).round(4).to_string())


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    for name in sys.argv[2:]:
        compare(Path(sys.argv[1]), name)
