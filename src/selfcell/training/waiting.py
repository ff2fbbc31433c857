"""How long training waits for its cells."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from selfcell.data.loader import CellLoader
from selfcell.data.minibatch import CellMinibatch
from selfcell.data.schedule import Schedule


class TimedLoader:
    """A loader that knows how long its minibatches were waited for.

    Parameters
    ----------
    loader
        The loader of training cells.
    """

    def __init__(self, loader: CellLoader) -> None:
        self.loader = loader
        self.waited = 0.0
        """Seconds, so far."""

    @property
    def n_cells(self) -> int:
        """Cells in an epoch, over all processes."""
        return self.loader.n_cells

    @property
    def schedule(self) -> Schedule:
        """How the cells are cut into minibatches."""
        return self.loader.schedule

    def __len__(self) -> int:
        """Give the number of minibatches in an epoch."""
        return len(self.loader)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next iteration belongs to."""
        self.loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Give how far the epoch has got."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Let the next iteration go on from what :meth:`state_dict` gave."""
        self.loader.load_state_dict(state)

    def __iter__(self) -> Iterator[CellMinibatch]:
        minibatches = iter(self.loader)
        while True:
            asked = time.perf_counter()
            minibatch = next(minibatches, None)
            self.waited += time.perf_counter() - asked
            if minibatch is None:
                return
            yield minibatch
