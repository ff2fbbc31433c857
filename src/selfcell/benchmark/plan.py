"""A benchmark's plan: a TOML file that says which cells, encoders, targets, baselines, label budgets and seeds.

``[cells.NAME]``     where cells are, and what their columns are called
``[corpora.NAME]``   what is pre-trained on: cells, and settings of pre-training
``[encoders.NAME]``  how: settings of pre-training that come on top, and a grid of further ones
``[models.NAME]``    models that are trained already, such as published ones
``[targets.NAME]``   what is asked: task, cells, label budgets, baselines, and which corpora and encoders
``[seeds]``          of pre-training and of fine-tuning

Every encoder is pre-trained on every corpus with every seed of pre-training, once, however many targets use it.
"""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt

from selfcell.benchmark.planned import GivenEncoder, PlannedEncoder, PlannedStudy
from selfcell.benchmark.results import GIVEN
from selfcell.benchmark.study_plan import JUDGED_BY_TYPES, USUAL, LabelBudget, StudyPlan, check_plan
from selfcell.core.config import Settings, build, read_toml, with_overrides
from selfcell.core.errors import InputError, did_you_mean
from selfcell.data.counts import Scale
from selfcell.downstream import DOWNSTREAM_TASKS, REGIMES
from selfcell.training.presets import preset
from selfcell.training.settings import PretrainSettings

EVERY = "every"


class SeedSettings(Settings):
    """Seeds; every pre-training is fine-tuned with every seed of fine-tuning."""

    pretraining: tuple[NonNegativeInt, ...] = (0, 1, 2)
    """One encoder each."""
    finetuning: tuple[NonNegativeInt, ...] = (0, 1, 2)
    """One training for the task each, and one draw of labelled cells."""


class CellsSettings(Settings):
    """Where cells are, and what their columns are called."""

    source: str | tuple[str, ...]
    """A data set by name, a file, beside the plan if not absolute, or several that are put together."""
    label: str | None = None
    """Column of obs with the cell type."""
    donor: str | None = None
    """Column of obs with the donor."""
    batch: str | None = None
    """Column of obs with the batch, the experiment a cell comes from."""
    label_map: str | None = None
    """A table with the columns from and to, beside the plan: types under other names, so that data sets agree."""
    genes_with: str | None = None
    """Keep the genes for which all columns of var of this name, which may have a * in it, are true."""
    genes_of: str | None = None
    """Put the cells on the genes of these other cells of the plan."""
    where: str | None = None
    """Keep the cells for which this holds, written as for pandas."""
    layer: str | None = None
    """Layer with the raw counts."""
    scale: Scale = "auto"
    """What the values are: auto, counts or log1p."""
    gene_column: str | None = None
    """Column of var that names the genes."""


class CorpusSettings(Settings):
    """Cells to pre-train on."""

    cells: str
    """Name of the cells."""
    preset: str | None = None
    """Settings of one of the paper's models to begin from."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of pre-training, in sections as in a TOML file of selfcell pretrain."""


class EncoderPlan(Settings):
    """A way of pre-training."""

    preset: str | None = None
    """Settings of one of the paper's models to begin from."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of pre-training, over those of the corpus."""
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Settings to vary, such as "pretext.mask_fraction" = [0.25, 0.5]: one encoder for every combination."""


class ModelPlan(Settings):
    """A model that is trained already: of an earlier run, of the Hub, or imported."""

    source: str | tuple[str, ...]
    """A run folder, beside the plan if not absolute, or a model on the Hub; several that differ in their seed alone."""


class BudgetPlan(Settings):
    """How much is labelled."""

    donors: int | None = Field(default=None, ge=1)
    """Labelled donors; all if left out."""
    fraction: float | None = Field(default=None, gt=0, lt=1)
    """Share of the training cells that are labelled, instead."""
    max_epochs: int | None = Field(default=None, ge=1)
    """Epochs of fine-tuning and of training from scratch; the task's setting if left out."""


class TargetPlan(Settings):
    """One question asked of encoders."""

    cells: str
    """Name of the cells to learn from; some of their donors are judged on, unless a query is named."""
    title: str | None = None
    """What reports call it; its name if left out."""
    task: str = "cell_type"
    """The downstream task."""
    query: str | None = None
    """Name of the cells to judge on, of another data set."""
    test_where: str | None = None
    """The cells to judge on, by a query over obs."""
    test_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Share of the cells to judge on, where pre-training has set none aside; 0.3 if left out."""
    corpora: tuple[str, ...] = (EVERY,)
    """Names of corpora whose encoders are asked."""
    encoders: tuple[str, ...] = (EVERY,)
    """Names of encoders; one with a grid stands for all of its combinations."""
    models: tuple[str, ...] = (EVERY,)
    """Names of models that are trained already."""
    regimes: tuple[str, ...] = tuple(REGIMES)
    """Ways of using an encoder."""
    baselines: tuple[str, ...] = (USUAL,)
    """What encoders are compared with."""
    budgets: tuple[BudgetPlan, ...] = (BudgetPlan(),)
    """How much is labelled."""
    n_cells: int | None = Field(default=None, ge=2)
    """Take so many of the cells, drawn at random; all if left out."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the task."""


