"""The one LightningModule: it trains any objective."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from selfcell.core.seeds import derive_seed
from selfcell.data.minibatch import CellMinibatch
from selfcell.pretext.base import Loss, Objective
from selfcell.training.settings import TrainingSettings


class ObjectiveModule(pl.LightningModule):
    """Minimise an objective with AdamW.

    Every step draws from generators that depend on the seed and the step alone, so a resumed run repeats what an
    uninterrupted one would have done. The validation loss uses the same masks every time it is computed.

    Parameters
    ----------
    objective
        What to train.
    settings
        Optimizer and seed.
    """

    def __init__(self, objective: Objective, settings: TrainingSettings) -> None:
        super().__init__()
        self.objective = objective
        self.settings = settings

    def training_step(self, minibatch: CellMinibatch, batch_idx: int) -> Tensor:
        """Compute the loss of one step."""
        # Dropout draws from torch's global stream, which nothing but this step may have moved.
        torch.manual_seed(derive_seed(self.settings.seed, "dropout", self.global_step))
        loss = self.objective.compute_loss(minibatch, generator=self._generator("masks", self.global_step))
        if not torch.isfinite(loss.total):
            raise FloatingPointError(
                f"The training loss is {loss.total.item()} at step {self.global_step} (epoch {self.current_epoch}). "
                "Lower training.learning_rate; the last checkpoint is of the end of the epoch before."
            )
        self._log("train", loss, minibatch)
        return loss.total

    def validation_step(self, minibatch: CellMinibatch, batch_idx: int) -> None:
        """Compute the loss on held-out cells, with masks fixed by the place of the minibatch."""
        loss = self.objective.compute_loss(minibatch, generator=self._generator("validation masks", batch_idx))
        self._log("validation", loss, minibatch)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Give AdamW, and a learning rate that falls in steps of epochs."""
        trained = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay, fused=True
        )
        scheduler = torch.optim.lr_scheduler.StepLR(
            optimizer, step_size=self.settings.decay_every_epochs, gamma=self.settings.learning_rate_decay
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def _generator(self, stream: str, place: int) -> torch.Generator:
        generator = torch.Generator(device=self.device)
        return generator.manual_seed(derive_seed(self.settings.seed, stream, place))

    def _log(self, part: str, loss: Loss, minibatch: CellMinibatch) -> None:
        values = {"loss": loss.total.detach(), **loss.terms}
        self.log_dict(
            {f"{part}_{name}": value for name, value in values.items()},
            on_step=False,
            on_epoch=True,
            batch_size=minibatch.n_cells,
        )
