"""Trials: one way of predicting, at one label budget, with one seed; run side by side in processes."""

import logging
import os
import sys
import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import joblib
import numpy as np
from tqdm import tqdm

from selfcell.baselines import BASELINES, SEEDLESS
from selfcell.baselines.base import ComparedCells, LabelProblem
from selfcell.data.splits import Split
from selfcell.downstream import REGIMES
from selfcell.downstream.base import EncodedCells
from selfcell.downstream.cell_type import CellTypeSettings, CellTypeTask

if sys.platform != "win32":
    import resource


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One prediction to make."""

    method: str
    """A regime or a baseline."""
    budget: str
    """How many donors are labelled, as tables call it."""
    seed: int
    labelled: np.ndarray
    """Positions of the labelled cells."""
    settings: CellTypeSettings

    @property
    def key(self) -> Hashable:
        """What the answer depends on: trials with the same key are run once."""
        seed = None if self.method in SEEDLESS else self.seed
        return self.method, seed, self.labelled.tobytes(), self.settings.model_dump_json()


class Outcome(NamedTuple):
    """What a trial gives."""

    predicted: np.ndarray
    """Class of every test cell."""
    seconds: float
    peak_memory_mb: float | None
    """Of the process that ran the trial, so far."""


@dataclass(frozen=True)
class Contest:
    """What all trials share; it is sent to other processes, so it holds no more than they need."""

    compared: ComparedCells
    encoded: tuple[EncodedCells, ...]
    """The cells as each model embeds them; seed ``i`` has model ``i``, in turn."""
    label_code: np.ndarray
    classes: tuple[str, ...]
    test: np.ndarray
    """Positions of the cells to predict for."""

    def run(self, trial: Trial) -> Outcome:
        """Run one trial."""
        started = time.perf_counter()
        predicted = self._by_regime(trial) if trial.method in REGIMES else self._by_baseline(trial)
        return Outcome(predicted, round(time.perf_counter() - started, 3), _peak_memory_mb())

    def _by_regime(self, trial: Trial) -> np.ndarray:
        task = CellTypeTask(trial.settings, label_code=self.label_code, classes=self.classes)
        split = Split(trial.labelled, np.array([], dtype=np.int64), self.test, unit="trial")
        encoded = self.encoded[trial.seed % len(self.encoded)]
        return task.predict(encoded, split, regime=trial.method, seed=trial.seed)

    def _by_baseline(self, trial: Trial) -> np.ndarray:
        problem = LabelProblem(
            compared=self.compared,
            label_code=self.label_code,
            labelled=trial.labelled,
            test=self.test,
            n_neighbors=trial.settings.n_neighbors,
            seed=trial.seed,
        )
        return BASELINES[trial.method](problem)


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
    jobs = min(jobs or min(n_cores(), 4), len(distinct))
    outcomes: dict[Hashable, Outcome] = {}
    with tqdm(total=len(distinct), desc="Comparing", unit=" trials", disable=None if show_progress else True) as bar:
        for (key, trial), outcome in zip(
            distinct.items(), _run_all(contest, list(distinct.values()), jobs), strict=True
        ):
            outcomes[key] = outcome
            bar.update()
            bar.set_postfix_str(f"{trial.method}, {trial.budget}, seed {trial.seed}")
            if bar.disable and show_progress and len(outcomes) % 10 == 0:
                logger.info("Comparing: %d of %d trials.", len(outcomes), len(distinct))
    return [outcomes[trial.key] for trial in trials]


def n_cores() -> int:
    """Give the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_all(contest: Contest, trials: Sequence[Trial], jobs: int) -> Iterator[Outcome]:
    if jobs == 1:
        yield from map(contest.run, trials)
        return
    with joblib.parallel_config(backend="loky", inner_max_num_threads=max(1, n_cores() // jobs)):
        pool = joblib.Parallel(n_jobs=jobs, return_as="generator", pre_dispatch="n_jobs")
        yield from pool(joblib.delayed(contest.run)(trial) for trial in trials)


def _peak_memory_mb() -> float | None:
    if sys.platform == "win32":
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
