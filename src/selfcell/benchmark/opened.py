"""A benchmark that is about to be run: its plan, its cells, its folder; refused where they do not go together."""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfcell.benchmark.fingerprints import Fingerprint, refuse_changed, together
from selfcell.benchmark.foreseen import foresee_run
from selfcell.benchmark.given_models import GivenModel, beside, check_models
from selfcell.benchmark.outcome_store import OutcomeStore
from selfcell.benchmark.plan import Plan, planned_encoders, planned_studies, read_plan
from selfcell.benchmark.plan_cells import PlanCells
from selfcell.benchmark.planned import GivenEncoder, PlannedEncoder, PlannedStudy
from selfcell.benchmark.pretrainings import Pretraining
from selfcell.benchmark.query import joined_for_judging, labelled_cells, with_column_renamed, with_label_renamed
from selfcell.benchmark.study import Study
from selfcell.benchmark.study_split import Run
from selfcell.benchmark.target_checks import check_target
from selfcell.benchmark.trials import unsaid
from selfcell.core.atomic import write_json, write_text
from selfcell.core.config import read_toml
from selfcell.core.errors import InputError, did_you_mean, speaking_of
from selfcell.core.reading import read_json
from selfcell.data.program_sources import PROGRAM_SOURCES
from selfcell.data.source import Cells
from selfcell.training.run_folder import TrainedModel
from selfcell.training.settings import DataSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Benchmark:
    """A plan, its cells, and the folder of its results."""

    plan: Plan
    cells: PlanCells
    folder: Path
    """What files in the plan are relative to."""
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
        return cls(plan, PlanCells(plan, file.parent), file.parent, out, tuple(only) or tuple(plan.targets))

    @property
    def store(self) -> OutcomeStore:
        """The outcomes of trials."""
        return OutcomeStore(self.out / "trials")

    def studies(self) -> list[PlannedStudy]:
        """Give every target that is asked now, with every encoder."""
        return [study for study in self.every_study() if study.target in self.targets]

    def every_study(self) -> list[PlannedStudy]:
        """Give every target of the plan with every encoder."""
        return planned_studies(self.plan, planned_encoders(self.plan))

    def runs(self) -> dict[PlannedEncoder | GivenEncoder, list[Pretraining] | list[GivenModel]]:
        """Give the runs of every encoder that a target asks, to be trained here or trained already."""
        return {encoder: self._runs_of(encoder) for encoder in dict.fromkeys(one.encoder for one in self.studies())}

    def _runs_of(self, encoder: PlannedEncoder | GivenEncoder) -> list[Pretraining] | list[GivenModel]:
        if isinstance(encoder, GivenEncoder):
            return [GivenModel(encoder, beside(self.folder, source)) for source in encoder.sources]
        fingerprint = self.cells.fingerprint_of_corpus(self.plan.corpora[encoder.corpus].cells, encoder.settings.data)
        programs = _programs_file(self.folder, encoder)
        return [
            Pretraining(encoder, seed, fingerprint, self.out / "runs", programs) for seed in self.plan.seeds.pretraining
        ]

    def pretrainings(self) -> list[Pretraining]:
        """Give the runs that are trained here."""
        return [one for runs in self.runs().values() for one in runs if isinstance(one, Pretraining)]

    def corpus_cells(self, corpus: str) -> Cells | Path:
        """Give the cells that a corpus is of, or the path of an atlas."""
        return self.cells.corpus(self.plan.corpora[corpus].cells)

    def check_cells(self) -> dict[str, Fingerprint]:
        """Read the cells of what is asked, and refuse what cannot work, before hours are spent.

        Returns
        -------
        The hashes of each.

        Raises
        ------
        InputError
            If cells cannot be read, were changed under results that are there, or share no type with their query.
        """
        logger.info("Reading the cells of the plan, and checking what is asked of them.")
        asked = {name: target for name, target in self.plan.targets.items() if name in self.targets}
        used = {name for target in asked.values() for name in (target.cells, target.query)}
        encoders = [study.encoder for study in self.studies()]
        used |= {self.plan.corpora[one.corpus].cells for one in encoders if isinstance(one, PlannedEncoder)}
        fingerprints = {name: self.cells.fingerprint(name) for name in self.plan.cells if name in used}
        for name, target in asked.items():
            if target.query is not None and target.task == "cell_type":
                self._check_labels(name, target.cells, target.query)
        file = self.out / "cells.json"
        if file.exists():
            before = read_json(file)
            old = [name for name in fingerprints if isinstance(before.get(name), str)]
            as_before = {name: self.cells.fingerprint_of_before(name) for name in old}
            refuse_changed(before, {**fingerprints, **as_before}, self.out)
        return fingerprints

    def check_targets(self) -> None:
        """Refuse targets that their cells or encoders do not fit, before hours are spent.

        Raises
        ------
        InputError
            With the name of the target.
        """
        # What is said of cells meanwhile is said again when they are used.
        with unsaid():
            encoders = dict.fromkeys(study.encoder for study in self.studies())
            split_of = functools.cache(self._foreseen)
            foreseen = {
                one: self._given(one) if isinstance(one, GivenEncoder) else split_of(one.corpus, one.settings.data)
                for one in encoders
            }
            for name in self.targets:
                studies = [study for study in self.studies() if study.target == name]
                with speaking_of(f"[targets.{name}]"):
                    check_target(studies, *self.cells_of(studies[0]), foreseen)

    def _foreseen(self, corpus: str, data: DataSettings) -> Sequence[Run]:
        with speaking_of(f"[corpora.{corpus}]"):
            return [foresee_run(data, self.corpus_cells(corpus))]

    def _given(self, encoder: GivenEncoder) -> Sequence[Run]:
        return [model for one in self._runs_of(encoder) if isinstance(model := one.result(), TrainedModel)]

    def check_models(self) -> None:
        """Load the models that are trained already, and refuse those that cannot be judged, before hours are spent.

        Raises
        ------
        InputError
            If one cannot be loaded, was fine-tuned, or does not go with others of its name.
        """
        for encoder, runs in self.runs().items():
            if isinstance(encoder, GivenEncoder):
                with speaking_of(f"[models.{encoder.encoder}]"):
                    check_models([one.result() for one in runs if isinstance(one, GivenModel)], crossed=True)

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
        return set(self.cells[name].obs[label].dropna().astype(str))

    def study(self, planned: PlannedStudy, models: Sequence[TrainedModel]) -> Study:
        """Make the study of a target for the encoders that were trained."""
        kept_in = self.out / "networks"
        cells, query = self.cells_of(planned)
        if query is None:
            return Study(planned.plan, cells, models, kept_in=kept_in)
        joined, split, seen = joined_for_judging(cells, query, planned.plan, models, allow_low_overlap=True)
        return Study(planned.plan, joined, models, split=split, seen=seen, kept_in=kept_in)

    def cells_of(self, planned: PlannedStudy) -> tuple[Cells, Cells | None]:
        """Give the cells of a target, and those of its query, with what their label is called in the former."""
        target, label_key = self.plan.targets[planned.target], planned.plan.label_key
        cells = labelled_cells(self.cells.some(target.cells, target.n_cells), label_key)
        if target.query is None:
            return cells, None
        named, named_in_query = self.plan.cells[target.cells], self.plan.cells[target.query]
        query_label_key = None if label_key is None else named_in_query.label
        query = labelled_cells(self.cells[target.query], query_label_key)
        for key, query_key in ((named.donor, named_in_query.donor), (named.batch, named_in_query.batch)):
            query = with_column_renamed(query, key, query_key)
        return cells, with_label_renamed(query, label_key, query_label_key)

    def claim(self, plan: Path, fingerprints: dict[str, Fingerprint]) -> None:
        """Write what the folder is of: the plan, and the hashes of the cells."""
        file = self.out / "cells.json"
        before = read_json(file) if file.exists() else {}
        # First, as by it the folder is known for a benchmark.
        write_text(self.out / "plan.toml", plan.read_text(encoding="utf-8"))
        write_json(file, together(before, fingerprints))


def _programs_file(folder: Path, encoder: PlannedEncoder) -> Path | None:
    """Give the file of gene programmes that a plan names, beside it if not absolute; None for a source by name.

    Raises
    ------
    InputError
        If there is neither.
    """
    named: str | None = encoder.settings.pretext.programs
    if named is None or named in PROGRAM_SOURCES:
        return None
    file = folder / named
    if not file.is_file():
        raise InputError(
            f"Pre-training {encoder.title}: pretext.programs {named!r} is no file beside the plan ({file}), nor a "
            f"named source. {did_you_mean(named, list(PROGRAM_SOURCES))}"
        )
    return file.resolve()


def _refuse_other_plan(plan: Plan, out: Path) -> None:
    if (out / "plan.toml").exists():
        other = read_toml(out / "plan.toml").get("name")
        if other != plan.name:
            raise InputError(f"{out} has the results of the plan {other!r}, not of {plan.name!r}. Name another folder.")
    elif out.exists() and (not out.is_dir() or any(not file.name.startswith(".") for file in out.iterdir())):
        raise InputError(f"{out} holds something that is no benchmark. Name another folder.")
