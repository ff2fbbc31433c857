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

from selfcell.core.memory import give_back_unused
from selfcell.core.seeds import derive_seed
from selfcell.data.minibatch import CellMinibatch
from selfcell.pretext.base import Loss, Objective, TargetNetworkTask
from selfcell.training.accumulation import recount_minibatches, share_of_step, steps_of_an_epoch
from selfcell.training.collapse import embedding_spread
from selfcell.training.finite import FiniteWatch
from selfcell.training.means import CellMeans, log_means, summed_over
from selfcell.training.schedule import learning_rate_factor, make_optimizer
from selfcell.training.settings import TrainingSettings
from selfcell.training.waiting import TimedLoader


class ObjectiveModule(pl.LightningModule):
    """Minimise an objective.

    Every minibatch draws from generators that depend on the seed and its place alone, so a resumed run repeats what an
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
        self.training_means = CellMeans()
        self._validation_means = CellMeans()
        self._losses = FiniteWatch("training loss")
        self._norms = FiniteWatch("norm of the gradient")

    def on_train_epoch_start(self) -> None:
        """Tell the loader the epoch; it begins when the first minibatch is asked for."""
        self._loader().set_epoch(self.current_epoch)

    def training_step(self, minibatch: CellMinibatch, batch_idx: int) -> Tensor:
        """Compute the loss of one minibatch."""
        place = self.current_epoch * len(self._loader()) + batch_idx
        # Dropout draws from torch's global stream, which nothing but this step may have moved.
        _seed_global_stream(derive_seed(self.settings.seed, "dropout", place, *self._process()), self.device)
        loss = self.objective.compute_loss(minibatch, generator=self._generator("masks", place))
        self._losses.watch(loss.total, step=self.global_step, epoch=self.current_epoch)
        self.training_means.add(_values(loss), n_cells=minibatch.n_cells)
        share = share_of_step(batch_idx, self._loader().schedule, accumulate=self.settings.accumulate)
        # Gradients are averaged over the processes, whatever their numbers of cells.
        return loss.total * (minibatch.weight * share)

    def on_train_batch_end(self, outputs: Any, batch: CellMinibatch, batch_idx: int) -> None:
        """Look at what was put off, after the last step of an epoch."""
        if self.trainer.is_last_batch:
            self._look()

    def on_train_epoch_end(self) -> None:
        """Hold no more memory from epoch to epoch."""
        give_back_unused()

    def validation_step(self, minibatch: CellMinibatch, batch_idx: int) -> None:
        """Compute the loss on held-out cells, with masks fixed by the place of the minibatch."""
        loss = self.objective.compute_loss(minibatch, generator=self._generator("validation masks", batch_idx))
        self._validation_means.add(_values(loss), n_cells=minibatch.n_cells)

    def on_validation_epoch_end(self) -> None:
        """Log what the held-out cells gave."""
        means = self._validation_means.means(summed_over(self.trainer))
        self._validation_means.clear()
        watch = FiniteWatch("validation loss")
        watch.watch(torch.tensor(means["loss"]), step=self.global_step, epoch=self.current_epoch)
        log_means(self, "validation", means)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of the gradient, where that is asked for, and see whether it is a number."""
        if not gradient_clip_val:
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
        self._norms.watch(norm, step=self.global_step, epoch=self.current_epoch)

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
        n_minibatches = len(self.trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
        steps_per_epoch = steps_of_an_epoch(n_minibatches, accumulate=self.settings.accumulate)
        factor = functools.partial(learning_rate_factor, settings=self.settings, steps_per_epoch=steps_per_epoch)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write nothing that came of a loss or gradient that is no number; say how many minibatches make a step."""
        self._look()
        checkpoint["minibatches_per_step"] = self.settings.accumulate

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take a checkpoint up, maybe with another number of minibatches to a step."""
        recount_minibatches(checkpoint, before=checkpoint["minibatches_per_step"], now=self.settings.accumulate)

    def _look(self) -> None:
        self._losses.look()
        self._norms.look()

    def _loader(self) -> TimedLoader:
        return cast("TimedLoader", self.trainer.train_dataloader)

    def _generator(self, stream: str, place: int) -> torch.Generator:
        generator = torch.Generator(device=self.device)
        return generator.manual_seed(derive_seed(self.settings.seed, stream, place, *self._process()))

    def _process(self) -> tuple[int, ...]:
        """Give what tells the processes' random numbers apart; the first has those that it would have alone."""
        return (self.global_rank,) if self.global_rank else ()


def _seed_global_stream(seed: int, device: torch.device) -> None:
    """Do what ``torch.manual_seed`` does for what is trained on alone; it takes a millisecond for devices not used."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def _values(loss: Loss) -> dict[str, Tensor]:
    spread = {} if loss.embedding is None else {"embedding_spread": embedding_spread(loss.embedding)}
    return {"loss": loss.total, **loss.terms, **spread}
