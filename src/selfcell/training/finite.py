"""Whether the losses of a training are numbers, without waiting for a GPU at every step."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

_STEPS_BETWEEN = {"cpu": 1, "cuda": 64}


class FiniteLosses:
    """Watches losses; on a GPU what it finds is looked at now and then, as looking waits for what was begun."""

    def __init__(self) -> None:
        self._first_fault: Tensor | None = None
        self._n_unseen = 0

    def watch(self, loss: Float[Tensor, ""], *, step: int, epoch: int) -> None:
        """Note a loss.

        Parameters
        ----------
        loss
            Of a step.
        step, epoch
            When it was taken.

        Raises
        ------
        FloatingPointError
            If it, or one before it, is NaN or infinite.
        """
        loss = loss.detach().float()
        noted = torch.stack([loss, torch.full_like(loss, step), torch.full_like(loss, epoch)])
        if self._first_fault is None:
            self._first_fault = torch.zeros_like(noted)
        self._first_fault = torch.where(self._first_fault[0].isfinite(), noted, self._first_fault)
        self._n_unseen += 1
        if self._n_unseen >= _STEPS_BETWEEN.get(loss.device.type, 1):
            self.look()

    def look(self) -> None:
        """Raise the error if there is one; waits for a GPU."""
        if not self._n_unseen or self._first_fault is None:
            return
        self._n_unseen = 0
        loss, step, epoch = self._first_fault.tolist()
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The training loss is {loss} at step {step:.0f} (epoch {epoch:.0f}). Lower training.learning_rate."
            )