class Plan(Settings):
    """A whole benchmark."""

    name: str
    """What the results are of; a folder holds the results of plans of one name."""
    title: str | None = None
    """What reports are headed with."""
    seeds: SeedSettings = SeedSettings()
    """Of pre-training and of fine-tuning."""
    cells: dict[str, CellsSettings]
    """Cells by name."""
    corpora: dict[str, CorpusSettings] = Field(default_factory=dict)
    """What is pre-trained on, by name."""
    encoders: dict[str, EncoderPlan] = Field(default_factory=dict)
    """How, by name; in the default way alone if left out."""
    models: dict[str, ModelPlan] = Field(default_factory=dict)
    """Models that are trained already, by name."""
    targets: dict[str, TargetPlan]
    """What is asked, by name."""


def read_plan(path: Path) -> Plan:
    """Read a plan and check all that can be checked without reading cells.

    Raises
    ------
    InputError
        For what is unknown, missing, twice, or does not go together; with its place in the plan.
    """
    plan = build(Plan, read_toml(path))
    for what, names in (("cells", plan.cells), ("corpora", plan.corpora or plan.models), ("targets", plan.targets)):
        if not names:
            raise InputError(f"{path} has no [{what}.NAME].")
    _check_names_of_models(plan)
    for which, seeds in plan.seeds.model_dump().items():
        if not seeds or len(set(seeds)) < len(seeds):
            raise InputError(f"[seeds] {which}: {list(seeds)} must be different seeds, at least one.")
    _check_names_of_cells(plan)
    planned_studies(plan, planned_encoders(plan))
    return plan


def _check_names_of_cells(plan: Plan) -> None:
    for name, corpus in plan.corpora.items():
        _known(corpus.cells, plan.cells, f"[corpora.{name}] cells")
    for name, cells in plan.cells.items():
        if cells.genes_of is not None:
            _known(cells.genes_of, plan.cells, f"[cells.{name}] genes_of")
            _refuse_circle(name, plan.cells)


def _refuse_circle(name: str, cells: Mapping[str, CellsSettings]) -> None:
    passed = [name]
    while (following := cells[passed[-1]].genes_of) is not None and following in cells:
        if following in passed:
            raise InputError(f"[cells.{name}] genes_of goes in a circle: {' -> '.join([*passed, following])}.")
        passed.append(following)


def _check_names_of_models(plan: Plan) -> None:
    if GIVEN in plan.corpora:
        raise InputError(f"[corpora.{GIVEN}]: tables name models that were not trained here so; take another name.")
    for name in plan.models:
        if name in plan.encoders or (name == "default" and not plan.encoders):
            raise InputError(f"[models.{name}]: an encoder has this name; take another one.")


def planned_encoders(plan: Plan) -> list[PlannedEncoder | GivenEncoder]:
    """Give every encoder of a plan on every corpus, then the models that are there.

    Raises
    ------
    InputError
        If settings are unknown or out of their limits.
    """
    found: list[PlannedEncoder | GivenEncoder] = []
    for corpus_name, corpus in plan.corpora.items():
        for name, settings in _encoders_with_grids(plan):
            merged = _merged(corpus, settings)
            _refuse_seed_and_budget(merged, name, corpus_name)
            try:
                found.append(PlannedEncoder(corpus_name, name, build(PretrainSettings, merged)))
            except InputError as error:
                raise InputError(f"Pre-training {name} on {corpus_name}: {error}") from error
    for name, model in plan.models.items():
        found.append(GivenEncoder(name, (model.source,) if isinstance(model.source, str) else model.source))
    return found


def planned_studies(plan: Plan, encoders: list[PlannedEncoder | GivenEncoder]) -> list[PlannedStudy]:
    """Give every target with every encoder that is asked.

    Raises
    ------
    InputError
        If a name is unknown, or a target cannot be asked so.
    """
    return [
        PlannedStudy(name, encoder, study_plan)
        for name, target in plan.targets.items()
        for study_plan in [_study_plan(plan, name, target)]
        for encoder in _asked(plan, name, target, encoders)
    ]


