"""Measure on real cells what the faults of the paper's released code do: the table of docs/departures.md.

python benchmarks/departures.py --out results/departures

Safe to stop and start again: finished runs are kept.
"""

import argparse
import copy
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from arms import BUDGETS, Arm, as_markdown, judge, models_of, named, pretrain_all, write_results
from torch import nn

from selfcell.benchmark.statistics import ConfusionStack
from selfcell.training.run_folder import TrainedModel

MAE = {"name": "masked_autoencoder"}
C8 = {"programs": "msigdb-c8"}
BYOL = {
    "name": "byol",
    "views": [
        {"name": "add_negative_binomial_noise", "probability": 0.3, "strength": 0.2},
        {"name": "mask_genes", "probability": 0.3, "fraction": 0.1},
    ],
}
BARLOW_TWINS = {
    "name": "barlow_twins",
    "views": [
        {"name": "add_negative_binomial_noise", "probability": 1.0, "strength": 0.2},
        {"name": "mask_genes", "probability": 1.0, "fraction": 0.1},
    ],
    "second_views": [],
}
LARS = {
    "optimizer": "lars",
    "learning_rate": 0.2,
    "bias_learning_rate": 0.0048,
    "weight_decay": 1e-5,
    "gradient_clip": 0.0,
}

RANDOM = Arm("masked, random", MAE)
AUTOENCODER = Arm("autoencoder, no mask", MAE | {"mask": "none"})
PROGRAMS = Arm("masked, programmes", MAE | C8 | {"mask": "programs"})
MOVING = Arm("BYOL, the paper's views", BYOL)
KEPT_MOMENTUM = Arm("Barlow Twins, the paper's views, LARS", BARLOW_TWINS, LARS)


def _rectified(model: TrainedModel) -> TrainedModel:
    """Run the weights that SELU was trained with through ReLU, and rectify the embedding."""
    encoder = copy.deepcopy(model.encoder)
    layers = [nn.ReLU() if isinstance(layer, nn.SELU) else layer for layer in encoder.layers]
    encoder.layers = nn.Sequential(*layers, nn.ReLU())
    model = copy.copy(model)
    object.__setattr__(model, "encoder", encoder)
    return model


def _as_it_is(model: TrainedModel) -> TrainedModel:
    return model


@dataclass(frozen=True)
class Departure:
    """Two arms: as the released code has it, and as it is here."""

    what: str
    released: Arm
    here: Arm
    at_use: Callable[[TrainedModel], TrainedModel] = _as_it_is
    """What the released code does to a model before it is used."""


DEPARTURES = (
    Departure("a sigmoid after the decoder", Arm("masked, random, sigmoid", MAE, fault="sigmoid"), RANDOM),
    Departure("trained with SELU, used with ReLU", RANDOM, RANDOM, at_use=_rectified),
    Departure(
        "programmes drawn once a minibatch",
        Arm("masked, programmes, a minibatch", MAE | C8 | {"mask": "programs", "mask_per": "minibatch"}),
        PROGRAMS,
    ),
    Departure(
        "GP to GP without its mask",
        AUTOENCODER,
        Arm("masked, isolated programme", MAE | C8 | {"mask": "isolated_program"}),
    ),
    Departure(
        "GP to TF without its mask",
        AUTOENCODER,
        Arm("masked, programme to TF", MAE | {"mask": "program_to_tf", "programs": "msigdb-c3"}),
    ),
    Departure("BYOL's target stands still", Arm("BYOL, still", BYOL | {"target_momentum": 1.0}), MOVING),
    Departure("one coin a minibatch for BYOL's views", Arm("BYOL, one coin", BYOL, fault="one coin"), MOVING),
    Departure(
        "LARS made anew each step",
        Arm("Barlow Twins, no momentum", BARLOW_TWINS, LARS | {"momentum": 0.0}),
        KEPT_MOMENTUM,
    ),
)


def main() -> None:
    """Pre-train both sides of every departure, judge them, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=list(BUDGETS), default="liu_covid_pbmc")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, help="folder of benchmarks/pretext_tasks.py, to share its runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    arms = {arm.name: arm for departure in DEPARTURES for arm in (departure.here, departure.released)}
    given.out.mkdir(parents=True, exist_ok=True)
    runs = given.runs or given.out
    pretrain_all(runs, given.dataset, list(arms.values()), n_seeds=given.seeds, jobs=given.jobs)
    sides = {(d.here.name, _as_it_is) for d in DEPARTURES} | {(d.released.name, d.at_use) for d in DEPARTURES}
    scores, confusion = [], []
    for name, at_use in sorted(sides, key=lambda side: (side[0], side[1].__name__)):
        print(f"Judging {name}", file=sys.stderr)
        models = [at_use(model) for model in models_of(runs, arms[name], given.seeds)]
        judged = judge(given.dataset, models, methods=("zero_shot", "fine_tuned"), jobs=given.jobs)
        for part, kept in zip(judged, (scores, confusion), strict=True):
            kept.append(named(part, _label(name, at_use)))
    stack = ConfusionStack(write_results(given.out, scores, confusion))
    text = as_markdown(pd.DataFrame([_row(stack, departure) for departure in DEPARTURES]))
    (given.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)


def _label(name: str, at_use: Callable[[TrainedModel], TrainedModel]) -> str:
    return name if at_use is _as_it_is else f"{name}{at_use.__name__}"


def _row(stack: ConfusionStack, departure: Departure) -> dict[str, object]:
    (budget,) = stack.budgets
    row: dict[str, object] = {"released code": departure.what}
    for method, title in (("zero_shot", "zero-shot"), ("fine_tuned", "fine-tuned")):
        if method == "fine_tuned" and departure.at_use is not _as_it_is:
            continue  # fine-tuning builds the network anew from its settings, whatever was done to it
        released = f"{_label(departure.released.name, departure.at_use)}: {method}"
        here = f"{departure.here.name}: {method}"
        comparison = stack.compare(released, here, budget)
        row[f"{title}, released"] = stack.estimate(released, budget)
        row[f"{title}, here"] = stack.estimate(here, budget)
        row[f"{title}, difference"] = f"{comparison.difference} {comparison.finding}"
    return row


if __name__ == "__main__":
    main()
