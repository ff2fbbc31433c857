"""What every downstream task is: one question, asked of an encoder in every regime."""

import abc
import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from selfcell.core.config import Settings as AnySettings
from selfcell.core.seeds import numpy_rng
from selfcell.data.measured import as_measured
from selfcell.data.source import Cells
from selfcell.data.splits import Split
from selfcell.downstream.embed import embed_counts
from selfcell.downstream.resampling import TestUnits
from selfcell.downstream.supervised import FineTuningSettings, Start, Supervised, TrainingPlace
from selfcell.network.encoder import MlpEncoder
from selfcell.training.fit import FitOutcome
from selfcell.training.run_folder import TrainedModel

MOST_SHOWN = 2_000
"""Test cells that are shown in two dimensions."""


def shown_cells(rows: Int[np.ndarray, " n_rows"]) -> Int[np.ndarray, " n_shown"]:
    """Draw the test cells to show in two dimensions, the same whoever asks."""
    n_shown = min(MOST_SHOWN, len(rows))
    return np.sort(numpy_rng(0, "shown cells").choice(rows, n_shown, replace=False))


@dataclass(frozen=True)
class EncodedCells:
    """Cells in an encoder's order of genes, with their embedding, so that regimes share it."""

    cells: Cells
    model: TrainedModel
    embedding: np.ndarray

    @classmethod
    def of(cls, model: TrainedModel, cells: Cells) -> "EncodedCells":
        """Embed cells that are aligned to the model's genes, by those that were measured in all of them.

        Where a query lacks genes, the reference is shown without them too: networks learn from what both measure, as
        baselines do.
        """
        cells = as_measured(cells)
        return cls(cells, model, embed_counts(model.encoder, cells.counts))

    @property
    def encoder(self) -> MlpEncoder:
        """The pre-trained encoder."""
        return self.model.encoder


class Columns(NamedTuple):
    """The columns of ``obs`` that a task may read."""

    label: str | None = None
    """Cell type."""
    donor: str | None = None
    batch: str | None = None
    """The experiment a cell comes from."""


class TaskScores(NamedTuple):
    """How good an answer is."""

    values: dict[str, float]
    """Each score over all test cells."""
    resampled: dict[str, Float[np.ndarray, " n_draws"]]
    """Scores on every draw of test units, where they can be had so; see :mod:`selfcell.downstream.resampling`."""


class SupervisedSettings(AnySettings):
    """Settings of a downstream task; each task's own add to them."""

    training: FineTuningSettings = FineTuningSettings()
    """Optimizer of fine_tuned and from_scratch."""


TaskT = TypeVar("TaskT", bound="DownstreamTask")


