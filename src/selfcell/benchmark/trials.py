"""Trials: one way of predicting, at one label budget, with one seed; run side by side in processes."""

import contextlib
import itertools
import logging
import os
import sys
import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
from joblib.externals.loky import process_executor
from tqdm import tqdm

from selfcell.baselines import MAKE_ONCE, SEEDLESS
from selfcell.baselines.base import ComparedCells, Problem
from selfcell.baselines.find import find_baseline
from selfcell.core.memory import give_back_unused
from selfcell.data.splits import Split
from selfcell.downstream import REGIMES
from selfcell.downstream.base import DownstreamTask, EncodedCells, SupervisedSettings, TaskScores
from selfcell.downstream.resampling import TestUnits

if sys.platform != "win32":
    import resource


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One prediction to make."""

    method: str
    """A regime or a baseline."""
    budget: str
    """How much of the training data bears labels, as tables call it."""
    model: int
    """Which of the pre-trained models; what does not depend on it is run once for all of them."""
    seed: int
    """Of fine-tuning, and of the draw of labelled cells."""
    labelled: np.ndarray
    """Positions of the labelled cells."""
    settings: SupervisedSettings

    @property
    def key(self) -> Hashable:
        """What the answer depends on: trials with the same key are run once."""
        seed = None if self.method in SEEDLESS else self.seed
        model = self.model if self.method in {"zero_shot", "probe", "fine_tuned"} else None
        return self.method, model, seed, self.labelled.tobytes(), self.settings.model_dump_json()

    @property
    def group(self) -> Hashable:
        """Trials of one group are run one after the other by one process, which keeps what they share."""
        return ("made once", self.seed) if self.method in MAKE_ONCE else self.key


class Outcome(NamedTuple):
    """What a trial gives."""

    scores: TaskScores
    tables: dict[str, pd.DataFrame]
    """What else the task keeps of its answers."""
    seconds: float
    """As if the trial shared nothing with others."""
    peak_memory_mb: float | None
    """Of the process that ran the trial, so far."""


@dataclass(frozen=True)
class Contest:
    """What all trials share; it is sent to other processes, so it holds no more than they need."""

    task: DownstreamTask
    compared: ComparedCells
    encoded: tuple[EncodedCells, ...]
    """The cells as each model embeds them."""
    test: np.ndarray
    """Positions of the cells to predict for."""
    units: TestUnits

    def run(self, trial: Trial) -> Outcome:
        """Run one trial."""
        started, saved = time.perf_counter(), self.compared.seconds_saved
        task = self.task.with_settings(trial.settings)
        split = Split(trial.labelled, np.array([], dtype=np.int64), self.test, unit="trial")
        if trial.method in REGIMES:
            predicted = task.predict(self.encoded[trial.model], split, regime=trial.method, seed=trial.seed)
        else:
            baseline = find_baseline(task.name, trial.method)
            predicted = baseline(Problem(task, self.compared, split, trial.seed))
        seconds = round(time.perf_counter() - started + self.compared.seconds_saved - saved, 3)
        scores, tables = task.score(predicted, split, self.units), task.tables(predicted, split, self.units)
        return Outcome(scores, tables, seconds, _peak_memory_mb())


def run_trials(
    contest: Contest, trials: Sequence[Trial], *, jobs: int | None = None, show_progress: bool = True
) -> list[Outcome]:
    """Run trials, each distinct one once, and give their outcomes in order.

    Small networks do not keep several cores busy: as many processes as there are cores, each on its own share of them,
    get through trials nearly that many times as fast as one.

    Parameters
    ----------
    contest
        What the trials share.
    trials
        What to run.
    jobs
        Processes; the number of cores, but four at most, if left out. Each holds a copy of what it works on.
    show_progress
        Show a progress bar.
    """
    distinct = {trial.key: trial for trial in trials}
    groups: dict[Hashable, list[Trial]] = {}
    # Long ones first, so that none is begun when all others are done.
    for trial in sorted(distinct.values(), key=lambda trial: trial.group == trial.key):
        groups.setdefault(trial.group, []).append(trial)
    jobs = min(jobs or min(n_cores(), 4), len(groups))
    outcomes: dict[Hashable, Outcome] = {}
    with tqdm(total=len(distinct), desc="Comparing", unit=" trials", disable=None if show_progress else True) as bar:
        for trial, outcome in _run_all(contest, list(groups.values()), jobs):
            outcomes[trial.key] = outcome
            bar.update()
            bar.set_postfix_str(f"{trial.method}, {trial.budget}, seed {trial.seed}")
            if bar.disable and show_progress and len(outcomes) % 10 == 0:
                logger.info("Comparing: %d of %d trials.", len(outcomes), len(distinct))
    return [outcomes[trial.key] for trial in trials]


def n_cores() -> int:
    """Give the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_all(contest: Contest, groups: Sequence[list[Trial]], jobs: int) -> Iterator[tuple[Trial, Outcome]]:
    if jobs == 1:
        for trial in itertools.chain.from_iterable(groups):
            with _unsaid():
                outcome = contest.run(trial)
            yield trial, outcome
        return
    with joblib.parallel_config(backend="loky", inner_max_num_threads=max(1, n_cores() // jobs)):
        pool = joblib.Parallel(n_jobs=jobs, return_as="generator", pre_dispatch="n_jobs")
        outcomes = pool(joblib.delayed(_run_in_worker)(contest, group) for group in groups)
        for group, of_group in zip(groups, outcomes, strict=True):
            yield from zip(group, of_group, strict=True)


@contextlib.contextmanager
def _unsaid() -> Iterator[None]:
    """Keep what each trial would say from the log, which workers do not write to either."""
    package = logging.getLogger("selfcell")
    level = package.level
    package.setLevel(logging.ERROR)
    try:
        yield
    finally:
        package.setLevel(level)


def _run_in_worker(contest: Contest, group: list[Trial]) -> list[Outcome]:
    # A worker that holds 300 MB more than at first is taken for leaking and started anew, which takes as long as many a
    # trial. Ours hold what training needs, and what torch has freed but keeps.
    process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize  # noqa: SLF001 - there is no public way
    outcomes = [contest.run(trial) for trial in group]
    give_back_unused(more_than=0)
    return outcomes


def _peak_memory_mb() -> float | None:
    if sys.platform == "win32":
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
