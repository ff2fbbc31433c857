"""Carry out a benchmark's plan: pre-trainings, then every target's trials, then one table; stop it and start it again.

==================== ================================================================================================
plan.toml            the plan, as it was given
cells.json           hashes of the cells, by which a changed file is noticed
runs/                pre-trained encoders, one folder each
trials/              outcomes of trials, one file each, named by a hash of all that determines them
networks/            networks of baselines (scVI, scANVI) that several targets share
studies/             the tables of each target and encoder; ``selfcell report`` shows any of them
scores.parquet       every score of every trial, one row each
resamples.parquet    each score on every draw of test donors
confusion.parquet    cells by donor, true and predicted type
estimates.parquet    mean, spread over seeds and interval of every method; seconds and memory
pairs.parquet        each encoder against the first that a target was asked of, each corpus against the largest
verdicts.parquet     each question at each target and label budget: difference, interval, p, and what it says
classes.parquet      F1 of each type by method, and which types have few test cells
over_targets.parquet each question and score over all targets: how many are above zero, and Wilcoxon's p
benchmark.json       what it is, by what sessions it was made, and hashes of the tables; written last
==================== ================================================================================================
"""

import datetime
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from selfcell.benchmark.expected_trials import expected_trials
from selfcell.benchmark.fingerprints import Fingerprint
from selfcell.benchmark.opened import Benchmark
from selfcell.benchmark.outcome_store import OutcomeStore
from selfcell.benchmark.planned import PlannedEncoder, PlannedStudy
from selfcell.benchmark.pretrainings import FailedPretraining, Pretraining, run_pretrainings
from selfcell.benchmark.results import SCORE_COLUMNS, StudyResults, read_results, trial_id
from selfcell.benchmark.sessions import sessions_of, with_session
from selfcell.benchmark.summaries import FORMAT_VERSION, PAIR_COLUMNS, between, classes, estimates
from selfcell.benchmark.table_files import write_tables
from selfcell.benchmark.time_left import TimeLeft, seconds_taken
from selfcell.benchmark.trials import Failure, Outcome, Workplace
from selfcell.benchmark.verdicts import over_targets, verdicts
from selfcell.core.atomic import atomic_folder, write_json
from selfcell.core.cluster import dask_client
from selfcell.core.errors import InputError, NoWorkplaceError
from selfcell.core.reading import read_json
from selfcell.core.words import file_name
from selfcell.core.write_errors import CannotWriteError
from selfcell.downstream import DOWNSTREAM_TASKS
from selfcell.training.run_folder import TrainedModel, describe_environment, read_manifest

logger = logging.getLogger(__name__)