class DownstreamTask(abc.ABC):
    """One question about cells, asked in every regime of ``REGIMES``.

    A task holds the truth of all cells it was made of; cells are named by their positions among them. ``predict`` may
    look at the truth of the training and validation parts of a split alone.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[SupervisedSettings]]
    headline: ClassVar[str]
    """The score that verdicts go by; larger is better."""
    settings: Any
    seedless: ClassVar[frozenset[str]] = frozenset({"zero_shot"})
    """Regimes whose answer depends on the encoder and the labelled cells alone, not on a seed."""
    regimes_of_decoder: ClassVar[frozenset[str]] = frozenset()
    """Regimes that take a decoder from pre-training."""
    takes_from_pretext: ClassVar[bool] = False
    """Whether even training from scratch takes its loss or decoder from the settings of the pretext task."""
    answers_in_space: ClassVar[bool] = True
    """Whether there is an answer from any embedding alone (:meth:`answer_in_space`)."""

    @classmethod
    @abc.abstractmethod
    def of(cls, settings: Any, cells: Cells, columns: Columns) -> "DownstreamTask":
        """Make the task for some cells, checking that they have what it needs.

        Raises
        ------
        InputError
            If a column or a modality is missing, or cannot be used.
        """

    @classmethod
    def obsm_keys(cls, settings: Any) -> tuple[str, ...]:  # noqa: ARG003
        """Give the keys of ``obsm`` that cells must have; none, unless a task says so."""
        return ()

    @classmethod
    def names_keys(cls, settings: Any) -> dict[str, str]:  # noqa: ARG003
        """Give the keys of ``uns`` that name the columns of a key of ``obsm``, where settings say; none, as a rule."""
        return {}

    def with_settings(self: TaskT, settings: Any) -> TaskT:
        """Give the same task, on the same cells, with other settings."""
        other = copy.copy(self)
        other.settings = settings
        return other

    def usable(self, rows: Int[np.ndarray, " n_rows"], *, reference: Int[np.ndarray, " n_reference"]) -> np.ndarray:
        """Give the test cells that can be judged, given what the reference has; all, unless a task says so."""
        return rows

    def check(self, model: TrainedModel, cells: Cells, *, regime: str) -> None:  # noqa: B027
        """Refuse, before any work, a regime in which a model cannot answer; none, unless a task says so.

        Parameters
        ----------
        model
            The pre-trained model.
        cells
            All cells, aligned to its genes.
        regime
            The regime.

        Raises
        ------
        InputError
            If the model or the cells lack what the regime needs.
        """

    def identity(self) -> dict[str, Any]:
        """Give what scores depend on besides counts, columns and ``obsm``, as hashes; a part of the ids of trials."""
        return {}

    def facts(self, rows: Int[np.ndarray, " n_rows"]) -> dict[str, int]:
        """Give what a row of scores says of its test cells besides their number."""
        return {}

    def prepare(self) -> None:  # noqa: B027 - most tasks have nothing to prepare
        """Compute what scoring needs of all cells; called once, before answers are scored in several processes."""

    @abc.abstractmethod
    def predict(self, encoded: EncodedCells, split: Split, *, regime: str, seed: int) -> Any:
        """Answer for the cells of ``split.test``, having seen the truth of ``train`` and ``validation`` only."""

    @abc.abstractmethod
    def answer_in_space(self, space: Float[np.ndarray, "n_cells n_dimensions"], split: Split) -> Any:
        """Answer from any embedding of all cells, with nothing trained: what zero_shot does with the encoder's.

        Raises
        ------
        InputError
            If the task has no answer from an embedding alone.
        """

    @abc.abstractmethod
    def score(self, predicted: Any, split: Split, units: TestUnits) -> TaskScores:
        """Score the answers over all test cells, and on every draw of test units."""

    def tables(self, predicted: Any, split: Split, units: TestUnits) -> dict[str, pd.DataFrame]:
        """Give what else is to be kept of the answers, as tables by name."""
        return {}

    def examine(
        self,
        encoded: EncodedCells,
        split: Split,
        *,
        donors: pd.Series | None,
        regimes: Sequence[str],
    ) -> dict[str, pd.DataFrame]:
        """Look more closely at the answers from one encoder, once, and give tables by name; none, unless a task does.

        Parameters
        ----------
        encoded
            The cells and the encoder.
        split
            All labelled cells, and those to judge on.
        donors
            Donor of each cell.
        regimes
            The regimes that are compared.
        """
        return {}

    @abc.abstractmethod
    def train(self, start: Start, cells: Cells, split: Split, *, place: TrainingPlace) -> tuple[Supervised, FitOutcome]:
        """Train encoder and head on the cells of ``split.train``, watching ``split.validation`` if there are any.

        Parameters
        ----------
        start
            The weights to begin from.
        cells
            All cells, in the order of the truth.
        split
            Which to train on.
        place
            Where logs and checkpoints go.
        """

    def trained(self, encoded: EncodedCells, split: Split, *, regime: str, seed: int) -> Supervised:
        """Train for a regime, leaving no files behind; ``probe`` trains the head alone."""
        training = self.settings.training.model_copy(update={"freeze_encoder": regime == "probe"})
        task = self.with_settings(self.settings.model_copy(update={"training": training}))
        start = Start(encoded.model, from_scratch=regime == "from_scratch", seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            return task.train(start, encoded.cells, split, place=TrainingPlace(Path(folder)))[0]

    def learned(self, objective: Supervised, cells: Cells, split: Split) -> dict[str, Any]:
        """Give what a manifest is to hold of how well the trained head did on ``split.validation``."""
        return {}

    def about(self) -> dict[str, Any]:
        """Give what a run's manifest must hold for its head to be used later."""
        return {}
