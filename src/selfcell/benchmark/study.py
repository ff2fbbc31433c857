"""Compare regimes and baselines on held-out donors, at several label budgets, over seeds."""

import contextlib
import dataclasses
import datetime
import functools
import json
import logging
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from selfcell.baselines import SEEDLESS, SHARED
from selfcell.baselines.base import ComparedCells
from selfcell.baselines.find import PRECOMPUTED
from selfcell.baselines.spaces import precomputed_space
from selfcell.benchmark.given_models import check_models
from selfcell.benchmark.maps import MAP_COLUMNS, map_cells
from selfcell.benchmark.outcome_store import OutcomeStore
from selfcell.benchmark.records import Record, feature_means, in_tables
from selfcell.benchmark.results import StudyResults, trial_id
from selfcell.benchmark.seen import Relation, Seen, learned_from, relation_of, what_was_seen
from selfcell.benchmark.study_plan import LabelBudget, StudyPlan, check_plan
from selfcell.benchmark.study_split import (
    choose_split,
    draw_labelled,
    id_of_test_cells,
    warn_of_few_labelled,
    warn_of_few_neighbors,
    with_batches,
)
from selfcell.benchmark.trials import Contest, Failure, Outcome, Trial, Workplace, or_nothing, run_trials
from selfcell.benchmark.work_ids import WorkIds
from selfcell.core.config import to_toml
from selfcell.core.errors import InputError
from selfcell.core.reading import read_table
from selfcell.data.measured import as_measured
from selfcell.data.source import Cells, obs_column
from selfcell.data.splits import PARTS, Split
from selfcell.downstream import DOWNSTREAM_TASKS
from selfcell.downstream.base import EncodedCells, SupervisedSettings, shown_cells
from selfcell.downstream.resampling import TestUnits
from selfcell.training.run_folder import TrainedModel, describe_environment

logger = logging.getLogger(__name__)

_NO_MAP = pd.DataFrame(columns=list(MAP_COLUMNS))


