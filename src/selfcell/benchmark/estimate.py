"""What a benchmark will take: trials, hours, memory, before it is run."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from selfcell.benchmark.expected_trials import ExpectedTrials, Runs, expected_trials, seconds_of_pretraining
from selfcell.benchmark.opened import Benchmark
from selfcell.benchmark.planned import PlannedEncoder, PlannedStudy
from selfcell.benchmark.time_left import seconds_taken
from selfcell.benchmark.trials import Workplace, unsaid
from selfcell.data.source import Cells
from selfcell.training.run_folder import TrainedModel

_GB_OF_PROCESS = 0.9
"""Libraries, the network and its optimizer."""
_COPIES = 4
"""Of the counts, that a process holds at most: as they are, normalized, aligned, and a part."""
_BYTES_PER_COUNT = 8

_OF_TRIAL = ("what", "budget", "pretrain_seed", "finetune_seed", "seconds")


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
    trials: list[dict[str, object]] = []
    for planned, of_study in itertools.groupby(expected_trials(benchmark), key=lambda one: one.planned):
        before = _seconds_of_done(benchmark, planned, runs[planned.encoder])
        for method, of_method in itertools.groupby(of_study, key=lambda one: one.method):
            rows.append(_of_method(list(of_method), before.get(method, []), trials))
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
    seconds = seconds_of_pretraining(benchmark, encoder)
    n_done = sum(one.is_finished for one in runs)
    what = f"pre-train {encoder.title}"
    return {"what": what, "n_runs": len(runs), "n_done": n_done, "hours": (len(runs) - n_done) * seconds / 3600}


def _of_method(
    expected: Sequence[ExpectedTrials], before: Sequence[float], trials: list[dict[str, object]]
) -> dict[str, object]:
    """Give the row of a method, and list its trials; what was timed before is a better guess for those to come."""
    n_runs = sum(len(one.seeds) for one in expected)
    n_done = min(len(before), n_runs)
    # A process that was killed has left no time behind.
    timed = [one for one in before if not np.isnan(one)]
    usual = float(np.mean(timed)) if timed else None
    guess = sum(len(one.seeds) * one.seconds for one in expected) / n_runs
    hours = (n_runs - n_done) * (guess if usual is None else usual) / 3600
    for one in expected:
        budget = one.budget.name(unit="cells" if one.planned.plan.donor_key is None else "donors")
        took = one.seconds if usual is None else usual
        trials += [dict(zip(_OF_TRIAL, [one.what, budget, *pair, took], strict=True)) for pair in one.seeds]
    return {"what": expected[0].what, "n_runs": n_runs, "n_done": n_done, "hours": hours}


def _seconds_of_done(benchmark: Benchmark, planned: PlannedStudy, runs: Runs) -> dict[str, list[float]]:
    """Give by method the seconds of each trial that is done, failed ones among them."""
    models = [model for run in runs if run.is_finished and isinstance(model := run.result(), TrainedModel)]
    if not models or not any(True for _ in benchmark.store):
        return {}
    with unsaid():
        study = benchmark.study(planned, models)
    return seconds_taken(study, {trial.key: trial for trial in study.trials}.values(), benchmark.store)
