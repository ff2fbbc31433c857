"""Pre-train every pretext task under one budget and judge it on donors never seen: the tables of docs/pretext-tasks.md.

python benchmarks/pretext_tasks.py --dataset liu_covid_pbmc --out results/pretext_liu
python benchmarks/pretext_tasks.py --dataset pancreas_4_studies --out results/pretext_pancreas

Safe to stop and start again: finished runs are kept. --tables-only makes table and figure again from what was judged.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
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
from matplotlib.ticker import MaxNLocator

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
                "seconds": f"{taken['seconds']:.0f}",
                "MB": f"{taken['peak_memory_mb']:.0f}",
                "spread": f"{taken['spread']:.2f}",
            }
        )
    for baseline in BASELINES:
        role = "fine-tuned" if baseline == "from_scratch" else "zero-shot"
        rows.append({"pretext task": baseline, role: stack.estimate(baseline, budget)})
    return pd.DataFrame(rows)


def draw(confusion: pd.DataFrame, arms: list[str], path: Path) -> None:
    """Draw differences with their intervals, one row an arm; ticks are seeds."""
    stack = ConfusionStack(confusion)
    (budget,) = stack.budgets
    sides = (
        ("zero_shot", "pca_knn", "zero-shot minus PCA"),
        ("fine_tuned", "from_scratch", "fine-tuned minus scratch"),
    )
    figure, panels = plt.subplots(1, 2, figsize=(9, 0.28 * len(arms) + 1.2), sharey=True, layout="constrained")
    for panel, (method, against, title) in zip(panels, sides, strict=True):
        panel.axvline(0, color="0.6", linewidth=1)
        for row, arm in enumerate(arms):
            difference = stack.compare(f"{arm}: {method}", against, budget).difference
            panel.plot([difference.low, difference.high], [row, row], color="C0", linewidth=1.2)
            panel.plot(difference.by_seed, [row] * len(difference.by_seed), "|", color="C0", markersize=6)
            panel.plot(difference.mean, row, "o", color="C0", markersize=4)
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.set(title=title, xlabel="macro F1", yticks=range(len(arms)), yticklabels=arms)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=110)


def judge_all(given: argparse.Namespace, arms: list[Arm]) -> pd.DataFrame:
    """Pre-train and judge, and write what comes out; gives the confusion table."""
    pretrain_all(given.out, given.dataset, arms, n_seeds=given.seeds, jobs=given.jobs)
    scores, confusion = [], []
    for arm in arms:
        print(f"Judging {arm.name}", file=sys.stderr)
        methods = ("zero_shot", "fine_tuned", *(BASELINES if arm is ARMS[0] else ()))
        models = models_of(given.out, arm, given.seeds)
        judged = judge(given.dataset, models, methods=methods, jobs=given.jobs)
        for part, kept in zip(judged, (scores, confusion), strict=True):
            kept.append(named(part, arm.name))
    return write_results(given.out, scores, confusion)


def main() -> None:
    """Pre-train, judge, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=list(BUDGETS), default="liu_covid_pbmc")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arm", action="append", choices=[arm.name for arm in ARMS], help="this one; the first always")
    parser.add_argument("--tables-only", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    arms = [arm for arm in ARMS if not given.arm or arm is ARMS[0] or arm.name in given.arm]
    given.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    counted = pd.read_csv(given.out / "confusion.csv.gz") if given.tables_only else judge_all(given, arms)
    text = as_markdown(table(counted, {arm.name: costs(given.out, arm, given.seeds) for arm in arms}))
    (given.out / "table.md").write_text(text + "\n", encoding="utf-8")
    draw(counted, [arm.name for arm in arms], given.out / "figure.png")
    print(text)
    print(f"{time.perf_counter() - started:.0f} s in this session.", file=sys.stderr)


if __name__ == "__main__":
    main()
