"""What every objective is: a function of a minibatch and of a source of randomness."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from selfcell.core.config import Settings as AnySettings
from selfcell.data.minibatch import CellMinibatch
from selfcell.network.encoder import MlpEncoder


@dataclass(frozen=True)
class Loss:
    """A loss with what is worth logging beside it."""

    total: Tensor
    """The scalar to minimise."""
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    """Named scalars, detached."""


class Objective(nn.Module, abc.ABC):
    """An encoder with a loss; the interface of pretext and of fine-tuning tasks alike.

    All randomness of the loss but dropout's comes from the generator, so the loss is a function of its arguments.
    """

    encoder: MlpEncoder

    @abc.abstractmethod
    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:
        """Give the loss of a minibatch."""


class PretextTask(Objective, abc.ABC):
    """An objective that needs no labels. Its ``Settings`` are the ``[pretext]`` section."""

    Settings: ClassVar[type[AnySettings]]

    @abc.abstractmethod
    def __init__(self, settings: Any, *, encoder: MlpEncoder) -> None:
        """Add the heads that the task needs to the encoder; ``settings`` is of the task's ``Settings``."""
        super().__init__()
