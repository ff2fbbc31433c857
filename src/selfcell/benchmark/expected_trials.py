"""The trials that a plan comes to, before any is run: how many of which method, and about how long each takes."""

import functools
import itertools
from collections.abc import Hashable, Iterator
from typing import NamedTuple, TypeAlias

from selfcell.baselines import SEEDLESS
from selfcell.benchmark.given_models import GivenModel
from selfcell.benchmark.opened import Benchmark
from selfcell.benchmark.planned import GivenEncoder, PlannedEncoder, PlannedStudy
from selfcell.benchmark.pretrainings import Pretraining
from selfcell.benchmark.study_plan import LabelBudget, StudyPlan
from selfcell.data.source import Cells
from selfcell.data.stream import AnyCells, open_any
from selfcell.downstream import DOWNSTREAM_TASKS, REGIMES
from selfcell.training.run_folder import TrainedModel
from selfcell.training.speed import measure_training_speed

_SECONDS_OF_FIT = 3.0
"""Of a method that trains no network, for 10,000 labelled cells of 1,000 genes, within a factor of 3."""
_SECONDS_OF_VARIATIONAL = {"scvi": 250.0, "scanvi": 350.0, "totalvi": 600.0}
"""As measured on two cores; they see a fixed number of cells, however many there are."""
_SECONDS_TO_MEASURE = 0.5

Runs: TypeAlias = list[Pretraining] | list[GivenModel]


class ExpectedTrials(NamedTuple):
    """The trials of one method of a target at one label budget."""

    planned: PlannedStudy
    method: str
    what: str
    """What tables call the method's trials."""
    budget: LabelBudget
    seeds: list[tuple[int, int]]
    """Of pre-training and fine-tuning, for each distinct trial; -1 where the answer does not depend on it."""
    seconds: float
    """A guess of what one takes."""


def expected_trials(benchmark: Benchmark) -> Iterator[ExpectedTrials]:
    """Give the distinct trials of what is asked now, done or not.

    What several encoders share is counted for the first of them.
    """
    runs = benchmark.runs()
    listed: set[Hashable] = set()
    for planned in benchmark.studies():
        of_encoder = runs[planned.encoder]
        for method in planned.plan.methods:
            work, what = _work(benchmark, planned, method, of_encoder)
            if work in listed:
                continue
            listed.add(work)
            for budget in planned.plan.budgets:
                seeds = _distinct_seeds(planned.plan, method, budget, of_encoder)
                seconds = _seconds(benchmark, planned, method, budget, of_encoder)
                yield ExpectedTrials(planned, method, what, budget, seeds, seconds)


def seconds_of_pretraining(benchmark: Benchmark, encoder: PlannedEncoder) -> float:
    """Guess what one pre-training takes."""
    cells, data, training = _corpus(benchmark, encoder), encoder.settings.data, encoder.settings.training
    n_train = len(cells) * (1 - data.validation_fraction - data.test_fraction) * data.train_donor_fraction
    minibatch_size = 256 if training.minibatch_size == "auto" else training.minibatch_size
    return float(training.max_epochs * n_train / _speed(_n_genes(cells, encoder), minibatch_size))


def _work(benchmark: Benchmark, planned: PlannedStudy, method: str, runs: Runs) -> tuple[Hashable, str]:
    """Tell what a method's trials are the work of, and what to call them."""
    target, encoder = benchmark.plan.targets[planned.target], planned.encoder
    if method in REGIMES and (method != "from_scratch" or DOWNSTREAM_TASKS[target.task].takes_from_pretext):
        return (planned.target, method, encoder.title), f"{planned.target}: {method} ({encoder.title})"
    if isinstance(encoder, GivenEncoder):
        genes: Hashable = _given(runs).genes.ids
        network = _given(runs).encoder.settings
    else:
        has_all = encoder.settings.data.n_top_genes is None
        genes = _corpus(benchmark, encoder).genes.ids if has_all else encoder.corpus
        network = encoder.settings.network
    return (planned.target, method, genes, network.model_dump_json()), f"{planned.target}: {method}"


def _distinct_seeds(plan: StudyPlan, method: str, budget: LabelBudget, runs: Runs) -> list[tuple[int, int]]:
    """Give the seeds that a method is run with: one, -1, for all models or seeds that it does not depend on."""
    draws_labels = budget.n_donors is not None or budget.fraction is not None
    has_seed = draws_labels or method not in SEEDLESS | DOWNSTREAM_TASKS[plan.task].seedless
    needs_model = method in REGIMES and method != "from_scratch"
    of_models = [_seed_of(run) for run in runs] if needs_model else [-1]
    return list(itertools.product(of_models, plan.seeds if has_seed else [-1]))


def _seed_of(run: Pretraining | GivenModel) -> int:
    if isinstance(run, Pretraining):
        return run.seed
    model = run.result()
    return int(model.manifest["seed"])


def _seconds(benchmark: Benchmark, planned: PlannedStudy, method: str, budget: LabelBudget, runs: Runs) -> float:
    if method in _SECONDS_OF_VARIATIONAL:
        return _SECONDS_OF_VARIATIONAL[method]
    target = benchmark.plan.targets[planned.target]
    cells = benchmark.cells[target.cells]
    n_labelled = _n_labelled(cells, planned, budget, target.n_cells)
    encoder = planned.encoder
    n_genes = len(_given(runs).genes) if isinstance(encoder, GivenEncoder) else _n_genes(cells, encoder)
    trains = method in {"fine_tuned", "from_scratch"} or (
        method == "probe" and target.task in {"reconstruction", "integration"}
    )
    if not trains:
        share = 0.1 if method in REGIMES else 1.0
        return 0.2 + share * _SECONDS_OF_FIT * n_labelled / 10_000 * max(n_genes / 1_000, 1)
    training = planned.plan.task_settings.training
    epochs = budget.max_epochs or training.max_epochs
    seconds: float = epochs * n_labelled / _speed(n_genes, training.minibatch_size)
    return seconds


def _n_labelled(cells: Cells, planned: PlannedStudy, budget: LabelBudget, n_cells: int | None) -> float:
    n_trainable = (1 - (planned.plan.test_fraction or 0.3)) * min(n_cells or len(cells), len(cells))
    if budget.fraction is not None:
        return budget.fraction * n_trainable
    if budget.n_donors is not None and planned.plan.donor_key is not None:
        return n_trainable * min(budget.n_donors / int(cells.obs[planned.plan.donor_key].nunique()), 1.0)
    return n_trainable


def _given(runs: Runs) -> TrainedModel:
    """Give the first of the models that are trained already."""
    model = runs[0].result()
    assert isinstance(model, TrainedModel)
    return model


def _corpus(benchmark: Benchmark, encoder: PlannedEncoder) -> AnyCells:
    cells = benchmark.corpus_cells(encoder.corpus)
    return cells if isinstance(cells, Cells) else open_any(cells)


def _n_genes(cells: AnyCells, encoder: PlannedEncoder) -> int:
    return min(encoder.settings.data.n_top_genes or len(cells.genes), len(cells.genes))


@functools.cache
def _speed(n_genes: int, minibatch_size: int) -> float:
    return measure_training_speed(n_genes=n_genes, minibatch_size=minibatch_size, seconds=_SECONDS_TO_MEASURE)
