"""What a benchmark will take: trials, hours, memory, before it is run."""

import functools
import itertools
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd

from selfcell.baselines import SEEDLESS
from selfcell.benchmark.given_models import GivenModel
from selfcell.benchmark.opened import Benchmark
from selfcell.benchmark.planned import GivenEncoder, PlannedEncoder, PlannedStudy
from selfcell.benchmark.pretrainings import Pretraining
from selfcell.benchmark.study_plan import LabelBudget, StudyPlan
from selfcell.benchmark.trials import Workplace, unsaid
from selfcell.data.source import Cells
from selfcell.data.stream import AnyCells, open_any
from selfcell.downstream import DOWNSTREAM_TASKS, REGIMES
from selfcell.training.run_folder import TrainedModel
from selfcell.training.speed import measure_training_speed

_SECONDS_OF_FIT = 3.0
"""Of a method that trains no network, for 10,000 labelled cells of 1,000 genes, within a factor of 3."""
_SECONDS_OF_VARIATIONAL = {"scvi": 250.0, "scanvi": 350.0, "totalvi": 600.0}
"""As measured on two cores; they see a fixed number of cells, however many there are."""
_GB_OF_PROCESS = 0.9
"""Libraries, the network and its optimizer."""
_COPIES = 4
"""Of the counts, that a process holds at most: as they are, normalized, aligned, and a part."""
_BYTES_PER_COUNT = 8
_SECONDS_TO_MEASURE = 0.5


_OF_TRIAL = ("what", "budget", "pretrain_seed", "finetune_seed", "seconds")

Runs: TypeAlias = list[Pretraining] | list[GivenModel]


@dataclass(frozen=True)
class Forecast:
    """What is still to be run, and what it takes."""

    table: pd.DataFrame
    """One row a pre-training, or a method of a target: ``what``, ``n_runs``, ``n_done``, ``hours`` of one process."""
    trials: pd.DataFrame
    """One row a trial, done or not: ``what``, ``budget``, ``pretrain_seed`` and ``finetune_seed`` (-1 where the answer
    does not depend on it), ``seconds``. Their ids are hashes of weights too, and so are known when these are."""
    memory_gb: float
    """Of one process, at most."""

    def hours(self, jobs: int) -> float:
        """Give the hours that so many processes take."""
        return float(self.table["hours"].sum()) / jobs


def estimate(benchmark: Benchmark, workplace: Workplace) -> Forecast:
    """Estimate what is missing of a benchmark, from how fast this machine trains and from what was measured before.

    Cells are read; nothing is written. What several encoders share is counted for the first of them; where that is not
    trained yet it is taken for missing.
    """
    runs = benchmark.runs()
    trained_here = [encoder for encoder in runs if isinstance(encoder, PlannedEncoder)]
    rows = [_of_pretrainings(benchmark, encoder, runs[encoder]) for encoder in trained_here]
    listed: set[Hashable] = set()
    trials: list[dict[str, object]] = []
    for planned in benchmark.studies():
        rows += _of_study(benchmark, planned, runs[planned.encoder], listed, trials)
    n_counts = [_n_counts_of_target(benchmark, name) for name in benchmark.targets]
    # What is streamed takes next to no memory.
    corpora = [benchmark.corpus_cells(corpus) for corpus in dict.fromkeys(one.corpus for one in trained_here)]
    n_counts += [cells.counts.nnz for cells in corpora if isinstance(cells, Cells)]
    memory = _GB_OF_PROCESS + _COPIES * _BYTES_PER_COUNT * max(n_counts) / 1e9
    # As many processes share the cores as there are, so each has its share of the speed that was measured on all.
    table = pd.DataFrame(rows)
    table["hours"] *= workplace.n_jobs(len(rows))
    return Forecast(table, pd.DataFrame(trials, columns=list(_OF_TRIAL)), memory)


def _n_counts_of_target(benchmark: Benchmark, name: str) -> int:
    """Count what is not zero in the cells of a target, and in those of its query, which are put behind them."""
    target = benchmark.plan.targets[name]
    return sum(int(benchmark.cells[one].counts.nnz) for one in (target.cells, target.query) if one is not None)


def _of_pretrainings(benchmark: Benchmark, encoder: PlannedEncoder, runs: Runs) -> dict[str, object]:
    cells, data, training = _corpus(benchmark, encoder), encoder.settings.data, encoder.settings.training
    n_train = len(cells) * (1 - data.validation_fraction - data.test_fraction) * data.train_donor_fraction
    minibatch_size = 256 if training.minibatch_size == "auto" else training.minibatch_size
    seconds = training.max_epochs * n_train / _speed(_n_genes(cells, encoder), minibatch_size)
    n_done = sum(one.is_finished for one in runs)
    what = f"pre-train {encoder.title}"
    return {"what": what, "n_runs": len(runs), "n_done": n_done, "hours": (len(runs) - n_done) * seconds / 3600}


