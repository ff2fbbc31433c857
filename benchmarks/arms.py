"""What the comparisons of pretext tasks share: arms, their budget, pre-training each in its own process, judging."""

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from selfcell.benchmark.study import Study
from selfcell.benchmark.study_plan import LabelBudget, StudyPlan
from selfcell.benchmark.trials import Workplace
from selfcell.core.atomic import atomic_path, write_json
from selfcell.core.config import build
from selfcell.data.dataset_table import DATASETS
from selfcell.data.datasets import load as load_dataset
from selfcell.data.source import Cells, open_cells
from selfcell.downstream.cell_type import CellTypeSettings
from selfcell.network.encoder import mirrored_decoder
from selfcell.pretext.draws import draw_strength
from selfcell.training.pretrain import pretrain
from selfcell.training.run_folder import TrainedModel, load
from selfcell.training.settings import PretrainSettings

BASELINES = ("from_scratch", "pca_knn", "logistic_regression", "untrained_encoder")

WEIGHTS = {"class_weights": "balanced", "label_smoothing": 0.0}
"""Of the classifier: as the tables of the pages were made, and as in the paper."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way of pre-training: settings that differ from the common ones."""

    name: str
    pretext: dict[str, Any]
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    fault: str | None = None
    """A fault of the paper's released code to pre-train with: a key of ``FAULTS``."""

    @property
    def folder(self) -> str:
        """The arm's name, as files are called."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.name)


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every arm gets on a data set."""

    pretrain_epochs: int
    minibatch_size: int
    hidden_sizes: tuple[int, ...]
    labelled: LabelBudget


BUDGETS = {
    "liu_covid_pbmc": Budget(10, 256, (512, 512, 256, 256), LabelBudget(5, 25)),
    "pancreas_4_studies": Budget(8, 64, (128, 128), LabelBudget(5, 25)),
}


def _sigmoid_decoder(*given: Any, **named: Any) -> nn.Sequential:
    return nn.Sequential(*mirrored_decoder(*given, **named), nn.Sigmoid())


def _one_coin(n_cells: int, *given: Any, **named: Any) -> torch.Tensor:
    return draw_strength(1, *given, **named).expand(n_cells, 1)


FAULTS: dict[str, Callable[[], Any]] = {
    "sigmoid": lambda: mock.patch("selfcell.pretext.masked_autoencoder.mirrored_decoder", _sigmoid_decoder),
    "one coin": lambda: mock.patch("selfcell.pretext.views.draw_strength", _one_coin),
}
"""Faults that no setting brings back, each put in place for the length of one run."""


@functools.cache
def cells_of(dataset: str) -> Cells:
    """Load the cells of a data set."""
    return dataclasses.replace(open_cells(load_dataset(dataset)), origin=dataset)


def settings_of(dataset: str, arm: Arm, seed: int) -> PretrainSettings:
    """Give the settings of a run: the same for every arm but for what the arm names."""
    budget = BUDGETS[dataset]
    training = {
        "seed": seed,
        "max_epochs": budget.pretrain_epochs,
        "minibatch_size": budget.minibatch_size,
        "patience": 0,
        "device": "cpu",
    }
    return build(
        PretrainSettings,
        {
            "data": {"donor_key": DATASETS[dataset].donor_key, "test_fraction": 0.3},
            "network": {"hidden_sizes": list(budget.hidden_sizes)},
            "pretext": arm.pretext,
            "training": training | arm.training,
        },
    )


def run_folder(out: Path, arm: Arm, seed: int) -> Path:
    """Give the folder of a run."""
    return out / "runs" / f"{arm.folder}-seed{seed}"


