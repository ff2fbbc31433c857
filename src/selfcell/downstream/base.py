"""What every downstream task is: one question, asked of an encoder in every regime."""

import abc
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from selfcell.core.config import Settings as AnySettings
from selfcell.data.source import Cells
from selfcell.data.splits import Split
from selfcell.downstream.embed import embed_counts
from selfcell.network.encoder import MlpEncoder
from selfcell.training.run_folder import TrainedModel


@dataclass(frozen=True)
class EncodedCells:
    """Cells in an encoder's order of genes, with their embedding, so that regimes share it."""

    cells: Cells
    encoder: MlpEncoder
    embedding: np.ndarray

    @classmethod
    def of(cls, model: TrainedModel, cells: Cells) -> "EncodedCells":
        """Embed cells that are aligned to the model's genes."""
        return cls(cells, model.encoder, embed_counts(model.encoder, cells.counts))


class DownstreamTask(abc.ABC):
    """One question about cells. Its ``Settings`` hold what may be chosen; its regimes are those of ``REGIMES``."""

    Settings: ClassVar[type[AnySettings]]

    @abc.abstractmethod
    def predict(self, encoded: EncodedCells, split: Split, *, regime: str, seed: int) -> np.ndarray:
        """Answer for the cells of ``split.test``, having seen the truth of ``train`` and ``validation`` only."""

    @abc.abstractmethod
    def score(self, predicted: np.ndarray, split: Split) -> dict[str, float]:
        """Score the answers."""
