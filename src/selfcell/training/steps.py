"""Optimizer steps as training makes them, without the trainer around them: for measurements."""

import torch

from selfcell.core.memory import keep_freed_memory
from selfcell.data.minibatch import CellMinibatch
from selfcell.network.compute import quick_float32, set_compute
from selfcell.pretext.base import PretextTask, TargetNetworkTask
from selfcell.training.fit import how_to_compute
from selfcell.training.schedule import make_optimizer
from selfcell.training.settings import TrainingSettings


class Steps:
    """Makes an optimizer step on each minibatch it is called with, as training does but for the schedule.

    Parameters
    ----------
    task
        What to train; changed in place.
    settings
        Optimizer, clipping, and how to compute.
    device
        Where.
    """

    def __init__(self, task: PretextTask, settings: TrainingSettings, device: str) -> None:
        self.task = task.to(device).train()
        set_compute(task, how_to_compute(settings, device))
        if not settings.exact:
            keep_freed_memory()
        self.settings, self.device = settings, device
        self.optimizer = make_optimizer(task.parameters(), settings)
        self.generator = torch.Generator(device=device).manual_seed(0)

    def __call__(self, minibatch: CellMinibatch) -> CellMinibatch:
        """Make a step, and give the minibatch back."""
        self.optimizer.zero_grad()
        moved = minibatch.to(self.device, non_blocking=True)
        with quick_float32(exact=self.settings.exact or self.device != "cpu"):
            self.task.compute_loss(moved, generator=self.generator).total.backward()  # type: ignore[no-untyped-call]
        if self.settings.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.task.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        if isinstance(self.task, TargetNetworkTask):
            self.task.update_target(progress=0.0)
        return minibatch