def _of_study(
    benchmark: Benchmark,
    planned: PlannedStudy,
    runs: Runs,
    listed: set[Hashable],
    trials: list[dict[str, object]],
) -> list[dict[str, object]]:
    rows = []
    seconds_before = _seconds_of_done(benchmark, planned, runs)
    for method in planned.plan.methods:
        work, what = _work(benchmark, planned, method, runs)
        if work in listed:
            continue
        listed.add(work)
        budgets = planned.plan.budgets
        seeds = [_distinct_seeds(planned.plan, method, budget, runs) for budget in budgets]
        n_runs = list(map(len, seeds))
        before = seconds_before.get(method, [])
        seconds = [_seconds(benchmark, planned, method, budget, runs) for budget in budgets]
        guess = sum(n * each for n, each in zip(n_runs, seconds, strict=True)) / sum(n_runs)
        n_done = min(len(before), sum(n_runs))
        # A process that was killed has left no time behind.
        timed = [one for one in before if not np.isnan(one)]
        usual = float(np.mean(timed)) if timed else None
        hours = (sum(n_runs) - n_done) * (guess if usual is None else usual) / 3600
        unit = "cells" if planned.plan.donor_key is None else "donors"
        for budget, pairs, each in zip(budgets, seeds, seconds, strict=True):
            told = [what, budget.name(unit=unit)]
            took = each if usual is None else usual
            trials += [dict(zip(_OF_TRIAL, [*told, *pair, took], strict=True)) for pair in pairs]
        rows.append({"what": what, "n_runs": sum(n_runs), "n_done": n_done, "hours": hours})
    return rows


def _work(benchmark: Benchmark, planned: PlannedStudy, method: str, runs: Runs) -> tuple[Hashable, str]:
    """Tell what a method's trials are the work of, and what to call them."""
    target, encoder = benchmark.plan.targets[planned.target], planned.encoder
    if method in REGIMES and (method != "from_scratch" or DOWNSTREAM_TASKS[target.task].takes_from_pretext):
        return (planned.target, method, encoder.title), f"{planned.target}: {method} ({encoder.title})"
    if isinstance(encoder, GivenEncoder):
        genes: Hashable = _given(runs).genes.ids
        network = _given(runs).encoder.settings
    else:
        has_all = encoder.settings.data.n_top_genes is None
        genes = _corpus(benchmark, encoder).genes.ids if has_all else encoder.corpus
        network = encoder.settings.network
    return (planned.target, method, genes, network.model_dump_json()), f"{planned.target}: {method}"


def _seconds_of_done(benchmark: Benchmark, planned: PlannedStudy, runs: Runs) -> dict[str, list[float]]:
    """Give by method the seconds of each trial that is done, failed ones among them."""
    models = [model for run in runs if run.is_finished and isinstance(model := run.result(), TrainedModel)]
    if not models or not any(True for _ in benchmark.store):
        return {}
    with unsaid():
        study = benchmark.study(planned, models)
    found: dict[str, list[float]] = {}
    for trial in {trial.key: trial for trial in study.trials}.values():
        outcome = benchmark.store.read(study.work_id(trial))
        if outcome is not None:
            found.setdefault(trial.method, []).append(outcome.seconds)
    return found


def _distinct_seeds(plan: StudyPlan, method: str, budget: LabelBudget, runs: Runs) -> list[tuple[int, int]]:
    """Give the seeds that a method is run with: one, -1, for all models or seeds that it does not depend on."""
    draws_labels = budget.n_donors is not None or budget.fraction is not None
    has_seed = draws_labels or method not in SEEDLESS | DOWNSTREAM_TASKS[plan.task].seedless
    needs_model = method in REGIMES and method != "from_scratch"
    of_models = [_seed_of(run) for run in runs] if needs_model else [-1]
    return list(itertools.product(of_models, plan.seeds if has_seed else [-1]))


def _seed_of(run: Pretraining | GivenModel) -> int:
    if isinstance(run, Pretraining):
        return run.seed
    model = run.result()
    return int(model.manifest["seed"])


def _seconds(benchmark: Benchmark, planned: PlannedStudy, method: str, budget: LabelBudget, runs: Runs) -> float:
    if method in _SECONDS_OF_VARIATIONAL:
        return _SECONDS_OF_VARIATIONAL[method]
    target = benchmark.plan.targets[planned.target]
    cells = benchmark.cells[target.cells]
    n_labelled = _n_labelled(cells, planned, budget, target.n_cells)
    encoder = planned.encoder
    n_genes = len(_given(runs).genes) if isinstance(encoder, GivenEncoder) else _n_genes(cells, encoder)
    trains = method in {"fine_tuned", "from_scratch"} or (
        method == "probe" and target.task in {"reconstruction", "integration"}
    )
    if not trains:
        share = 0.1 if method in REGIMES else 1.0
        return 0.2 + share * _SECONDS_OF_FIT * n_labelled / 10_000 * max(n_genes / 1_000, 1)
    training = planned.plan.task_settings.training
    epochs = budget.max_epochs or training.max_epochs
    seconds: float = epochs * n_labelled / _speed(n_genes, training.minibatch_size)
    return seconds


def _n_labelled(cells: Cells, planned: PlannedStudy, budget: LabelBudget, n_cells: int | None) -> float:
    n_trainable = (1 - (planned.plan.test_fraction or 0.3)) * min(n_cells or len(cells), len(cells))
    if budget.fraction is not None:
        return budget.fraction * n_trainable
    if budget.n_donors is not None and planned.plan.donor_key is not None:
        return n_trainable * min(budget.n_donors / int(cells.obs[planned.plan.donor_key].nunique()), 1.0)
    return n_trainable


def _given(runs: Runs) -> TrainedModel:
    """Give the first of the models that are trained already."""
    model = runs[0].result()
    assert isinstance(model, TrainedModel)
    return model


def _corpus(benchmark: Benchmark, encoder: PlannedEncoder) -> AnyCells:
    cells = benchmark.corpus_cells(encoder.corpus)
    return cells if isinstance(cells, Cells) else open_any(cells)


def _n_genes(cells: AnyCells, encoder: PlannedEncoder) -> int:
    return min(encoder.settings.data.n_top_genes or len(cells.genes), len(cells.genes))


@functools.cache
def _speed(n_genes: int, minibatch_size: int) -> float:
    return measure_training_speed(n_genes=n_genes, minibatch_size=minibatch_size, seconds=_SECONDS_TO_MEASURE)
