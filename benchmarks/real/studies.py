"""The real-data studies: which encoder, judged by which task, on which cells."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from real.corpora import STUDIES, cells_of

from selfcell.benchmark.query import joined_for_judging
from selfcell.benchmark.study import Study
from selfcell.benchmark.study_plan import LabelBudget, StudyPlan
from selfcell.benchmark.study_split import ChosenSplit
from selfcell.core.config import build
from selfcell.data.source import Cells
from selfcell.downstream import DOWNSTREAM_TASKS
from selfcell.training.run_folder import TrainedModel

ALL = LabelBudget()
FEW = (LabelBudget(2, 40), LabelBudget(5, 25), LabelBudget(None, 8))
Judged = Callable[[StudyPlan, list[TrainedModel]], tuple[Cells, ChosenSplit | None]]


@dataclass(frozen=True)
class RealStudy:
    """One study of the results page."""

    name: str
    title: str
    corpus: str
    judged: Judged
    plan: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the task."""

    def make(self, models: list[TrainedModel], *, n_seeds: int) -> Study:
        """Make the study for the encoders of the corpus."""
        task = self.plan.get("task", "cell_type")
        settings = build(DOWNSTREAM_TASKS[task].Settings, self.settings)
        plan = StudyPlan(**self.plan, settings=settings, seeds=tuple(range(n_seeds)), crossed=True, n_mapped=0)
        cells, split = self.judged(plan, models)
        return Study(plan, cells, models, split=split)


def _own(name: str) -> Judged:
    """Judge on cells of the corpus's own data set: those that the run set aside, or that the plan names."""
    return lambda _plan, _model: (cells_of(name), None)


def _some_of(name: str, n_cells: int) -> Judged:
    """Judge on some cells of a data set, drawn at random: integration trains on all of them in every trial."""
    cells = functools.cache(lambda: cells_of(name).subset(np.sort(_drawn(len(cells_of(name)), n_cells))))
    return lambda _plan, _model: (cells(), None)


def _drawn(n_all: int, n_cells: int) -> np.ndarray:
    return np.random.default_rng(0).choice(n_all, n_cells, replace=False)


def _unseen(reference: str, query: str) -> Judged:
    """Learn from one data set, judge on another."""

    def judged(plan: StudyPlan, models: list[TrainedModel]) -> tuple[Cells, ChosenSplit | None]:
        return joined_for_judging(cells_of(reference), cells_of(query), plan, models, allow_low_overlap=True)

    return judged


def _beside(task: str, *on_request: str) -> dict[str, Any]:
    """Compare with the usual baselines of a task and with others."""
    return {"task": task, "baselines": ("usual", *on_request)}


_TYPES = _beside("cell_type", "scvi", "scanvi")
_OTHER_SET = _beside("cell_type", "root_logistic_regression", "scvi", "scanvi")
_INTEGRATION = _beside("integration", "harmony", "scvi", "scanvi")
_TOTALVI = _beside("cross_modality", "totalvi")
_LIU = {"label_key": "mergedcelltype", "donor_key": "Donor", "batch_key": "Batch"}
_PANCREAS = {"label_key": "cell_type", "donor_key": "donor_id", "batch_key": "Dataset"}
_PROTEINS = {"task": "cross_modality", "label_key": None, "donor_key": "Donor"}


def _studies() -> list[RealStudy]:
    liu, pancreas = _own("liu_covid_pbmc"), _own("pancreas_4_studies")
    return [
        RealStudy("types_liu", "Blood, donors never seen", "liu", liu, {**_TYPES, **_LIU, "budgets": FEW}),
        RealStudy(
            "types_liu_transfer",
            "Blood, pre-trained on other data sets alone",
            "blood",
            liu,
            {
                **_LIU,
                "budgets": (LabelBudget(2, 40), LabelBudget(5, 25), LabelBudget(fraction=0.01, max_epochs=100), ALL),
            },
        ),
        *_on_genes("", "2,000 genes"),
        *_on_genes("_all_genes", "all genes"),
        *(
            RealStudy(
                f"types_liu_to_{query.split('_')[0]}",
                f"Blood, learned from liu_covid_pbmc, judged on {query}",
                "liu",
                _unseen("liu_covid_pbmc", query),
                {**_OTHER_SET, "label_key": "blood_type"},
                {"training": {"max_epochs": 8}},
            )
            for query in ("kang_ifnb", "teaseq_pbmc", "pbmc3k")
        ),
        RealStudy(
            "proteins_liu",
            "192 proteins, donors never seen",
            "liu",
            liu,
            {**_TOTALVI, **_PROTEINS},
            _target("protein_counts"),
        ),
        RealStudy(
            "proteins_liu_batch",
            "192 proteins, a batch never seen",
            "liu",
            liu,
            {**_PROTEINS, "test_where": "Batch == 'B1'"},
            _target("protein_counts"),
        ),
        RealStudy(
            "proteins_liu_to_teaseq",
            "Proteins that both sets measure, learned from liu_covid_pbmc, judged on teaseq_pbmc",
            "liu",
            _unseen("liu_covid_pbmc", "teaseq_pbmc"),
            {"task": "cross_modality"},
            _target("protein_counts"),
        ),
        RealStudy(
            "chromatin_teaseq",
            "14,732 gene activities of chromatin",
            "teaseq_train",
            _own("teaseq_pbmc"),
            {"task": "cross_modality", "test_where": "source_split == 'test'"},
            _target("atac_counts"),
        ),
        RealStudy(
            "chromatin_snareseq",
            "136,771 peaks, four cell lines",
            "snareseq",
            _own("snareseq_cell_lines"),
            {"task": "cross_modality"},
            _target("atac_counts"),
        ),
        RealStudy(
            "integration_pancreas", "Pancreas, four studies", "pancreas", pancreas, {**_INTEGRATION, **_PANCREAS}
        ),
        RealStudy(
            "integration_liu",
            "Blood, three batches (6,000 cells)",
            "liu",
            _some_of("liu_covid_pbmc", 6_000),
            {**_INTEGRATION, **_LIU},
        ),
        RealStudy("expression_liu", "Blood, donors never seen", "liu", liu, {**_LIU, "task": "reconstruction"}),
        RealStudy(
            "expression_pancreas",
            "Pancreas, donors never seen",
            "pancreas",
            pancreas,
            {**_PANCREAS, "task": "reconstruction"},
        ),
    ]


def _on_genes(suffix: str, genes: str) -> list[RealStudy]:
    """Give the studies that are run on the most variable genes, and on all."""
    return [
        *(
            RealStudy(
                f"types_pancreas_{study.split()[0]}{suffix}",
                f"Pancreas, {study} never seen ({genes})",
                f"pancreas_without_{study.split()[0]}{suffix}",
                _own("pancreas_4_studies"),
                {**_TYPES, **_PANCREAS, "test_where": f"Dataset == '{study}'"},
                {"training": {"max_epochs": 15, "minibatch_size": 64}},
            )
            for study in STUDIES
        ),
        RealStudy(
            f"types_kang{suffix}",
            f"Blood, learned from control, judged on stimulated cells ({genes})",
            f"kang_control{suffix}",
            _own("kang_ifnb"),
            {"label_key": "cell_type", "test_where": "condition == 'stimulated'"},
        ),
    ]


def _target(key: str) -> dict[str, Any]:
    return {"target": key}


@functools.cache
def real_studies() -> dict[str, RealStudy]:
    """Give all studies by name."""
    return {study.name: study for study in _studies()}
