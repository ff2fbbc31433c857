"""Train an encoder with a head, from pre-trained weights or from random ones: all that differs is the start."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeVar

import numpy as np
from pydantic import Field

from selfcell.core.seeds import derive_seed
from selfcell.data.loader import CellLoader, cell_loader
from selfcell.data.source import Cells
from selfcell.data.splits import Split
from selfcell.network.encoder import MlpEncoder
from selfcell.pretext.base import Objective
from selfcell.training.fit import FitOutcome, fit, seeded
from selfcell.training.run_folder import TrainedModel
from selfcell.training.settings import TrainingSettings


class FineTuningSettings(TrainingSettings):
    """The optimizer of fine-tuning and of training from scratch alike: the paper's rates for classifiers."""

    chooses_minibatch: ClassVar[bool] = False

    max_epochs: int = Field(default=20, ge=1)
    """Passes over the labelled training cells."""
    minibatch_size: int = Field(default=256, ge=1)
    """Cells whose loss is taken at once."""
    learning_rate: float = Field(default=9e-4, gt=0)
    """Learning rate at the start, or after the warm-up."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Weight decay: decoupled with adamw; with lars added to the gradients, and not on biases and norms."""
    patience: int = Field(default=0, ge=0)
    """Stop after so many epochs without a better validation loss, and keep the best weights; 0 trains all epochs and
    keeps the last ones, which does better where few donors are labelled."""
    freeze_encoder: bool = False
    """Train the head alone, and leave the encoder as it begins."""


class Supervised(Objective):
    """An encoder with a head, trained on what is known of cells. A frozen encoder stays as it is, without dropout."""

    frozen: bool = False

    def freeze_encoder(self) -> None:
        """Leave the encoder out of the training."""
        self.frozen = True
        self.encoder.requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> "Supervised":  # noqa: FBT001, FBT002 - torch's signature
        """Switch training on or off; a frozen encoder is never in training."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def begin_from(self, model: TrainedModel) -> None:
        """Take over the pre-trained weights: the encoder's, unless a task takes more."""
        self.encoder.load_state_dict(model.encoder.state_dict())


SupervisedT = TypeVar("SupervisedT", bound=Supervised)


class Start(NamedTuple):
    """What a training begins from."""

    model: TrainedModel
    """The network and, unless ``from_scratch``, the weights."""
    from_scratch: bool
    """Begin from random weights; all else is the same."""
    seed: int
    """Seed of weights, order and dropout."""


class TrainingPlace(NamedTuple):
    """Where a training run goes, and how it is shown."""

    out: Path
    resume: bool = False
    show_progress: bool = False


def train_supervised(
    make: Callable[[MlpEncoder], SupervisedT],
    start: Start,
    cells: Cells,
    split: Split,
    settings: FineTuningSettings,
    *,
    codes: Mapping[str, np.ndarray],
    place: TrainingPlace,
) -> tuple[SupervisedT, FitOutcome]:
    """Train an encoder and its head.

    Parameters
    ----------
    make
        Makes the objective around an encoder; its random weights are drawn from the seed, the same for either start.
    start
        The weights to begin from.
    cells
        All cells, aligned to the encoder's genes.
    split
        Which to train on, and which to watch the loss on.
    settings
        The optimizer.
    codes
        What the objective must know of each of ``cells``, by name.
    place
        Where logs and checkpoints go.

    Returns
    -------
    The trained objective, and how the training went.
    """
    network = start.model.encoder
    with seeded(start.seed, "supervised weights"):
        objective = make(MlpEncoder(network.settings, n_genes=network.n_genes))
    if not start.from_scratch:
        objective.begin_from(start.model)
    if settings.freeze_encoder:
        objective.freeze_encoder()
    training = settings.model_copy(update={"seed": derive_seed(start.seed, "fine-tuning") % 2**31})

    def loader(rows: np.ndarray, shuffle_seed: int | None) -> CellLoader:
        return cell_loader(
            cells.counts,
            codes=codes,
            minibatch_size=settings.cells_per_minibatch,
            shuffle_seed=shuffle_seed,
            positions=rows,
        )

    outcome = fit(
        objective,
        training,
        train=loader(split.train, training.seed),
        validation=loader(split.validation, None) if len(split.validation) else None,
        out=place.out,
        title="From scratch" if start.from_scratch else "Fine-tuning",
        resume=place.resume,
        show_progress=place.show_progress,
    )
    return objective, outcome
