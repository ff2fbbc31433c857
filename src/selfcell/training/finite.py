"""Whether losses and norms of gradients are numbers, without waiting for a GPU at every step."""

import torch
from jaxtyping import Float
from torch import Tensor

from selfcell.core.words import counted

_STEPS_BETWEEN = 64


class NotFiniteError(Exception):
    """A loss or a norm of the gradient is NaN or infinite.

    Parameters
    ----------
    what
        What it is, such as ``training loss``.
    value
        NaN or infinity.
    step, epoch
        When it was first so; optimizer steps and whole epochs before.
    """

    def __init__(self, what: str, value: float, *, step: int, epoch: int) -> None:
        super().__init__(f"The {what} is {value} after {counted(step, 'step')} (epoch {epoch + 1}).")
        self.what = what


class FiniteWatch:
    """Keeps values of the last steps and looks at them: at once on the CPU, now and then on a GPU, as looking waits.

    Parameters
    ----------
    what
        What the values are, for the message.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._values: Tensor | None = None
        self._places: list[tuple[int, int]] = []

    def watch(self, value: Float[Tensor, ""], *, step: int, epoch: int) -> None:
        """Note a value.

        Parameters
        ----------
        value
            Loss or norm.
        step, epoch
            Optimizer steps and whole epochs before it.

        Raises
        ------
        NotFiniteError
            If it, or one before it, is NaN or infinite.
        """
        if self._values is None:
            self._values = torch.zeros(1 if value.is_cpu else _STEPS_BETWEEN, device=value.device)
        self._values[len(self._places)].copy_(value.detach())
        self._places.append((step, epoch))
        if len(self._places) == len(self._values):
            self.look()

    def look(self) -> None:
        """Raise the error if there is cause to; waits for a GPU."""
        if self._values is None or not self._places:
            return
        places, self._places = self._places, []
        values = self._values[: len(places)]
        if not bool(values.isfinite().all()):
            first = int((~values.isfinite()).nonzero()[0])
            step, epoch = places[first]
            raise NotFiniteError(self.what, float(values[first]), step=step, epoch=epoch)