class Study:
    """Everything that trials share: cells, truth, split, encoders.

    Parameters
    ----------
    plan
        What to compare.
    cells
        Cells of which the truth is known.
    models
        Pre-trained models that differ in their seed alone.
    split
        Which cells to train and judge on, instead of what :func:`choose_split` chooses.
    seen
        What the models have seen of the latter, instead of what :func:`what_was_seen` finds.
    allow_low_overlap
        Go on where the cells have under half of the encoder's genes.
    kept_in
        A folder for networks of baselines that other studies would train alike.
    """

    def __init__(
        self,
        plan: StudyPlan,
        cells: Cells,
        models: Sequence[TrainedModel],
        *,
        split: Split | None = None,
        seen: Seen | None = None,
        allow_low_overlap: bool = False,
        kept_in: Path | None = None,
    ) -> None:
        check_plan(plan)
        self.plan = plan
        self.models = list(models)
        check_models(self.models, crossed=plan.crossed)
        cells, self.batch_names = with_batches(cells, plan.batch_key)
        self.task = DOWNSTREAM_TASKS[plan.task].of(plan.task_settings, cells, plan.columns)
        self.donors = None if plan.donor_key is None else obs_column(cells.obs, plan.donor_key, role="donor")
        self.cells = cells.aligned_to(self.models[0].genes, allow_low_overlap=allow_low_overlap)
        self.split = choose_split(plan, self.cells, self.models, self.donors) if split is None else split
        self.seen = what_was_seen(self.models, self.cells, self.split.test) if seen is None else seen
        if (said := self.seen.sentence()) is not None:
            logger.warning("%s", said)
        self._check_methods()
        self.trainable = np.sort(np.concatenate([self.split.train, self.split.validation]))
        if not len(self.trainable) or not len(self.split.test):
            raise InputError(
                "These cells are all of donors that the model's run held out, or all of others: there must be both, to "
                "label by and to judge on."
            )
        test = self.task.usable(self.split.test, reference=self.trainable)
        self.left_out = np.setdiff1d(self.split.test, test)
        self.split = dataclasses.replace(self.split, test=test)
        self.compared = ComparedCells(
            self.cells,
            unlabelled=self.trainable,
            network=self.models[0].encoder.settings,
            batch_key=plan.batch_key,
            kept_in=kept_in,
        )
        warn_of_few_labelled(plan.budgets, self.trainable)
        self.trials = list(self._trials())
        largest_first = sorted(self.trials, key=lambda trial: -len(trial.labelled))
        n_labelled = {trial.budget: len(trial.labelled) for trial in largest_first}
        warn_of_few_neighbors(n_labelled, getattr(plan.task_settings, "n_neighbors", None))

    def _check_methods(self) -> None:
        """Refuse what some method could not work with, before any is run."""
        for model in self.models:
            for regime in self.plan.regimes:
                self.task.check(model, self.cells, regime=regime)
        for method in self.plan.methods:
            if method.startswith(PRECOMPUTED):
                precomputed_space(self.cells, method.removeprefix(PRECOMPUTED))

    def run(self, workplace: Workplace | None = None, *, store: OutcomeStore | None = None) -> StudyResults:
        """Run all trials.

        Parameters
        ----------
        workplace
            Where; by default in processes of this machine.
        store
            Where outcomes are kept and looked for: what is there already is not run again.
        """
        started = time.perf_counter()
        workplace = workplace or Workplace()
        outcomes = self._outcomes(workplace, store)
        records = [self._record(trial, outcomes[trial.key]) for trial in self.trials]
        return StudyResults(
            **in_tables(records),
            curves=self._curves(),
            cell_map=or_nothing(
                "The map of cells", functools.partial(self._map, outcomes), _NO_MAP, keep_going=workplace.keep_going
            ),
            details=self._examine(self._encoded[0], keep_going=workplace.keep_going)
            | feature_means(self.trials, outcomes),
            about=self._about(seconds=time.perf_counter() - started),
        )

    def missing(self, store: OutcomeStore) -> list[Trial]:
        """Give the distinct trials of which there is no outcome yet."""
        distinct = {trial.key: trial for trial in self.trials}
        return [trial for trial in distinct.values() if self.work_id(trial) not in store]

    def _outcomes(self, workplace: Workplace, store: OutcomeStore | None) -> dict[Hashable, Outcome | Failure]:
        """Give the outcome of every trial by key, from the store or by running it."""
        ids = {trial.key: self.work_id(trial) for trial in self.trials} if store is not None else {}
        known = {key: outcome for key, one in ids.items() if store and (outcome := store.read(one)) is not None}
        waiting = [trial for trial in self.trials if trial.key not in known]
        if known:
            n_left = len({trial.key for trial in waiting})
            logger.info("%s of %s trials are done already.", f"{len(known):,}", f"{len(known) + n_left:,}")
        if not waiting:
            return known

        def finished(trial: Trial, outcome: Outcome | Failure) -> None:
            if isinstance(outcome, Failure):
                logger.warning("%s, %s, seed %d failed: %s", trial.method, trial.budget, trial.seed, outcome.error)
            if store is not None:
                store.write(ids[trial.key], outcome)

        return known | run_trials(self._contest(waiting), waiting, workplace, finished=finished)

    def _contest(self, waiting: Sequence[Trial]) -> Contest:
        contest = Contest(
            task=self.task,
            compared=self.compared,
            encoded=self._encoded,
            test=self.split.test,
            units=self._units,
        )
        # Computed here once, so that it travels to the processes with the rest.
        self.task.prepare()
        for shared in {SHARED[trial.method] for trial in waiting if trial.method in SHARED}:
            # What fails here fails again in the trials that need it, and in no others.
            with contextlib.suppress(Exception):
                getattr(self.compared, shared)
        return contest

    @functools.cached_property
    def _encoded(self) -> tuple[EncodedCells, ...]:
        # Once, so that all models share one matrix.
        shown = as_measured(self.cells)
        return tuple(EncodedCells.of(model, shown) for model in self.models)

    def _examine(self, encoded: EncodedCells, *, keep_going: bool) -> dict[str, pd.DataFrame]:
        if not self.plan.examined:
            return {}
        split = dataclasses.replace(self.split, train=self.trainable, validation=self.split.validation[:0])
        task = self.task.with_settings(self._settings(max(self.plan.budgets, key=LabelBudget.is_all)))
        look = functools.partial(task.examine, encoded, split, donors=self.donors, regimes=self.plan.regimes)
        return or_nothing("A closer look at the answers", look, {}, keep_going=keep_going)

    def _trials(self) -> Iterator[Trial]:
        n_models = len(self.models)
        if self.plan.crossed:
            pairs = [(model, seed) for model in range(n_models) for seed in self.plan.seeds]
        else:
            pairs = [(place % n_models, seed) for place, seed in enumerate(self.plan.seeds)]
        for budget in self.plan.budgets:
            for model, seed in pairs:
                labelled = draw_labelled(budget, self.trainable, self.donors, seed=seed)
                settings = self._settings(budget)
                for method in self.plan.methods:
                    has_seed = method not in SEEDLESS | self.task.seedless
                    yield Trial(method, self._budget_name(budget), model, seed, labelled, settings, has_seed)

    def _budget_name(self, budget: LabelBudget) -> str:
        return budget.name(unit="cells" if self.donors is None else "donors")

    def _settings(self, budget: LabelBudget) -> SupervisedSettings:
        settings = self.plan.task_settings
        if budget.max_epochs is None:
            return settings
        training = settings.training.model_copy(update={"max_epochs": budget.max_epochs})
        return settings.model_copy(update={"training": training})

    def work_id(self, trial: Trial) -> str:
        """Give the hash of all that determines the outcome of a trial."""
        return self._work_ids.of(trial)

    @functools.cached_property
    def _work_ids(self) -> WorkIds:
        return WorkIds(
            self.plan,
            self.task,
            self.cells,
            self.models,
            trainable=self.trainable,
            test=self.split.test,
        )

    def _record(self, trial: Trial, outcome: Outcome | Failure) -> Record:
        """Give the rows of a trial."""
        model = self.models[trial.model]
        facts = {
            "dataset": self.cells.origin,
            "split": f"by {self.split.unit}",
            "task": self.plan.task,
            "method": trial.method,
            "budget": trial.budget,
            "pretrain_seed": model.manifest["seed"],
            "finetune_seed": trial.seed,
            "n_labelled_donors": None if self.donors is None else self.donors.iloc[trial.labelled].nunique(),
            "n_labelled_cells": len(trial.labelled),
            "n_cells": len(self.split.test),
            **self.task.facts(self.split.test),
            "n_units": len(self._units.names),
            "test_cells": self.test_cells,
            "pretext": model.manifest.get("pretext"),
            "pretext_settings": json.dumps(model.manifest.get("pretext_settings")),
        }
        work = self.work_id(trial)
        facts["work_id"] = work
        facts["trial_id"] = trial_id(work=work, pretrain_seed=model.manifest["seed"], finetune_seed=trial.seed)
        return Record.of(outcome, facts, headline=self.task.headline)

    @functools.cached_property
    def test_cells(self) -> str:
        """A hash of the cells that are judged on, and of their donors."""
        return id_of_test_cells(self.cells, self.split.test, self.donors)

    @functools.cached_property
    def _units(self) -> TestUnits:
        """Give what is resampled for intervals: the donor of each test cell or, without donors, a random block."""
        test = self.split.test
        if self.donors is None:
            return TestUnits.of_cells(len(test))
        return TestUnits.of(np.asarray(self.donors.iloc[test], dtype=object))

    def _curves(self) -> pd.DataFrame:
        logs = []
        for model in self.models:
            path = model.path / "log.csv"
            if path.exists():
                logs.append(read_table(path).assign(pretrain_seed=model.manifest["seed"]))
        return pd.concat(logs, ignore_index=True) if logs else pd.DataFrame({"epoch": [], "pretrain_seed": []})

    def _types_left_out(self) -> dict[str, int]:
        """Count the test cells of each type that no labelled cell has."""
        if self.plan.label_key is None or not len(self.left_out):
            return {}
        counts = self.cells.obs[self.plan.label_key].iloc[self.left_out].astype(str).value_counts()
        return {str(name): int(n_cells) for name, n_cells in counts.items()}

    def _map(self, outcomes: Mapping[Hashable, Outcome | Failure]) -> pd.DataFrame:
        if not self.plan.maps or (self.plan.label_key is None and self.batch_names is None):
            return _NO_MAP
        shown = shown_cells(self.split.test)
        spaces = {
            **self._trained_spaces(outcomes),
            "frozen embedding": self._encoded[0].embedding[shown],
            "PCA": self.compared.principal_components[shown],
        }
        batch = ["" for _ in shown] if self.batch_names is None else self.batch_names.iloc[shown]
        label = np.asarray(
            ["" for _ in shown] if self.plan.label_key is None else self.cells.obs[self.plan.label_key].iloc[shown],
            dtype=object,
        )
        return map_cells(spaces, label=label, batch=np.asarray(batch, dtype=object))

    def _trained_spaces(self, outcomes: Mapping[Hashable, Outcome | Failure]) -> dict[str, np.ndarray]:
        """Give the shown cells as the first fine-tuned network places them, where the task is to place cells."""
        for trial in self.trials:
            outcome = outcomes[trial.key]
            if trial.method == "fine_tuned" and isinstance(outcome, Outcome) and "shown" in outcome.tables:
                return {"fine-tuned embedding": outcome.tables["shown"].to_numpy(dtype=np.float32)}
        return {}

    def _relation(self) -> Relation:
        is_query, is_named = self.split.unit == "data set", self.plan.test_where is not None
        has_learned = None if is_query or is_named else learned_from(self.models, self.cells, self.trainable)
        return relation_of(self.seen, is_query=is_query, is_named=is_named, has_learned=has_learned)

    def _about(self, *, seconds: float) -> dict[str, Any]:
        parts = {part: getattr(self.split, part) for part in PARTS}
        settings = self.models[0].path / "config.toml"
        return {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "task": self.plan.task,
            "headline_metric": self.task.headline,
            "dataset": self.cells.origin,
            "n_cells": len(self.cells),
            "n_genes": len(self.cells.genes),
            "n_measured_genes": None if self.cells.measured is None else int(self.cells.measured.sum()),
            "label_key": self.plan.label_key,
            "donor_key": self.plan.donor_key,
            "is_query": self.split.unit == "data set",
            "has_seen": self.seen.any,
            "seen": dataclasses.asdict(self.seen),
            "seen_note": self.seen.sentence(),
            "relation": self._relation(),
            "left_out": self._types_left_out(),
            "batch_key": self.plan.batch_key,
            **{name: told for name, told in self.task.about().items() if isinstance(told, str)},
            "split": {
                part: {
                    "n_cells": len(rows),
                    "n_donors": None if self.donors is None else int(self.donors.iloc[rows].nunique()),
                }
                for part, rows in parts.items()
            },
            "budgets": [self._budget_name(budget) for budget in self.plan.budgets],
            "n_seeds": len(self.plan.seeds),
            "pretrain_seeds": [model.manifest["seed"] for model in self.models],
            "pretraining": [model.manifest.get("fit") for model in self.models],
            "weights": [model.weights_digest for model in self.models],
            "networks": [model.encoder.settings.model_dump(mode="json") for model in self.models],
            "settings": {
                "pretraining (the first run's config.toml)": settings.read_text("utf-8") if settings.exists() else "",
                self.plan.task: to_toml(self.plan.task_settings),
            },
            "seconds": {"comparison": round(seconds, 1)},
            **describe_environment(),
        }
