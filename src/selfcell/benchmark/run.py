"""Carry out a benchmark's plan: pre-trainings, then every target's trials, then one table; stop it and start it again.

==================== ================================================================================================
plan.toml            the plan, as it was given
cells.json           hashes of the cells, by which a changed file is noticed
runs/                pre-trained encoders, one folder each
trials/              outcomes of trials, one file each, named by a hash of all that determines them
studies/             the tables of each target and encoder; ``selfcell report`` shows any of them
scores.parquet       every score of every trial, one row each
resamples.parquet    each score on every draw of test donors
confusion.parquet    cells by donor, true and predicted type
verdicts.parquet     each question at each target and label budget: difference, interval, p, and what it says
benchmark.json       what it is, and by what it was made; written last
==================== ================================================================================================
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from selfcell.benchmark.outcome_store import OutcomeStore
from selfcell.benchmark.plan import Plan, PlannedEncoder, PlannedStudy, planned_encoders, planned_studies, read_plan
from selfcell.benchmark.plan_cells import PlanCells
from selfcell.benchmark.pretrainings import FailedPretraining, Pretraining, run_pretrainings
from selfcell.benchmark.query import joined_for_judging, with_label_renamed
from selfcell.benchmark.results import SCORE_COLUMNS, StudyResults, read_results, trial_id
from selfcell.benchmark.study import Study
from selfcell.benchmark.trials import Failure, Workplace
from selfcell.benchmark.verdicts import verdicts
from selfcell.core.atomic import atomic_path, write_json, write_text
from selfcell.core.config import read_toml
from selfcell.core.errors import InputError, did_you_mean
from selfcell.core.reading import read_json
from selfcell.core.words import file_name
from selfcell.data.source import Cells, obs_column
from selfcell.downstream import DOWNSTREAM_TASKS
from selfcell.training.run_folder import TrainedModel, describe_environment

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
TABLES = ("scores", "resamples", "confusion")
WHICH = ("target", "corpus", "encoder")
"""Columns that come first in every table."""
PRETRAINING = "pretraining"
"""The ``method`` of a row that tells of a pre-training that failed."""


@dataclass(frozen=True)
class Benchmark:
    """A plan, its cells, and the folder of its results."""

    plan: Plan
    cells: PlanCells
    out: Path
    targets: tuple[str, ...]
    """Names of those that are asked now."""

    @classmethod
    def open(cls, file: Path, out: Path, *, only: Sequence[str] = ()) -> "Benchmark":
        """Read a plan, and make sure that the folder is of no other.

        Parameters
        ----------
        file
            The plan.
        out
            Folder of the results.
        only
            Names of targets to ask; all if left out.

        Raises
        ------
        InputError
            If the plan cannot be carried out, it has no such target, or the folder is of another plan.
        """
        plan = read_plan(file)
        for name in only:
            if name not in plan.targets:
                raise InputError(f"The plan has no target {name!r}. {did_you_mean(name, list(plan.targets))}")
        _refuse_other_plan(plan, out)
        return cls(plan, PlanCells(plan, file.parent), out, tuple(only) or tuple(plan.targets))

    @property
    def store(self) -> OutcomeStore:
        """The outcomes of trials."""
        return OutcomeStore(self.out / "trials")

    def studies(self) -> list[PlannedStudy]:
        """Give every target that is asked now, with every encoder."""
        every = planned_studies(self.plan, planned_encoders(self.plan))
        return [study for study in every if study.target in self.targets]

    def pretrainings(self) -> dict[PlannedEncoder, list[Pretraining]]:
        """Give the runs of every encoder that a target asks."""
        return {
            encoder: [
                Pretraining(
                    encoder, seed, self.cells.fingerprint(self.plan.corpora[encoder.corpus].cells), self.out / "runs"
                )
                for seed in self.plan.seeds.pretraining
            ]
            for encoder in dict.fromkeys(study.encoder for study in self.studies())
        }

    def corpus_cells(self, corpus: str) -> Cells:
        """Give the cells that a corpus is of."""
        return self.cells[self.plan.corpora[corpus].cells]

    def check_cells(self) -> dict[str, str]:
        """Read the cells of what is asked, and refuse what cannot work, before hours are spent.

        Returns
        -------
        The hash of each.

        Raises
        ------
        InputError
            If cells cannot be read, were changed under results that are there, or share no type with their query.
        """
        asked = {name: target for name, target in self.plan.targets.items() if name in self.targets}
        used = {name for target in asked.values() for name in (target.cells, target.query)}
        used |= {self.plan.corpora[study.encoder.corpus].cells for study in self.studies()}
        fingerprints = {name: self.cells.fingerprint(name) for name in self.plan.cells if name in used}
        for name, target in asked.items():
            if target.query is not None and target.task == "cell_type":
                self._check_labels(name, target.cells, target.query)
        file = self.out / "cells.json"
        if file.exists():
            _refuse_changed(read_json(file), fingerprints, self.out)
        return fingerprints

    def _check_labels(self, target: str, cells: str, query: str) -> None:
        named = {name: self._labels(name) for name in (cells, query)}
        if not set(named[cells]) & set(named[query]):
            listed = "; ".join(f"{name}: {', '.join(sorted(labels)[:5])} ..." for name, labels in named.items())
            raise InputError(
                f"[targets.{target}]: {cells} and {query} have no cell type in common ({listed}). Give either a "
                "label_map."
            )

    def _labels(self, name: str) -> set[str]:
        label = self.plan.cells[name].label
        if label is None:
            raise InputError(f"[cells.{name}] must name the column of types: label.")
        return set(obs_column(self.cells[name].obs, label, role="label"))

    def study(self, planned: PlannedStudy, models: Sequence[TrainedModel]) -> Study:
        """Make the study of a target for the encoders that were trained."""
        target = self.plan.targets[planned.target]
        cells = self.cells.some(target.cells, target.n_cells)
        if target.query is None:
            return Study(planned.plan, cells, models)
        query = with_label_renamed(
            self.cells[target.query], planned.plan.label_key, self.plan.cells[target.query].label
        )
        joined, split, seen = joined_for_judging(cells, query, planned.plan, models, allow_low_overlap=True)
        return Study(planned.plan, joined, models, split=split, seen=seen)


def run_benchmark(
    plan: str | Path,
    *,
    out: str | Path,
    only: Sequence[str] = (),
    workplace: Workplace | None = None,
    retry_failed: bool = False,
    csv: bool = False,
) -> pd.DataFrame:
    """Run what is missing of a benchmark, and write its tables.

    Parameters
    ----------
    plan
        A TOML file; see :mod:`selfcell.benchmark.plan`.
    out
        Folder of the results. What is there already of this plan is not run again.
    only
        Names of targets to run; all if left out. Of others the tables keep what they have.
    workplace
        Where trials are run. One that fails is a row with its error.
    retry_failed
        Run what failed once more.
    csv
        Write the tables as CSV too.

    Returns
    -------
    One row a score: the columns of :data:`WHICH`, then those of :data:`selfcell.benchmark.results.SCORE_COLUMNS`.

    Raises
    ------
    InputError
        If the plan, its cells or the folder cannot be worked with; before any training.
    """
    started = time.perf_counter()
    benchmark = Benchmark.open(Path(plan), Path(out), only=only)
    workplace = workplace or Workplace(keep_going=True)
    fingerprints = benchmark.check_cells()
    _claim(benchmark, Path(plan), fingerprints)
    pretrainings = benchmark.pretrainings()
    if retry_failed:
        _forget_failures(benchmark, pretrainings)
    run_pretrainings(
        [one for of_encoder in pretrainings.values() for one in of_encoder],
        benchmark.corpus_cells,
        workplace,
    )
    studies = benchmark.studies()
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    for place, planned in enumerate(studies, start=1):
        logger.info("%d of %d: %s, %s.", place, len(studies), planned.target, planned.encoder.title)
        trained = [one.result() for one in pretrainings[planned.encoder]]
        for name, table in _tables_of(benchmark, planned, trained, workplace).items():
            tables[name].append(table)
    joined = {name: _joined([*parts, _of_others(benchmark, name)]) for name, parts in tables.items()}
    headlines = {name: DOWNSTREAM_TASKS[one.task].headline for name, one in benchmark.plan.targets.items()}
    joined["verdicts"] = verdicts(joined["scores"], joined["resamples"], headlines)
    write_tables(joined, benchmark.out, csv=csv)
    write_json(benchmark.out / "benchmark.json", _about(benchmark, fingerprints, time.perf_counter() - started))
    return joined["scores"]


def write_tables(tables: dict[str, pd.DataFrame], out: Path, *, csv: bool) -> None:
    """Write tables as Parquet, each atomically, and as CSV if asked to."""
    for name, table in tables.items():
        with atomic_path(out / f"{name}.parquet") as temporary:
            table.to_parquet(temporary, index=False)
        if csv:
            with atomic_path(out / f"{name}.csv") as temporary:
                table.to_csv(temporary, index=False, float_format="%.6g")


def _of_others(benchmark: Benchmark, table: str) -> pd.DataFrame:
    """Give the rows that a table has of targets that are not asked now."""
    file = benchmark.out / f"{table}.parquet"
    if not file.exists():
        return pd.DataFrame()
    rows = pd.read_parquet(file)
    others = set(benchmark.plan.targets) - set(benchmark.targets)
    return rows[rows["target"].isin(others)]


def _tables_of(
    benchmark: Benchmark, planned: PlannedStudy, trained: list[TrainedModel | FailedPretraining], workplace: Workplace
) -> dict[str, pd.DataFrame]:
    """Give the tables of a study, running what is missing."""
    which = {"target": planned.target, "corpus": planned.encoder.corpus, "encoder": planned.encoder.encoder}
    models = [one for one in trained if isinstance(one, TrainedModel)]
    tables = {name: pd.DataFrame() for name in TABLES}
    if models:
        results = _results_of(benchmark, planned, models, workplace)
        tables = {name: getattr(results, name) for name in TABLES}
    failed = [
        {
            "task": planned.plan.task,
            "method": PRETRAINING,
            "pretrain_seed": one.seed,
            "error": one.error,
            "trial_id": trial_id(**which, seed=one.seed),
        }
        for one in trained
        if isinstance(one, FailedPretraining)
    ]
    if failed:
        tables["scores"] = _joined([tables["scores"], pd.DataFrame(failed, columns=list(SCORE_COLUMNS))])
    return {name: table.assign(**which)[[*WHICH, *table.columns]] for name, table in tables.items()}


def _results_of(
    benchmark: Benchmark, planned: PlannedStudy, models: list[TrainedModel], workplace: Workplace
) -> StudyResults:
    """Give the results of a study: those of its folder, if they are of the same trials, or new ones."""
    folder = benchmark.out / "studies" / file_name(planned.target) / file_name(planned.encoder.title)
    study = benchmark.study(planned, models)
    identity = trial_id(trials=[study.work_id(trial) for trial in study.trials])
    if (folder / "study.json").exists() and not study.missing(benchmark.store):
        results = read_results(folder)
        if results.about.get("identity") == identity:
            return results
    results = study.run(workplace, store=benchmark.store)
    title = benchmark.plan.targets[planned.target].title or planned.target
    results.about.update(title=title, planned_target=planned.target, corpus=planned.encoder.corpus, identity=identity)
    results.about.update(encoder=planned.encoder.encoder)
    results.write(folder)
    return results


def _refuse_other_plan(plan: Plan, out: Path) -> None:
    if (out / "plan.toml").exists():
        other = read_toml(out / "plan.toml").get("name")
        if other != plan.name:
            raise InputError(f"{out} has the results of the plan {other!r}, not of {plan.name!r}. Name another folder.")
    elif out.exists() and (not out.is_dir() or any(not file.name.startswith(".") for file in out.iterdir())):
        raise InputError(f"{out} holds something that is no benchmark. Name another folder.")


def _refuse_changed(before: dict[str, str], now: dict[str, str], out: Path) -> None:
    changed = [name for name, fingerprint in now.items() if before.get(name, fingerprint) != fingerprint]
    if changed:
        raise InputError(
            f"The cells of {', '.join(changed)} are not those that {out} has results of: counts, cell names or the "
            "columns that the plan names were changed, or the plan prepares them otherwise. Put back what they were, "
            "or name another folder."
        )


def _claim(benchmark: Benchmark, plan: Path, fingerprints: dict[str, str]) -> None:
    file = benchmark.out / "cells.json"
    before = read_json(file) if file.exists() else {}
    write_json(file, before | fingerprints)
    write_text(benchmark.out / "plan.toml", plan.read_text(encoding="utf-8"))


def _forget_failures(benchmark: Benchmark, pretrainings: dict[PlannedEncoder, list[Pretraining]]) -> None:
    for one in (one for of_encoder in pretrainings.values() for one in of_encoder):
        one.forget_failure()
    for work_id in benchmark.store:
        if isinstance(benchmark.store.read(work_id), Failure):
            benchmark.store.forget(work_id)


def _joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    filled = [part for part in parts if not part.empty]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=[*WHICH, *SCORE_COLUMNS])


def _about(benchmark: Benchmark, fingerprints: dict[str, str], seconds: float) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "name": benchmark.plan.name,
        "title": benchmark.plan.title or benchmark.plan.name,
        "plan": benchmark.plan.model_dump(mode="json"),
        "cells": fingerprints,
        "seconds_of_this_session": round(seconds, 1),
        **describe_environment(),
    }
