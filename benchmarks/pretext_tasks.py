"""Pre-train every pretext task under one budget and judge it on donors never seen: the tables of docs/pretext-tasks.md.

python benchmarks/pretext_tasks.py --dataset liu_covid_pbmc --out results/pretext_liu
python benchmarks/pretext_tasks.py --dataset pancreas_4_studies --out results/pretext_pancreas

Safe to stop and start again: finished runs are kept.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import pandas as pd
from arms import (
    BASELINES,
    BUDGETS,
    Arm,
    as_markdown,
    costs,
    judge,
    models_of,
    named,
    pretrain_all,
    write_results,
)

from selfcell.benchmark.statistics import ConfusionStack

MAE = {"name": "masked_autoencoder"}
C8 = {"programs": "msigdb-c8"}
ARMS = (
    Arm("masked, random", MAE),
    Arm("masked, random, negative binomial", MAE | {"likelihood": "negative_binomial"}),
    Arm("masked, programmes", MAE | C8 | {"mask": "programs"}),
    Arm("masked, programmes by genes", MAE | C8 | {"mask": "programs", "share_of": "genes", "mask_fraction": 0.5}),
    Arm("masked, isolated programme", MAE | C8 | {"mask": "isolated_program"}),
    Arm("masked, isolated programme, half hidden", MAE | C8 | {"mask": "isolated_program", "mask_fraction": 0.5}),
    Arm("masked, programme to TF", MAE | {"mask": "program_to_tf", "programs": "msigdb-c3"}),
    Arm("autoencoder, no mask", MAE | {"mask": "none"}),
    Arm("BYOL", {"name": "byol"}),
    Arm("Barlow Twins", {"name": "barlow_twins"}),
    Arm("SimSiam", {"name": "simsiam"}),
    Arm("SimCLR", {"name": "simclr"}),
    Arm("VICReg", {"name": "vicreg"}),
    Arm("MoCo", {"name": "moco"}),
    Arm("NNCLR", {"name": "nnclr"}),
    Arm("DINO", {"name": "dino"}),
    Arm("latent prediction", {"name": "latent_prediction"}),
)


def table(confusion: pd.DataFrame, cost: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Put the table together."""
    stack = ConfusionStack(confusion)
    (budget,) = stack.budgets
    rows = []
    for arm, taken in cost.items():
        gain = stack.compare(f"{arm}: fine_tuned", "from_scratch", budget)
        frozen = stack.compare(f"{arm}: zero_shot", "pca_knn", budget)
        masked = stack.compare(f"{arm}: zero_shot", f"{ARMS[0].name}: zero_shot", budget)
        rows.append(
            {
                "pretext task": arm,
                "zero-shot": stack.estimate(f"{arm}: zero_shot", budget),
                "minus PCA": frozen.difference,
                "minus masked, random": masked.difference,
                "fine-tuned": stack.estimate(f"{arm}: fine_tuned", budget),
                "minus from scratch": gain.difference,
                "verdict": gain.finding,
                "seconds": round(taken["seconds"]),
                "MB": round(taken["peak_memory_mb"]),
                "spread": round(taken["spread"], 2),
            }
        )
    for baseline in BASELINES:
        role = "fine-tuned" if baseline == "from_scratch" else "zero-shot"
        rows.append({"pretext task": baseline, role: stack.estimate(baseline, budget)})
    return pd.DataFrame(rows)


def main() -> None:
    """Pre-train, judge, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=list(BUDGETS), default="liu_covid_pbmc")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arm", action="append", choices=[arm.name for arm in ARMS], help="this one; the first always")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    arms = [arm for arm in ARMS if not given.arm or arm is ARMS[0] or arm.name in given.arm]
    started = time.perf_counter()
    pretrain_all(given.out, given.dataset, arms, n_seeds=given.seeds, jobs=given.jobs)
    scores, confusion = [], []
    for arm in arms:
        print(f"Judging {arm.name}", file=sys.stderr)
        methods = ("zero_shot", "fine_tuned", *(BASELINES if arm is ARMS[0] else ()))
        models = models_of(given.out, arm, given.seeds)
        for part, kept in zip(
            judge(given.dataset, models, methods=methods, jobs=given.jobs), (scores, confusion), strict=True
        ):
            kept.append(named(part, arm.name))
    counted = write_results(given.out, scores, confusion)
    text = as_markdown(table(counted, {arm.name: costs(given.out, arm, given.seeds) for arm in arms}))
    (given.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    print(f"{time.perf_counter() - started:.0f} s in this session.", file=sys.stderr)


if __name__ == "__main__":
    main()
