"""Gene-expression reconstruction: what a decoder makes of cells of unseen donors, whole or partly hidden."""

import functools
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field

from selfcell.core.errors import InputError
from selfcell.data.minibatch import CellMinibatch
from selfcell.data.source import Cells
from selfcell.data.splits import Split
from selfcell.downstream.base import Columns, DownstreamTask, EncodedCells, SupervisedSettings, TaskScores
from selfcell.downstream.decoding import (
    decoder_settings,
    forecast_by_decoder,
    has_decoder,
    load_autoencoder,
    load_decoder,
    require_decoder,
)
from selfcell.downstream.hiding import hide_entries, hide_molecules
from selfcell.downstream.reconstruction_scores import Hiding, Reconstruction, score_reconstruction
from selfcell.downstream.resampling import TestUnits
from selfcell.downstream.supervised import FineTuningSettings, Start, Supervised, TrainingPlace, train_supervised
from selfcell.network.encoder import MlpEncoder
from selfcell.pretext.base import Loss
from selfcell.pretext.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderSettings
from selfcell.training.fit import FitOutcome
from selfcell.training.run_folder import TrainedModel


class ReconstructionTrainingSettings(FineTuningSettings):
    """The optimizer of probe, fine-tuning and training from scratch alike: the paper's rates for autoencoders."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate at the start, or after the warm-up."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay: decoupled with adamw; with lars added to the gradients, and not on biases and norms."""