STUDIES = "studies"
TABLES = ("scores", "resamples", "confusion")
WHICH = ("target", "corpus", "encoder")
"""Columns that come first in every table."""
PRETRAINING = "pretraining"
"""The ``method`` of a row that tells of a pre-training that failed."""
STUDY = "study"
"""The ``method`` of a row that tells why a target could not be asked of an encoder at all."""


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
        Write the tables as CSV too, as is done anyway where they were once.

    Returns
    -------
    One row a score: the columns of :data:`WHICH`, then those of :data:`selfcell.benchmark.results.SCORE_COLUMNS`.

    Raises
    ------
    InputError
        If the plan, its cells or the folder cannot be worked with; before any training.
    """
    started, when = time.perf_counter(), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    benchmark = Benchmark.open(Path(plan), Path(out), only=only)
    workplace = workplace or Workplace(keep_going=True)
    fingerprints = benchmark.check_cells()
    benchmark.check_models()
    benchmark.check_targets()
    if workplace.dask is not None:
        dask_client(workplace.dask).close()
    benchmark.claim(Path(plan), fingerprints)
    runs, every = benchmark.runs(), benchmark.pretrainings()
    failed = _forget_failures(benchmark, every) if retry_failed else set()
    run_pretrainings(every, benchmark.corpus_cells, workplace)
    studies = benchmark.studies()
    time_left = TimeLeft(list(expected_trials(benchmark)) if len(studies) > 1 else [])
    session = _Session(benchmark, workplace, time_left, failed)
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    for place, planned in enumerate(studies, start=1):
        logger.info("%d of %d: %s, %s.%s", place, len(studies), planned.target, planned.encoder.title, str(time_left))
        trained = [one.result() for one in runs[planned.encoder]]
        for name, table in _tables_of(session, planned, trained).items():
            tables[name].append(table)
        time_left.drop(planned)
    joined = {name: _joined([*parts, _of_others(benchmark, name)]) for name, parts in tables.items()}
    headlines = {name: DOWNSTREAM_TASKS[one.task].headline for name, one in benchmark.plan.targets.items()}
    of_all = joined["scores"], joined["resamples"], headlines
    joined["verdicts"] = verdicts(*of_all)
    joined["over_targets"] = over_targets(joined["verdicts"])
    joined["estimates"] = estimates(*of_all)
    joined["classes"] = classes(joined["confusion"])
    about = _about(benchmark, fingerprints, every)
    sizes = {(row["corpus"], row["encoder"]): row["n_train"] for row in about["pretrainings"]}
    of_pairs = [between("encoder", *of_all), between("corpus", *of_all, sizes=sizes)]
    joined["pairs"] = _joined(of_pairs, columns=PAIR_COLUMNS)
    about["tables"] = write_tables(joined, benchmark.out, csv=csv)
    told = {"when": when, **describe_environment(), "seconds": round(time.perf_counter() - started, 1)}
    about["sessions"] = with_session(_earlier_sessions(benchmark.out), told)
    write_json(benchmark.out / "benchmark.json", about)
    return joined["scores"]


@dataclass(frozen=True)
class _Session:
    """What is at hand while targets are gone through."""

    benchmark: Benchmark
    workplace: Workplace
    time_left: TimeLeft
    failed: set[str]
    """Ids of trials that failed in earlier sessions and are to be tried again."""

    def forget_failures(self, work_ids: set[str]) -> None:
        """Have those of a target tried again, once: what several targets share may fail again for the first of them."""
        for work_id in self.failed & work_ids:
            self.benchmark.store.forget(work_id)
        self.failed.difference_update(work_ids)


def _of_others(benchmark: Benchmark, table: str) -> pd.DataFrame:
    """Give the rows that a table has of targets that are not asked now, and are in the plan with their encoder."""
    file = benchmark.out / f"{table}.parquet"
    if not file.exists():
        return pd.DataFrame()
    rows = pd.read_parquet(file)
    studies = [one for one in benchmark.every_study() if one.target not in benchmark.targets]
    others = {(one.target, one.encoder.corpus, one.encoder.encoder) for one in studies}
    return rows[[which in others for which in zip(*(rows[name] for name in WHICH), strict=True)]]


def _tables_of(
    session: "_Session", planned: PlannedStudy, trained: list[TrainedModel | FailedPretraining]
) -> dict[str, pd.DataFrame]:
    """Give the tables of a study, running what is missing."""
    which = {"target": planned.target, "corpus": planned.encoder.corpus, "encoder": planned.encoder.encoder}
    models = [one for one in trained if isinstance(one, TrainedModel)]
    tables = {name: pd.DataFrame() for name in TABLES}
    failed = [
        {
            "method": PRETRAINING,
            "pretrain_seed": one.seed,
            "error": one.error,
            # One for all targets.
            "work_id": trial_id(corpus=which["corpus"], encoder=which["encoder"], seed=one.seed),
        }
        for one in trained
        if isinstance(one, FailedPretraining)
    ]
    if models:
        try:
            results = _results_of(session, planned, models)
            tables = {name: getattr(results, name) for name in TABLES}
        except (CannotWriteError, NoWorkplaceError):
            raise
        except InputError as error:
            logger.warning("%s, %s cannot be asked: %s", planned.target, planned.encoder.title, error)
            failed.append(
                {"method": STUDY, "pretrain_seed": None, "error": str(error), "work_id": trial_id(**which, seed=None)}
            )
    for row in failed:
        row |= {"task": planned.plan.task, "trial_id": trial_id(**which, seed=row["pretrain_seed"])}
    if failed:
        tables["scores"] = _joined([tables["scores"], pd.DataFrame(failed, columns=list(SCORE_COLUMNS))])
    return {name: table.assign(**which)[[*WHICH, *table.columns]] for name, table in tables.items()}


def _results_of(session: "_Session", planned: PlannedStudy, models: list[TrainedModel]) -> StudyResults:
    """Give the results of a study: those of its folder, if they are of the same trials, or new ones."""
    benchmark = session.benchmark
    folder = _folder(benchmark, planned)
    study = benchmark.study(planned, models)
    session.forget_failures({study.work_id(trial) for trial in study.trials})
    identity = trial_id(trials=[study.work_id(trial) for trial in study.trials], test_cells=study.test_cells)
    missing, started = study.missing(benchmark.store), time.perf_counter()
    if not missing and (kept := _kept_results(folder, identity, benchmark.store)) is not None:
        return kept
    results = study.run(session.workplace, store=benchmark.store)
    took = seconds_taken(study, missing, benchmark.store)
    session.time_left.learn(planned, took, clock=time.perf_counter() - started)
    title = benchmark.plan.targets[planned.target].title or planned.target
    results.about.update(title=title, planned_target=planned.target, corpus=planned.encoder.corpus, identity=identity)
    results.about.update(encoder=planned.encoder.encoder)
    with atomic_folder(folder) as temporary:
        results.write(temporary)
    # As any later start reads them: tables round, and the same numbers must come of both.
    return read_results(folder)


def _kept_results(folder: Path, identity: str, store: OutcomeStore) -> StudyResults | None:
    """Give the results in a folder; None if they are not whole, of other trials, or older than an outcome."""
    if not (folder / "study.json").exists():
        return None
    try:
        results = read_results(folder)
    except InputError as error:
        logger.warning("The tables of %s are made anew from the trials that are kept: %s", folder, error)
        return None
    failed = results.scores.loc[results.scores["error"].notna(), "work_id"].unique()
    # What failed here may have gone well on another machine, and been merged.
    is_old = any(isinstance(store.read(work_id), Outcome) for work_id in failed)
    is_whole = results.about.get("identity") == identity and "relation" in results.about
    return results if is_whole and not is_old else None


def _folder(benchmark: Benchmark, planned: PlannedStudy) -> Path:
    return benchmark.out / STUDIES / file_name(planned.target) / file_name(planned.encoder.title)


def _forget_failures(benchmark: Benchmark, pretrainings: Sequence[Pretraining]) -> set[str]:
    """Have pre-trainings tried again that failed, and give the ids of trials that did."""
    for one in pretrainings:
        one.forget_failure()
    return {work_id for work_id in benchmark.store if isinstance(benchmark.store.read(work_id), Failure)}


def _joined(parts: Sequence[pd.DataFrame], *, columns: Sequence[str] = (*WHICH, *SCORE_COLUMNS)) -> pd.DataFrame:
    filled = [part for part in parts if not part.empty]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(columns))


def _about(
    benchmark: Benchmark, fingerprints: dict[str, Fingerprint], pretrainings: Sequence[Pretraining]
) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "name": benchmark.plan.name,
        "title": benchmark.plan.title or benchmark.plan.name,
        "plan": benchmark.plan.model_dump(mode="json"),
        "cells": fingerprints,
        "pretrainings": _facts_of_runs(benchmark, pretrainings),
        "seen": _what_was_seen(benchmark),
        "settings": _settings(benchmark),
        **describe_environment(),
    }


def _settings(benchmark: Benchmark) -> dict[str, Any]:
    """Give the settings of every encoder that is trained here, and of every target's task, defaults too."""
    studies = benchmark.every_study()
    settings = {
        (one.encoder.corpus, one.encoder.encoder): one.encoder.settings.model_dump(mode="json")
        for one in studies
        if isinstance(one.encoder, PlannedEncoder)
    }
    return {
        "encoders": [
            {"corpus": corpus, "encoder": encoder, "settings": of_encoder}
            for (corpus, encoder), of_encoder in settings.items()
        ],
        "targets": {one.target: one.plan.task_settings.model_dump(mode="json") for one in studies},
    }


