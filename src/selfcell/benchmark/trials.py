"""Trials: one way of predicting, at one label budget, with one seed; run side by side in processes."""

import contextlib
import gc
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

import joblib
import numpy as np
import pandas as pd
from joblib.externals.loky import process_executor
from tqdm import tqdm

from selfcell.baselines import MAKE_ONCE
from selfcell.baselines.base import ComparedCells, Problem
from selfcell.baselines.find import find_baseline
from selfcell.benchmark.workers import keep_this_worker
from selfcell.core.cluster import dask_client
from selfcell.core.errors import InputError
from selfcell.core.memory import forget_peak, give_back_unused, peak_memory
from selfcell.core.write_errors import CannotWriteError, error_number
from selfcell.data.splits import Split
from selfcell.downstream import REGIMES
from selfcell.downstream.base import DownstreamTask, EncodedCells, SupervisedSettings, TaskScores
from selfcell.downstream.resampling import TestUnits
from selfcell.training.faults import is_disk_full, without_mend

logger = logging.getLogger(__name__)

in_turn = threading.Lock()
"""What draws random numbers holds this: torch's are those of a whole process, and a Dask worker may have threads."""


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
    has_seed: bool = True
    """Whether the answer depends on the seed, other than by what is labelled."""

    @property
    def needs_model(self) -> bool:
        """Whether the answer depends on what was pre-trained."""
        return self.method in REGIMES and self.method != "from_scratch"

    @property
    def key(self) -> Hashable:
        """What the answer depends on: trials with the same key are run once."""
        seed = self.seed if self.has_seed else None
        model = self.model if self.needs_model else None
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
    """The most that the process held while it ran the trial, the cells that all share included."""


class Failure(NamedTuple):
    """What a trial gives that came to no answer."""

    error: str
    seconds: float


Made = TypeVar("Made")
_LONG = 2.0
"""Seconds of a trial beside which a search for what it left behind, a tenth of a second, is nothing."""
KILLED = "The process was killed, perhaps for want of memory."


_NO_HURRY = {"wait_for_workers_timeout": 24 * 3600}
"""Seconds, of joblib: jobs of a cluster may wait long in a queue, and workers may leave and come back."""

AGAIN = "Once that is mended, the same command goes on with what is missing."


def refuse_full_disk(error: Exception, work: str) -> None:
    """Refuse to take an error for a failure of the work where something could not be written.

    Parameters
    ----------
    error
        What went wrong.
    work
        What was at hand.

    Raises
    ------
    CannotWriteError
        If it says that the disk is full, or that files may not be written.
    """
    if isinstance(error, CannotWriteError) or is_disk_full(error):
        said = f"{work} was stopped. {without_mend(error)} {AGAIN}"
        raise CannotWriteError(said, error_number(error)) from error


def or_nothing(what: str, make: Callable[[], Made], nothing: Made, *, keep_going: bool) -> Made:
    """Make something that trials can do without; where that fails they are written without it, which is logged.

    Parameters
    ----------
    what
        What is made, as a sentence begins with it.
    make
        Makes it.
    nothing
        What to give where it cannot be made.
    keep_going
        Whether any error will do, or those alone that a user can mend.
    """
    try:
        return make()
    except Exception as error:
        refuse_full_disk(error, what)
        if not (keep_going or isinstance(error, InputError)):
            raise
        logger.warning("%s is left out: %s", what, error)
        return nothing


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
        forget_peak()
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
        peak = peak_memory()
        return Outcome(scores, tables, seconds, None if peak is None else round(peak / 2**20, 1))

    def run_or_fail(self, trial: Trial) -> Outcome | Failure:
        """Run one trial, and take down what went wrong if something does."""
        started = time.perf_counter()
        try:
            return self.run(trial)
        except Exception as error:  # noqa: BLE001 - one trial that fails must not end the others
            refuse_full_disk(error, f"{trial.method}, {trial.budget}, seed {trial.seed}")
            return Failure(f"{type(error).__name__}: {without_mend(error)}", round(time.perf_counter() - started, 3))


@dataclass(frozen=True)
class Workplace:
    """Where trials are run, and what becomes of one that fails."""

    jobs: int | None = None
    """Processes; the number of cores, but four at most, if left out. Each holds a copy of what it works on. With Dask,
    how much is handed out at once: as much as has workers when work begins, if left out."""
    dask: str | None = None
    """Address of a Dask scheduler whose workers run them instead."""
    keep_going: bool = False
    """Take a trial that fails for a result, rather than raise its error."""
    show_progress: bool = True

    def n_jobs(self, n_groups: int) -> int:
        """Give the number of processes for so many groups of trials."""
        return max(1, min(self.jobs or min(n_cores(), 4), n_groups))