class ReconstructionSettings(SupervisedSettings):
    """Settings of gene-expression reconstruction."""

    training: ReconstructionTrainingSettings = ReconstructionTrainingSettings()
    """Optimizer of probe, fine_tuned and from_scratch."""
    hide: Literal["entries", "molecules", "nothing"] = "entries"
    """What is hidden from test cells for the scores of imputation: entries, the whole counts of genes, zeros too;
    molecules, some of each count (molecular cross-validation); or nothing, and there are no such scores."""
    hidden_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the entries or molecules of each test cell to hide, between 0 and 1, both excluded."""
    hidden_seed: int = Field(default=0, ge=0)
    """Seed of what is hidden, the same for every method."""
    n_neighbors: int = Field(default=15, ge=1)
    """Training cells that the baseline knn_smoothing averages."""


class Reconstructor(Supervised):
    """An encoder with a decoder, trained by the loss of a plain autoencoder: that of pre-training, nothing hidden.

    Parameters
    ----------
    encoder
        Trained along, unless it is frozen.
    settings
        Those of an autoencoder that hides nothing.
    """

    def __init__(self, encoder: MlpEncoder, settings: MaskedAutoencoderSettings) -> None:
        super().__init__()
        autoencoder = MaskedAutoencoder(settings, encoder=encoder)
        self.encoder, self.decoder, self.likelihood = encoder, autoencoder.decoder, autoencoder.likelihood
        # In a tuple, since a module in an attribute would have its weights listed twice.
        self._autoencoder = (autoencoder,)

    @property
    def autoencoder(self) -> MaskedAutoencoder:
        """Encoder and decoder together."""
        return self._autoencoder[0]

    def begin_from(self, model: TrainedModel) -> None:
        """Take over the pre-trained weights: the encoder's and, if it was trained with one, the decoder's."""
        super().begin_from(model)
        if has_decoder(model):
            load_decoder(self.autoencoder, model)

    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:
        """Mean loss over all entries."""
        return Loss(total=self.autoencoder.compute_loss(minibatch, generator=generator).total)


class ReconstructionTask(DownstreamTask):
    """Reconstruct the expression of all genes of test cells :cite:p:`richter2025`.

    Two questions are asked. Whole cells are shown and reconstructed, as in the paper; a method that copies its input
    would be perfect. And cells are shown of which some counts are hidden, which are to be predicted
    (:mod:`selfcell.downstream.hiding`).

    ==================  ============================================================================================
    regime              what reconstructs
    ==================  ============================================================================================
    ``zero_shot``       encoder and decoder of a masked autoencoder as pre-training left them
    ``probe``           the frozen encoder, with a decoder that is trained
    ``fine_tuned``      both, trained from the pre-trained weights
    ``from_scratch``    both, trained from random weights
    ==================  ============================================================================================

    Training takes the loss of the pre-training over all entries, with nothing hidden. A decoder begins from its
    pre-trained weights where there are any and ``from_scratch`` is not asked for; a run without a decoder, such as
    BYOL's, gets a new one with the squared error, and has no ``zero_shot``.

    Parameters
    ----------
    settings
        Settings.
    """

    name = "reconstruction"
    Settings = ReconstructionSettings
    headline = "explained_variance_weighted"
    regimes_of_decoder = frozenset({"zero_shot"})
    takes_from_pretext = True
    answers_in_space = False
    settings: ReconstructionSettings

    def __init__(self, settings: ReconstructionSettings) -> None:
        self.settings = settings

    @classmethod
    def of(cls, settings: ReconstructionSettings, cells: Cells, columns: Columns) -> "ReconstructionTask":  # noqa: ARG003
        """Take the cells themselves for the truth; no column is needed.

        Raises
        ------
        InputError
            If molecules are to be hidden of what is no whole counts.
        """
        if settings.hide == "molecules":
            _require_whole_counts(cells, what="Hiding molecules (hide=molecules)", remedy="take hide=entries")
        return cls(settings)

    def check(self, model: TrainedModel, cells: Cells, *, regime: str) -> None:
        """Refuse zero_shot of a run without a decoder, and to train a likelihood of counts on what is no counts."""
        if regime == "zero_shot":
            require_decoder(
                model,
                remedy="It cannot reconstruct as it is: leave zero_shot out, and take probe, which trains a decoder on "
                "the frozen encoder (--regime probe --regime fine_tuned --regime from_scratch, or regimes=...).",
            )
        elif (likelihood := decoder_settings(model).likelihood) != "squared_error":
            _require_whole_counts(
                cells,
                what=f"The loss of {model.path} ({likelihood})",
                remedy="take a model that was pre-trained with pretext.likelihood=squared_error",
            )

    def predict(self, encoded: EncodedCells, split: Split, *, regime: str, seed: int) -> Reconstruction:
        """Give the autoencoder of a regime, to reconstruct the cells of ``split.test`` block by block."""
        self.check(encoded.model, encoded.cells, regime=regime)
        if regime == "zero_shot":
            autoencoder = load_autoencoder(encoded.model)
        else:
            trained = self.trained(encoded, split, regime=regime, seed=seed)
            assert isinstance(trained, Reconstructor)
            autoencoder = trained.eval().autoencoder
        return Reconstruction.of(encoded.cells, split.test, functools.partial(forecast_by_decoder, autoencoder))

    def answer_in_space(self, space: Float[np.ndarray, "n_cells n_dimensions"], split: Split) -> Reconstruction:  # noqa: ARG002
        """Refuse.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError("The task reconstruction has no answer from an embedding alone. Leave obsm:KEY out.")

    def score(self, predicted: Reconstruction, split: Split, units: TestUnits) -> TaskScores:
        """Score whole cells and hidden counts; see :func:`score_reconstruction`."""
        return score_reconstruction(predicted, split.test, units, hide=self._hiding())

    def train(
        self, start: Start, cells: Cells, split: Split, *, place: TrainingPlace
    ) -> tuple[Reconstructor, FitOutcome]:
        """Train an autoencoder; see :meth:`DownstreamTask.train`."""
        settings = decoder_settings(start.model)
        make = functools.partial(Reconstructor, settings=settings)
        return train_supervised(make, start, cells, split, self.settings.training, codes={}, place=place)

    def _hiding(self) -> Hiding | None:
        if self.settings.hide == "nothing":
            return None
        hide = hide_entries if self.settings.hide == "entries" else hide_molecules
        return functools.partial(hide, fraction=self.settings.hidden_fraction, seed=self.settings.hidden_seed)


def _require_whole_counts(cells: Cells, *, what: str, remedy: str) -> None:
    if cells.scale == "counts" and np.all(cells.counts.data % 1 == 0):
        return
    found = "fractional" if cells.scale == "counts" else "log-normalized ones, undone"
    raise InputError(
        f"{what} needs raw whole counts, but the values of {cells.counts_address} are {found}. Name the layer with "
        f"the raw counts (--layer), or {remedy}."
    )
