"""The one LightningModule: it trains any objective."""

import functools

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from selfcell.core.seeds import derive_seed
from selfcell.data.minibatch import CellMinibatch
from selfcell.pretext.base import Loss, Objective, TargetNetworkTask
from selfcell.training.collapse import embedding_spread
from selfcell.training.schedule import learning_rate_factor, make_optimizer
from selfcell.training.settings import TrainingSettings


class ObjectiveModule(pl.LightningModule):
    """Minimise an objective.

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

    def on_train_batch_end(self, outputs: object, batch: CellMinibatch, batch_idx: int) -> None:
        """Let a target network follow, where the task has one, now that the optimizer has made its step."""
        if isinstance(self.objective, TargetNetworkTask):
            self.objective.update_target(progress=self.global_step / self.trainer.estimated_stepping_batches)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Give the optimizer, and a learning rate that changes by the schedule."""
        optimizer = make_optimizer(self.objective.parameters(), self.settings)
        steps_per_epoch = max(1, int(self.trainer.estimated_stepping_batches) // self.settings.max_epochs)
        factor = functools.partial(learning_rate_factor, settings=self.settings, steps_per_epoch=steps_per_epoch)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _generator(self, stream: str, place: int) -> torch.Generator:
        generator = torch.Generator(device=self.device)
        return generator.manual_seed(derive_seed(self.settings.seed, stream, place))

    def _log(self, part: str, loss: Loss, minibatch: CellMinibatch) -> None:
        values = {"loss": loss.total.detach(), **loss.terms}
        if loss.embedding is not None:
            values["embedding_spread"] = embedding_spread(loss.embedding)
        self.log_dict(
            {f"{part}_{name}": value for name, value in values.items()},
            on_step=False,
            on_epoch=True,
            batch_size=minibatch.n_cells,
        )
