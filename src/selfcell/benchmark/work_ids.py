"""What determines the outcome of a trial, as one hash: settings, cells, truth, weights, code."""

import functools
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from selfcell.baselines.find import PRECOMPUTED, module_of
from selfcell.benchmark.results import trial_id
from selfcell.benchmark.study_plan import StudyPlan
from selfcell.benchmark.trials import Trial
from selfcell.core.code_version import code_version
from selfcell.core.digest import digest_of
from selfcell.data.source import Cells
from selfcell.downstream import REGIMES
from selfcell.downstream.base import DownstreamTask
from selfcell.training.run_folder import TrainedModel


class WorkIds:
    """The ids of the trials of one study; trials that are one computation have the same.

    Parameters
    ----------
    plan, task, cells, models
        As in :class:`selfcell.benchmark.study.Study`; the cells aligned to the models' genes.
    trainable, test
        Positions of the cells to train and to judge on.
    """

    def __init__(
        self,
        plan: StudyPlan,
        task: DownstreamTask,
        cells: Cells,
        models: Sequence[TrainedModel],
        *,
        trainable: np.ndarray,
        test: np.ndarray,
    ) -> None:
        self._plan, self._task, self._cells, self._models = plan, task, cells, models
        self._trainable, self._test = trainable, test
        self._known: dict[Hashable, str] = {}

    def of(self, trial: Trial) -> str:
        """Give the id of a trial."""
        if trial.key not in self._known:
            self._known[trial.key] = self._make(trial)
        return self._known[trial.key]

    def _make(self, trial: Trial) -> str:
        modules = {type(self._task).__module__, "selfcell.downstream.supervised"}
        if trial.method not in REGIMES:
            modules.add(module_of(self._plan.task, trial.method))
        takes_pretext = trial.needs_model or (trial.method in REGIMES and self._task.takes_from_pretext)
        manifest = self._models[0].manifest
        return trial_id(
            task=self._plan.task,
            method=trial.method,
            seed=trial.seed if trial.has_seed else None,
            settings=trial.settings.model_dump(mode="json"),
            labelled=digest_of(trial.labelled),
            cells=self._of_cells,
            precomputed=self._of_precomputed(trial.method),
            network=self._models[0].encoder.settings.model_dump(mode="json"),
            pretext=[manifest.get(name) for name in ("pretext", "pretext_settings")] if takes_pretext else None,
            weights=self._models[trial.model].weights_digest if trial.needs_model else None,
            code=code_version(modules),
            **self._task.identity(),
        )

    @functools.cached_property
    def _of_cells(self) -> dict[str, Any]:
        """Hash counts, truth, parts, and what else is known of the cells and used."""
        named = {role: self._cells.obs[key] for role, key in self._plan.columns._asdict().items() if key is not None}
        named |= {key: self._cells.obsm[key] for key in self._task.obsm_keys(self._plan.task_settings)}
        named |= {"trainable": self._trainable, "test": self._test}
        if self._cells.measured is not None:
            named["measured"] = self._cells.measured
        return {"counts": self._cells.fingerprint(), **{name: digest_of(values) for name, values in named.items()}}

    def _of_precomputed(self, method: str) -> str | None:
        return digest_of(self._cells.obsm[method.removeprefix(PRECOMPUTED)]) if method.startswith(PRECOMPUTED) else None
