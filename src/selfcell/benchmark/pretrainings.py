"""The pre-trainings of a benchmark: each is run once, whatever asks for it, and goes on where it was."""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import joblib
from tqdm import tqdm

from selfcell.benchmark.planned import PlannedEncoder
from selfcell.benchmark.results import trial_id
from selfcell.benchmark.trials import (
    AGAIN,
    KILLED,
    Workplace,
    in_turn,
    lost_worker,
    refuse_full_disk,
    working_in,
)
from selfcell.benchmark.workers import keep_this_worker
from selfcell.core.atomic import write_json
from selfcell.core.code_version import code_version
from selfcell.core.digest import sha256_of
from selfcell.core.errors import InputError
from selfcell.core.reading import read_json
from selfcell.core.words import file_name
from selfcell.data.source import Cells
from selfcell.pretext import PRETEXT_TASKS
from selfcell.training.faults import is_out_of_memory, without_mend
from selfcell.training.out_folder import is_finished_run
from selfcell.training.pretrain import pretrain
from selfcell.training.run_folder import TrainedModel, load
from selfcell.training.settings import PretrainSettings

logger = logging.getLogger(__name__)


class FailedPretraining(NamedTuple):
    """A pre-training that came to nothing."""

    seed: int
    error: str


@dataclass(frozen=True)
class Pretraining:
    """One run: an encoder on a corpus with a seed."""

    encoder: PlannedEncoder
    seed: int
    fingerprint: str
    """Of the corpus."""
    folder: Path
    """Of all runs."""
    programs: Path | None = None
    """The file of gene programmes, where the settings name one."""

    @property
    def settings(self) -> PretrainSettings:
        """The settings of the run, with a file of gene programmes as the plan names it."""
        return self.encoder.with_seed(self.seed)

    @functools.cached_property
    def run_id(self) -> str:
        """Hash of all that determines the run: cells, settings, gene programmes, code."""
        of_programs = {} if self.programs is None else {"programs": sha256_of(self.programs)}
        task = PRETEXT_TASKS.target_of(self.settings.pretext.name).partition(":")[0]
        return trial_id(
            cells=self.fingerprint,
            settings=self.settings.model_dump(mode="json"),
            code=code_version(["selfcell.training.pretrain", task]),
            **of_programs,
        )

    @property
    def path(self) -> Path:
        """The run folder."""
        words = (self.encoder.corpus, self.encoder.encoder, f"seed {self.seed}", self.run_id)
        return self.folder / "-".join(map(file_name, words))

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do."""
        return is_finished_run(self.path)

    @property
    def failure(self) -> FailedPretraining | None:
        """What went wrong, if anything did; a run that was finished elsewhere, and merged, has not failed."""
        if not self._failed.exists() or self.is_finished:
            return None
        return FailedPretraining(self.seed, read_json(self._failed)["error"])

    @property
    def _failed(self) -> Path:
        return self.path.with_name(f"{self.path.name}.failed.json")

    def forget_failure(self) -> None:
        """Have it tried again."""
        self._failed.unlink(missing_ok=True)

    def run(self, cells: Cells | Path) -> None:
        """Pre-train, from the last checkpoint if there is one; what goes wrong is taken down.

        Raises
        ------
        InputError
            If disk or memory are short, of which another time there may be more.
        """
        begun = (self.path / "manifest.json").exists()
        # A plan names its donors, here as for what is judged: none are taken that it does not name.
        data = self.settings.data.model_copy(update={"donor_key": self.settings.data.donor_key or ""})
        settings = self.settings.model_copy(update={"data": data})
        if self.programs is not None:
            pretext = settings.pretext.model_copy(update={"programs": str(self.programs)})
            settings = settings.model_copy(update={"pretext": pretext})
        try:
            pretrain(cells, settings, out=self.path, resume=begun, overwrite=not begun, show_progress=False)
        except Exception as error:
            # One run that fails must not end the others.
            work = f"Pre-training {self.path.name}"
            refuse_full_disk(error, work)
            if is_out_of_memory(error):
                mend = "Take fewer --jobs, or smaller minibatches in the plan (training.minibatch_size)."
                raise InputError(f"{work} was stopped. {without_mend(error)} {mend} {AGAIN}") from error
            write_json(self._failed, {"error": f"{type(error).__name__}: {without_mend(error)}"})

    def result(self) -> TrainedModel | FailedPretraining:
        """Load the encoder, or give what went wrong."""
        return self.failure or load(self.path)


def run_pretrainings(
    wanted: Sequence[Pretraining], cells_of: Callable[[str], Cells | Path], workplace: Workplace
) -> None:
    """Run what is neither finished nor known to fail.

    Parameters
    ----------
    wanted
        All pre-trainings.
    cells_of
        Gives the cells of a corpus by its name, or the path of an atlas.
    workplace
        Where.
    """
    waiting = [one for one in wanted if not one.is_finished and one.failure is None]
    if not waiting:
        return
    logger.info("%d of %d pre-trainings are to be run.", len(waiting), len(wanted))
    show_progress = workplace.show_progress
    with tqdm(total=len(waiting), desc="Pre-training", unit=" runs", disable=None if show_progress else True) as bar:
        for one in _run_all(waiting, cells_of, workplace):
            bar.update()
            bar.set_postfix_str(one.path.name)
            if one.failure is not None:
                logger.warning("Pre-training %s failed: %s", one.path.name, one.failure.error)
            elif bar.disable and show_progress:
                logger.info("Pre-trained %s.", one.path.name)


def _run_all(
    waiting: Sequence[Pretraining], cells_of: Callable[[str], Cells | Path], workplace: Workplace
) -> Iterator[Pretraining]:
    jobs = workplace.n_jobs(len(waiting))
    if jobs == 1 and workplace.dask is None:
        for one in waiting:
            one.run(cells_of(one.encoder.corpus))
            yield one
        return
    try:
        with working_in(workplace, jobs) as at_once:
            pool = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", pre_dispatch=at_once)
            yield from pool(joblib.delayed(_run)(one, cells_of(one.encoder.corpus)) for one in waiting)
    except lost_worker(workplace) as error:
        raise InputError(f"{KILLED} Give the same command again to go on, with fewer --jobs.") from error


def _run(one: Pretraining, cells: Cells | Path) -> Pretraining:
    keep_this_worker()
    with in_turn:
        one.run(cells)
    return one