def _encoders_with_grids(plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give settings by name; a combination of a grid is called after it."""
    for name, encoder in (plan.encoders or {"default": EncoderPlan()}).items():
        begin = preset(encoder.preset) if encoder.preset is not None else {}
        settings = _over(begin, encoder.settings)
        for values in itertools.product(*encoder.grid.values()):
            chosen = dict(zip(encoder.grid, values, strict=True))
            told = ", ".join([name, *(f"{address.rpartition('.')[2]} {value}" for address, value in chosen.items())])
            yield told, _with_addresses(settings, chosen, name)


def _with_addresses(settings: dict[str, Any], chosen: Mapping[str, Any], name: str) -> dict[str, Any]:
    for address, value in chosen.items():
        section, dot, setting = address.partition(".")
        if not dot:
            raise InputError(
                f'[encoders.{name}.grid] {address}: write "section.name", such as "pretext.mask_fraction".'
            )
        settings = _over(settings, {section: {setting: value}})
    return settings


def _merged(corpus: CorpusSettings, encoder: Mapping[str, Any]) -> dict[str, Any]:
    begin = preset(corpus.preset) if corpus.preset is not None else {}
    return _over(_over(begin, corpus.settings), encoder)


def _refuse_seed_and_budget(settings: Mapping[str, Any], encoder: str, corpus: str) -> None:
    training = settings.get("training")
    if isinstance(training, Mapping) and "seed" in training:
        raise InputError(
            f"Pre-training {encoder} on {corpus}: training.seed has no place in settings or a grid, as each encoder is "
            "trained with every seed of [seeds] pretraining. Name the seeds there."
        )
    if isinstance(training, Mapping) and training.get("budget") is not None:
        raise InputError(
            f"Pre-training {encoder} on {corpus}: with training.budget encoders would depend on the machine's speed. "
            "Say how long to train in epochs: training.max_epochs."
        )


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Put one set of sections over another."""
    merged = with_overrides(below, [])
    for section, content in above.items():
        before = merged.get(section)
        merged[section] = {**before, **content} if isinstance(before, dict) and isinstance(content, dict) else content
    return merged


def _study_plan(plan: Plan, name: str, target: TargetPlan) -> StudyPlan:
    where = f"[targets.{name}]"
    if target.task not in DOWNSTREAM_TASKS:
        raise InputError(f"{where} task {target.task!r}: {did_you_mean(target.task, list(DOWNSTREAM_TASKS))}")
    cells = _known(target.cells, plan.cells, f"{where} cells")
    if target.query is not None:
        _known(target.query, plan.cells, f"{where} query")
        if target.test_where is not None:
            raise InputError(f"{where}: judge on the cells of query, or on those of test_where, not on both.")
    if target.test_fraction is not None and (target.query or target.test_where) is not None:
        raise InputError(f"{where}: query or test_where names the cells to judge on, so leave test_fraction out.")
    if any(one.donors is not None and one.fraction is not None for one in target.budgets):
        raise InputError(f"{where} budgets: one counts donors, or takes a fraction of the cells, not both.")
    try:
        study = StudyPlan(
            label_key=cells.label if target.task in JUDGED_BY_TYPES else None,
            donor_key=cells.donor,
            batch_key=cells.batch,
            task=target.task,
            seeds=plan.seeds.finetuning,
            crossed=True,
            budgets=tuple(LabelBudget(one.donors, one.max_epochs, one.fraction) for one in target.budgets),
            regimes=target.regimes,
            baselines=target.baselines,
            settings=build(DOWNSTREAM_TASKS[target.task].Settings, target.settings),
            test_fraction=target.test_fraction,
            test_where=target.test_where,
        )
        check_plan(study)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if study.label_key is None and target.task in JUDGED_BY_TYPES:
        raise InputError(f"{where}: [cells.{target.cells}] must name the column of types: label.")
    return study


def _asked(
    plan: Plan, name: str, target: TargetPlan, encoders: list[PlannedEncoder | GivenEncoder]
) -> list[PlannedEncoder | GivenEncoder]:
    known = {
        "corpora": list(plan.corpora),
        "encoders": list(plan.encoders) or ["default"],
        "models": list(plan.models),
    }
    for what, names in known.items():
        for one in getattr(target, what):
            if one != EVERY and one not in names:
                raise InputError(f"[targets.{name}] {what}: unknown {one!r}. {did_you_mean(one, names)}")
    found = [encoder for encoder in encoders if _is_asked(target, encoder)]
    if not found:
        raise InputError(f"[targets.{name}] asks no encoder: name corpora and encoders, or models.")
    return found


def _is_asked(target: TargetPlan, encoder: PlannedEncoder | GivenEncoder) -> bool:
    if isinstance(encoder, GivenEncoder):
        return EVERY in target.models or encoder.encoder in target.models
    is_asked = EVERY in target.encoders or encoder.encoder.partition(", ")[0] in target.encoders
    return is_asked and (EVERY in target.corpora or encoder.corpus in target.corpora)


def _known(name: str, cells: Mapping[str, CellsSettings], where: str) -> CellsSettings:
    if name not in cells:
        raise InputError(f"{where}: there are no cells {name!r}. {did_you_mean(name, list(cells))}")
    return cells[name]