def run_trials(
    contest: Contest,
    trials: Sequence[Trial],
    workplace: Workplace,
    *,
    finished: Callable[[Trial, Outcome | Failure], None] = lambda _trial, _outcome: None,
) -> dict[Hashable, Outcome | Failure]:
    """Run trials, each distinct one once, and give their outcomes by key.

    Small networks do not keep several cores busy: as many processes as there are cores, each on its own share of them,
    get through trials nearly that many times as fast as one.

    Parameters
    ----------
    contest
        What the trials share.
    trials
        What to run.
    workplace
        Where.
    finished
        Called with each distinct trial as soon as it is done.
    """
    distinct = {trial.key: trial for trial in trials}
    groups: dict[Hashable, list[Trial]] = {}
    # Long ones first, so that none is begun when all others are done.
    for trial in sorted(distinct.values(), key=lambda trial: trial.group == trial.key):
        groups.setdefault(trial.group, []).append(trial)
    show_progress = workplace.show_progress
    outcomes: dict[Hashable, Outcome | Failure] = {}
    with tqdm(total=len(distinct), desc="Comparing", unit=" trials", disable=None if show_progress else True) as bar:
        for trial, outcome in _run_all(contest, list(groups.values()), workplace):
            outcomes[trial.key] = outcome
            finished(trial, outcome)
            bar.update()
            bar.set_postfix_str(f"{trial.method}, {trial.budget}, seed {trial.seed}")
            if bar.disable and show_progress and len(outcomes) % 10 == 0:
                logger.info("Comparing: %d of %d trials.", len(outcomes), len(distinct))
    return outcomes


def n_cores() -> int:
    """Give the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Answer = TypeVar("Answer", bound=Outcome | Failure)
Finished: TypeAlias = Iterator[tuple[Trial, Outcome | Failure]]


def _run_all(contest: Contest, groups: Sequence[list[Trial]], workplace: Workplace) -> Finished:
    if workplace.dask is None and workplace.n_jobs(len(groups)) == 1 and not workplace.keep_going:
        for trial in itertools.chain.from_iterable(groups):
            with unsaid():
                outcome = _tidied(contest.run, trial)
            yield trial, outcome
        return
    waiting = dict(enumerate(groups))
    try:
        yield from _in_processes(contest, waiting, workplace, jobs=workplace.n_jobs(len(groups)))
    except lost_worker(workplace) as error:
        if not workplace.keep_going:
            raise InputError(f"{KILLED} Run fewer at a time: --jobs 1 (jobs=1).") from error
        logger.warning("A process was killed, perhaps for want of memory. What is left is run one at a time.")
        yield from _one_at_a_time(contest, waiting, workplace)


def _one_at_a_time(contest: Contest, waiting: dict[int, list[Trial]], workplace: Workplace) -> Finished:
    """Run each trial in a process of its own, which may be killed without harm to the others."""
    for trial in list(itertools.chain.from_iterable(waiting.values())):
        try:
            yield from _in_processes(contest, {0: [trial]}, workplace, jobs=1)
        except lost_worker(workplace):
            yield trial, Failure(KILLED, float("nan"))


def _in_processes(contest: Contest, waiting: dict[int, list[Trial]], workplace: Workplace, *, jobs: int) -> Finished:
    """Run groups in other processes, give each as it is done, and take it from those that wait."""
    with working_in(workplace, jobs) as at_once:
        # joblib would run one process's work in this one, so there are two, of which one is idle.
        pool = joblib.Parallel(n_jobs=max(jobs, 2), return_as="generator_unordered", pre_dispatch=at_once)
        call = joblib.delayed(_run_in_worker)
        calls = (call(contest, *item, keep_going=workplace.keep_going) for item in list(waiting.items()))
        for place, outcomes in pool(calls):
            yield from zip(waiting.pop(place), outcomes, strict=True)


def lost_worker(workplace: Workplace) -> tuple[type[Exception], ...]:
    """Give the errors that say that a process of a workplace is gone."""
    if workplace.dask is None:
        return (process_executor.TerminatedWorkerError,)
    from distributed import KilledWorker  # noqa: PLC0415 - an extra
    from distributed.comm.core import CommClosedError  # noqa: PLC0415 - an extra

    return (KilledWorker, CommClosedError)


@contextlib.contextmanager
def working_in(workplace: Workplace, jobs: int) -> Iterator[int]:
    """Have joblib work in processes of this machine, each on its share of the cores, or on a Dask cluster.

    Gives how much may be handed out at once: as much as there are processes, as each task holds the cells.
    """
    if workplace.dask is None:
        with joblib.parallel_config(backend="loky", inner_max_num_threads=max(1, n_cores() // jobs)):
            yield jobs
        return
    with dask_client(workplace.dask) as client, joblib.parallel_config(backend="dask", **_NO_HURRY):
        if not client.ncores():
            logger.info("No worker has joined %s yet: waiting for one.", workplace.dask)
        yield workplace.jobs or max(len(client.ncores()), 1)


@contextlib.contextmanager
def unsaid() -> Iterator[None]:
    """Keep what each trial would say from the log, which workers do not write to either."""
    package = logging.getLogger("selfcell")
    level = package.level
    package.setLevel(logging.ERROR)
    try:
        yield
    finally:
        package.setLevel(level)


def _run_in_worker(
    contest: Contest, place: int, group: list[Trial], *, keep_going: bool
) -> tuple[int, list[Outcome | Failure]]:
    keep_this_worker()
    run = contest.run_or_fail if keep_going else contest.run
    with in_turn:
        outcomes = [_tidied(run, trial) for trial in group]
    return place, outcomes


def _tidied(run: Callable[[Trial], Answer], trial: Trial) -> Answer:
    """Run a trial and give its memory back.

    What a training leaves behind refers to itself and to all cells, and Python looks for such things by the number of
    objects, of which these are few.
    """
    outcome = run(trial)
    if outcome.seconds > _LONG:
        gc.collect()
    give_back_unused(more_than=0)
    return outcome