def _earlier_sessions(out: Path) -> list[dict[str, Any]]:
    file = out / "benchmark.json"
    return sessions_of(read_json(file)) if file.exists() else []


def _what_was_seen(benchmark: Benchmark) -> list[dict[str, str | None]]:
    """Give, of all studies of the plan, what pre-training was given of their cells, or may have been."""
    files = [_folder(benchmark, study) / "study.json" for study in benchmark.every_study()]
    found = [read_json(file) for file in files if file.exists()]
    return [
        {
            "target": about["planned_target"],
            "corpus": about["corpus"],
            "encoder": about["encoder"],
            "relation": about.get("relation", "unknown"),
            "note": about["seen_note"],
        }
        for about in found
    ]


def _facts_of_runs(benchmark: Benchmark, runs: Sequence[Pretraining]) -> list[dict[str, Any]]:
    """Give what the page says of pre-trainings: of these, and of others of the plan that the folder tells of."""
    file = benchmark.out / "benchmark.json"
    planned = {(one.encoder.corpus, one.encoder.encoder) for one in benchmark.every_study()}
    facts = {}
    for row in read_json(file)["pretrainings"] if file.exists() else []:
        if (row["corpus"], row["encoder"]) in planned:
            facts[row["corpus"], row["encoder"], row["seed"]] = row
    for run in (run for run in runs if run.is_finished):
        manifest = read_manifest(run.path)
        row = {"corpus": run.encoder.corpus, "encoder": run.encoder.encoder, "seed": run.seed}
        row |= {"n_train": manifest["data"]["n_train"], "seconds": manifest["fit"]["seconds"]}
        facts[run.encoder.corpus, run.encoder.encoder, run.seed] = row
    return list(facts.values())
