"""Whether an encoder gives all cells the same embedding."""

import logging

import lightning.pytorch as pl
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

logger = logging.getLogger(__name__)

COLLAPSED = 0.1
"""Spread below which an encoder is said to have collapsed; healthy ones had 0.5 to 0.97 on real cells."""


def embedding_spread(embedding: Float[Tensor, "n_cells n_latent"]) -> Float[Tensor, ""]:
    """Measure how far embeddings point in different directions :cite:p:`chen2021simsiam`.

    The standard deviation over cells of each dimension of the embeddings, scaled to length 1, averaged over dimensions
    and multiplied by the root of their number: 1 where directions are even, 0 where all cells have the same.
    """
    unit = functional.normalize(embedding, dim=1)
    spread: Tensor = unit.std(dim=0, correction=0).mean() * embedding.shape[1] ** 0.5
    return spread


class CollapseWatch(pl.Callback):
    """Warns once, after the epoch in which the spread of the embedding has come near zero."""

    def __init__(self) -> None:
        self.warned = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Look at what the epoch has logged."""
        spread = trainer.callback_metrics.get("train_embedding_spread")
        if spread is None or float(spread) >= COLLAPSED or self.warned:
            return
        self.warned = True
        logger.warning(
            "The embedding has collapsed: at epoch %d its spread is %.4f (1 is even, 0 the same for all cells), so it "
            "tells cells apart hardly or not at all. Try stronger pretext.views, another pretext task, or a lower "
            "training.learning_rate.",
            trainer.current_epoch + 1,
            float(spread),
        )
