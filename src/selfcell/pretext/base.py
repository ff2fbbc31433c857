"""What every objective is: a function of a minibatch and of a source of randomness."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from selfcell.core.config import Settings as AnySettings
from selfcell.data.minibatch import CellMinibatch
from selfcell.data.programs import GenePrograms
from selfcell.network.encoder import MlpEncoder


@dataclass(frozen=True)
class Loss:
    """A loss with what is worth logging beside it."""

    total: Tensor
    """The scalar to minimise."""
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    """Named scalars, detached."""
    embedding: Tensor | None = None
    """What the encoder gave for the cells, detached: cells x n_latent. Its spread is watched for collapse."""


class Objective(nn.Module, abc.ABC):
    """An encoder with a loss; the interface of pretext and of fine-tuning tasks alike.

    All randomness of the loss but dropout's comes from the generator, so the loss is a function of its arguments.
    """

    encoder: MlpEncoder

    @abc.abstractmethod
    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:
        """Give the loss of a minibatch."""


class PretextSettings(AnySettings):
    """Settings that every pretext task has."""

    name: str
    """The pretext task; `selfcell list` names them all."""
    programs: str | None = None
    """Gene programmes: a name that `selfcell programs` lists, or a path of a GMT file or a table of source,target."""
    program_min_genes: int = Field(default=5, ge=2)
    """Leave out programmes with fewer genes among those of the cells."""
    program_max_genes: int | None = Field(default=None, ge=2)
    """Leave out programmes with more genes among those of the cells; none keeps them all."""
    program_min_coverage: float = Field(default=0.0, ge=0, le=1)
    """Leave out programmes of which a smaller share of genes is among those of the cells, between 0 and 1."""

    @property
    def uses_programs(self) -> bool:
        """Whether the task needs gene programmes with these settings."""
        return False

    @property
    def uses_regulons(self) -> bool:
        """Whether these programmes must be the targets of transcription factors."""
        return False

    @property
    def uses_batches(self) -> bool:
        """Whether the task needs to know the batch of each cell, as ``codes["batch"]`` of a minibatch."""
        return False

    @property
    def needs_counts(self) -> bool:
        """Whether the task needs whole counts; without, it takes whatever can be normalised."""
        return False


class PretextTask(Objective, abc.ABC):
    """An objective that needs no labels. Its ``Settings`` are the ``[pretext]`` section."""

    Settings: ClassVar[type[PretextSettings]]
    compares_cells: ClassVar[bool] = False
    """Whether the loss of a cell depends on the other cells of its minibatch, of which there must then be two."""
    moving_target: ClassVar[bool] = False
    """Whether the loss is measured against something that training moves, so that it cannot tell when to stop."""

    @abc.abstractmethod
    def __init__(self, settings: Any, *, encoder: MlpEncoder, programs: GenePrograms | None = None) -> None:
        """Add the heads that the task needs to the encoder.

        Parameters
        ----------
        settings
            Of the task's ``Settings``.
        encoder
            The network to train.
        programs
            Gene programmes on the encoder's genes, where the settings ask for them.
        """
        super().__init__()


class TargetNetworkTask(PretextTask, abc.ABC):
    """A pretext task whose target follows what is trained: a moving average, a queue of past projections."""

    follows_progress: ClassVar[bool] = True
    """Whether the way in which the target moves changes with the share of the training that is done."""

    @abc.abstractmethod
    def update_target(self, *, progress: float) -> None:
        """Move the target; called after every optimizer step.

        Parameters
        ----------
        progress
            The share of the training's optimizer steps that have been made: 1 after the last.
        """
