"""How long the targets that are still to come will take, judged by those that are done."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from selfcell.benchmark.expected_trials import ExpectedTrials
from selfcell.benchmark.outcome_store import OutcomeStore
from selfcell.benchmark.planned import PlannedStudy
from selfcell.benchmark.study import Study
from selfcell.benchmark.trials import Trial
from selfcell.core.words import in_words


def seconds_taken(study: Study, trials: Iterable[Trial], store: OutcomeStore) -> dict[str, list[float]]:
    """Give by method what each of some distinct trials took, failed ones among them; NaN where a process was killed."""
    found: dict[str, list[float]] = {}
    for trial in trials:
        outcome = store.read(study.work_id(trial))
        if outcome is not None:
            found.setdefault(trial.method, []).append(outcome.seconds)
    return found


class TimeLeft:
    """A guess of what is left, mended by what was measured.

    Each method's guess is multiplied by what its trials took so far as a multiple of what was guessed for them (for a
    method that was not run yet: by that of all), and the sum by what a second of trials took on the clock, which has in
    it how many are run at once and what is done between them.

    Parameters
    ----------
    expected
        The trials of the plan, done or not.
    """

    def __init__(self, expected: Sequence[ExpectedTrials]) -> None:
        of_study = itertools.groupby(expected, key=lambda one: one.planned)
        self._waiting = {_key(planned): list(trials) for planned, trials in of_study}
        self._guessed: dict[str, float] = defaultdict(float)
        self._took: dict[str, float] = defaultdict(float)
        self._work = self._clock = 0.0

    def learn(self, planned: PlannedStudy, took: Mapping[str, Sequence[float]], *, clock: float) -> None:
        """Take down what the trials of a target took.

        Parameters
        ----------
        planned
            Which target.
        took
            Seconds of the trials that were run, by method; none of those that were kept from before.
        clock
            Seconds from the first of them to the end of the last.
        """
        work = float(np.nansum([one for seconds in took.values() for one in seconds]))
        # Without any, the clock tells of tables and maps alone.
        self._work, self._clock = self._work + work, self._clock + clock * (work > 0)
        waiting = self._waiting.get(_key(planned), [])
        for method, trials in itertools.groupby(waiting, key=lambda one: one.method):
            seconds = [one for one in took.get(method, []) if not np.isnan(one)]
            guesses = [one.seconds for one in trials for _ in one.seeds]
            self._guessed[method] += len(seconds) * float(np.mean(guesses))
            self._took[method] += sum(seconds)

    def drop(self, planned: PlannedStudy) -> None:
        """Take down that a target is not to come any more."""
        self._waiting.pop(_key(planned), None)

    def seconds(self) -> float | None:
        """Give about how many seconds what is waiting takes; None where nothing was run by which to judge."""
        guessed = sum(self._guessed.values())
        if not self._work or not guessed:
            return None
        overall = sum(self._took.values()) / guessed
        work = sum(
            len(one.seeds) * one.seconds * self._correction(one.method, overall)
            for trials in self._waiting.values()
            for one in trials
        )
        return work * self._clock / self._work

    def __str__(self) -> str:
        """Say what is left, and nothing where that is not known."""
        seconds = self.seconds()
        return "" if not seconds else f" About {in_words(seconds)} to go."

    def _correction(self, method: str, overall: float) -> float:
        return self._took[method] / self._guessed[method] if self._guessed[method] else overall


def _key(planned: PlannedStudy) -> tuple[str, str]:
    return planned.target, planned.encoder.title
