"""The one LightningModule: it trains any objective."""

import functools
from collections.abc import Callable
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from selfcell.core.seeds import derive_seed
from selfcell.data.loader import CellLoader
from selfcell.data.minibatch import CellMinibatch
from selfcell.pretext.base import Loss, Objective, TargetNetworkTask
from selfcell.training.collapse import embedding_spread
from selfcell.training.finite import FiniteLosses
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
        self.losses = FiniteLosses()

    def on_train_epoch_start(self) -> None:
        """Tell the loader the epoch; it begins when the first minibatch is asked for."""
        cast("CellLoader", self.trainer.train_dataloader).set_epoch(self.current_epoch)

    def training_step(self, minibatch: CellMinibatch, batch_idx: int) -> Tensor:
        """Compute the loss of one step."""
        # Dropout draws from torch's global stream, which nothing but this step may have moved.
        torch.manual_seed(derive_seed(self.settings.seed, "dropout", self.global_step, *self._process()))
        loss = self.objective.compute_loss(minibatch, generator=self._generator("masks", self.global_step))
        self.losses.watch(loss.total, step=self.global_step, epoch=self.current_epoch)
        self._log("train", loss, minibatch)
        # Gradients are averaged over the processes, whatever their numbers of cells.
        return loss.total * minibatch.weight

    def on_train_batch_end(self, outputs: Any, batch: CellMinibatch, batch_idx: int) -> None:
        """Look at what was put off, after the last step of an epoch."""
        if self.trainer.is_last_batch:
            self.losses.look()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write no weights that came of a loss that is no number."""
        self.losses.look()

    def validation_step(self, minibatch: CellMinibatch, batch_idx: int) -> None:
        """Compute the loss on held-out cells, with masks fixed by the place of the minibatch."""
        loss = self.objective.compute_loss(minibatch, generator=self._generator("validation masks", batch_idx))
        self._log("validation", loss, minibatch)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Make a step, and let a target network follow where the task has one; before any checkpoint of the step."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if isinstance(self.objective, TargetNetworkTask):
            n_steps = self.global_step + 1  # this one is not counted yet
            self.objective.update_target(progress=n_steps / self.trainer.estimated_stepping_batches)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Give the optimizer, and a learning rate that changes by the schedule."""
        optimizer = make_optimizer(self.objective.parameters(), self.settings)
        # The trainer's own estimate would set the loaders up before they are told where a resumed epoch goes on.
        steps_per_epoch = len(self.trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
        factor = functools.partial(learning_rate_factor, settings=self.settings, steps_per_epoch=steps_per_epoch)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _generator(self, stream: str, place: int) -> torch.Generator:
        generator = torch.Generator(device=self.device)
        return generator.manual_seed(derive_seed(self.settings.seed, stream, place, *self._process()))

    def _process(self) -> tuple[int, ...]:
        """Give what tells the processes' random numbers apart; the first has those that it would have alone."""
        return (self.global_rank,) if self.global_rank else ()

    def _log(self, part: str, loss: Loss, minibatch: CellMinibatch) -> None:
        values = {"loss": loss.total.detach(), **loss.terms}
        if loss.embedding is not None:
            values["embedding_spread"] = embedding_spread(loss.embedding)
        self.log_dict(
            {f"{part}_{name}": value for name, value in values.items()},
            on_step=False,
            on_epoch=True,
            batch_size=minibatch.n_cells,
            sync_dist=True,
        )