def _pretrain_one(job: tuple[Path, str, Arm, int]) -> None:
    """Pre-train one arm with one seed on one thread, and note what it took."""
    out, dataset, arm, seed = job
    folder = run_folder(out, arm, seed)
    torch.set_num_threads(1)
    cells = cells_of(dataset)
    started = time.perf_counter()
    with FAULTS[arm.fault]() if arm.fault else contextlib.nullcontext():
        pretrain(cells, settings_of(dataset, arm, seed), out=folder, overwrite=True, show_progress=False)
    cost = {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    write_json(folder / "cost.json", cost)


def pretrain_all(out: Path, dataset: str, arms: Sequence[Arm], *, n_seeds: int, jobs: int) -> None:
    """Pre-train what is not there yet, each run in a process of its own, so that its memory is its own."""
    wanted = [(out, dataset, arm, seed) for seed in range(n_seeds) for arm in arms]
    left = [job for job in wanted if not (run_folder(out, job[2], job[3]) / "cost.json").exists()]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["selfcell.training.pretrain", "selfcell.data.datasets"])
    with context.Pool(jobs, maxtasksperchild=1) as pool:
        for _ in tqdm(pool.imap_unordered(_pretrain_one, left), total=len(left), desc="Pre-training", unit=" runs"):
            pass


def models_of(out: Path, arm: Arm, n_seeds: int) -> list[TrainedModel]:
    """Load the pre-trained runs of an arm."""
    return [load(run_folder(out, arm, seed)) for seed in range(n_seeds)]


def judge(
    dataset: str, models: Sequence[TrainedModel], *, methods: Sequence[str], jobs: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Judge models that differ in their seed on the test donors; gives scores and the confusion table."""
    info = DATASETS[dataset]
    plan = StudyPlan(
        label_key=str(info.label_key),
        donor_key=info.donor_key,
        seeds=tuple(range(len(models))),
        budgets=(BUDGETS[dataset].labelled,),
        regimes=tuple(method for method in methods if method not in BASELINES[1:]),
        baselines=tuple(method for method in methods if method in BASELINES[1:]),
        maps=False,
        examined=False,
        settings=build(CellTypeSettings, WEIGHTS),
    )
    results = Study(plan, cells_of(dataset), models).run(Workplace(jobs=jobs, show_progress=False))
    return results.scores, results.confusion


def named(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Put the arm before the names of regimes; baselines are nobody's."""
    own = ~table["method"].isin(BASELINES)
    return table.assign(method=table["method"].where(~own, arm + ": " + table["method"]))


def costs(out: Path, arm: Arm, n_seeds: int) -> dict[str, float]:
    """Average what the runs of an arm took, and the spread of the embedding after the last epoch."""
    folders = [run_folder(out, arm, seed) for seed in range(n_seeds)]
    rows = pd.DataFrame([json.loads((folder / "cost.json").read_text()) for folder in folders])
    spread = [pd.read_csv(folder / "log.csv")["validation_embedding_spread"].iloc[-1] for folder in folders]
    return {**rows.mean().to_dict(), "spread": sum(spread) / len(spread)}


def write_results(out: Path, scores: Sequence[pd.DataFrame], confusion: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Write all scores and confusion counts, and give the latter."""
    counted = pd.concat(confusion, ignore_index=True)
    with atomic_path(out / "scores.csv") as temporary:
        pd.concat(scores, ignore_index=True).to_csv(temporary, index=False)
    with atomic_path(out / "confusion.csv.gz") as temporary:
        counted.to_csv(temporary, index=False, compression="gzip")
    runs = pd.concat(scores, ignore_index=True)
    kept = ["dataset", "method", "budget", "metric", "value", "pretrain_seed", "finetune_seed", "seconds", "trial_id"]
    with atomic_path(out / "runs.csv") as temporary:
        runs.loc[runs["metric"] == "macro_f1", kept].to_csv(temporary, index=False)
    return counted


def as_markdown(table: pd.DataFrame) -> str:
    """Write a table as Markdown."""
    rows: Iterator[list[str]] = iter(table.fillna("").astype(str).to_numpy().tolist())
    lines = [list(table.columns), ["---"] * len(table.columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
