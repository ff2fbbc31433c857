"""What a study compares: on how many labels, by which methods, with which seeds."""

import functools
from dataclasses import dataclass

from selfcell.baselines import usual_baselines
from selfcell.baselines.find import PRECOMPUTED, find_baseline
from selfcell.core.errors import InputError, did_you_mean
from selfcell.downstream import DOWNSTREAM_TASKS, REGIMES
from selfcell.downstream.base import Columns, SupervisedSettings
from selfcell.downstream.supervised import FineTuningSettings

JUDGED_BY_TYPES = frozenset({"cell_type", "integration"})
"""Tasks that need the types of cells."""
ALL = "all"
USUAL = "usual"
"""Stands for the baselines of a task that need no package of an extra and do not take long."""


@dataclass(frozen=True)
class LabelBudget:
    """How much of the training data bears labels."""

    n_donors: int | None = None
    """Labelled donors, drawn anew for each seed; None for all."""
    max_epochs: int | None = None
    """Epochs of fine-tuning and training from scratch; None for what the task's settings say."""
    fraction: float | None = None
    """Share of the training cells that are labelled, drawn anew for each seed, whatever their donors; None for all."""

    def is_all(self) -> bool:
        """Say whether all training cells are labelled."""
        return self.n_donors is None and self.fraction is None

    def name(self, *, unit: str) -> str:
        """Give what tables call it."""
        if self.fraction is not None:
            return f"{self.fraction:.3g} of the cells"
        if self.n_donors is not None:
            return f"{self.n_donors} donor{'s' if self.n_donors > 1 else ''}"
        return f"{ALL} {unit}"


@dataclass(frozen=True)
class StudyPlan:
    """What to compare."""

    label_key: str | None = None
    donor_key: str | None = None
    batch_key: str | None = None
    task: str = "cell_type"
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of fine-tuning, and of the draw of labelled cells."""
    crossed: bool = False
    """Fine-tune every pre-training with every seed; otherwise the seeds take the pre-trainings in turn."""
    budgets: tuple[LabelBudget, ...] = (LabelBudget(),)
    regimes: tuple[str, ...] = tuple(REGIMES)
    baselines: tuple[str, ...] = (USUAL,)
    """``usual`` stands for the usual ones of the task."""
    settings: SupervisedSettings | None = None
    """Of the task; None for its defaults."""
    test_fraction: float | None = None
    """Share of the cells to judge on, where the models' runs have not set cells aside; None for 0.3."""
    test_where: str | None = None
    """The cells to judge on, by a query over ``obs``; all others are for training."""
    maps: bool = True
    """Show test cells in two dimensions."""
    examined: bool = True
    """Look into the answers more closely: how far confidence can be trusted, types never seen."""

    @property
    def columns(self) -> Columns:
        """The columns of ``obs`` that are named."""
        return Columns(self.label_key, self.donor_key, self.batch_key)

    @functools.cached_property
    def methods(self) -> tuple[str, ...]:
        """Regimes and baselines, in the order of the tables."""
        usual = usual_baselines(self.task)
        named = [name for asked in self.baselines for name in (usual if asked == USUAL else (asked,))]
        return tuple(dict.fromkeys([*self.regimes, *named]))

    @functools.cached_property
    def task_settings(self) -> SupervisedSettings:
        """The settings of the task."""
        return DOWNSTREAM_TASKS[self.task].Settings() if self.settings is None else self.settings


def check_plan(plan: StudyPlan) -> None:
    """Refuse a plan that cannot be carried out.

    Raises
    ------
    InputError
        For an unknown regime or baseline, a label budget that is asked for twice, patience, or no seed.
    """
    for regime in plan.regimes:
        if regime not in REGIMES:
            raise InputError(f"Unknown regime {regime!r}. {did_you_mean(regime, list(REGIMES))}")
    for baseline in plan.baselines:
        _check_baseline(baseline, plan.task)
    names = [budget.name(unit="") for budget in plan.budgets]
    if len(set(names)) < len(names):
        raise InputError(f"A label budget is asked for twice: {', '.join(names)}.")
    _check_training(plan.task_settings.training)
    if not plan.seeds:
        raise InputError("At least one seed of fine-tuning is needed.")
    if len(set(plan.seeds)) < len(plan.seeds):
        raise InputError(f"A seed is listed twice: {', '.join(map(str, plan.seeds))}.")


def _check_training(training: FineTuningSettings) -> None:
    if training.patience:
        raise InputError("training.patience must be 0 here: a comparison holds no labelled cells out to stop by.")
    if training.freeze_encoder:
        raise InputError("training.freeze_encoder has no place here: the regime probe is the one that freezes.")
    if training.budget is not None:
        raise InputError(
            "training.budget has no place here: what a trial comes to would depend on the machine's speed."
        )
    if training.devices != 1 or training.nodes != 1:
        raise InputError("training.devices and nodes must be 1 here: trials run side by side, each in one process.")


def _check_baseline(name: str, task: str) -> None:
    if name == USUAL:
        return
    find_baseline(task, name)
    if name.startswith(PRECOMPUTED) and not DOWNSTREAM_TASKS[task].answers_in_space:
        raise InputError(
            f"The task {task} has no answer from an embedding alone: it needs a decoder, and the embedding of cells of "
            f"which counts are hidden. Leave {name} out."
        )
