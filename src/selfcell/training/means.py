"""Means over the cells of an epoch of what the losses tell."""

from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor


class CellMeans:
    """Sums named scalars, each weighted by the cells it is a mean over; nothing is read back from a GPU meanwhile."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.cells: dict[str, float] = {}

    def add(self, values: Mapping[str, Tensor], *, n_cells: int) -> None:
        """Add the values of a minibatch."""
        for name, value in values.items():
            # Apple's GPU has no float64.
            wide = value.detach() if value.device.type == "mps" else value.detach().double()
            if name in self.sums:
                self.sums[name].add_(wide, alpha=n_cells)
                self.cells[name] += n_cells
            else:
                self.sums[name] = wide * n_cells
                self.cells[name] = n_cells

    def clear(self) -> None:
        """Begin anew."""
        self.sums, self.cells = {}, {}

    def state(self, total: Callable[[Tensor], Tensor]) -> dict[str, tuple[float, float]]:
        """Give the sum and the cells of each value over all processes.

        Parameters
        ----------
        total
            Adds a tensor up over the processes.
        """
        if not self.sums:
            return {}
        pairs = [torch.stack([value, torch.full_like(value, self.cells[name])]) for name, value in self.sums.items()]
        summed = total(torch.stack(pairs)).tolist()
        return {name: (value, n_cells) for name, (value, n_cells) in zip(self.sums, summed, strict=True)}

    def load(self, state: Mapping[str, tuple[float, float]], *, device: torch.device) -> None:
        """Take up what :meth:`state` gave; in one process, as it is of all."""
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums = {name: torch.tensor(value, dtype=dtype, device=device) for name, (value, _) in state.items()}
        self.cells = {name: n_cells for name, (_, n_cells) in state.items()}

    def means(self, total: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Give the means over the cells of all processes."""
        return {name: value / n_cells for name, (value, n_cells) in self.state(total).items()}


class TrainingMeans(pl.Callback):
    """Logs the means of an epoch's training terms, before the callbacks that read them; a resumed epoch's are whole.

    Parameters
    ----------
    means
        Where the steps add theirs.
    """

    def __init__(self, means: CellMeans) -> None:
        self.means = means
        self._loaded: dict[str, tuple[float, float]] = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what an epoch has summed so far."""
        checkpoint["training_means"] = self.means.state(summed_over(trainer))

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take it up again, once the device is known."""
        self._loaded = checkpoint["training_means"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on from the sums of a checkpoint; they are of all processes, so the first has them."""
        self.means.clear()
        if trainer.is_global_zero:
            self.means.load(self._loaded, device=pl_module.device)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin anew."""
        self.means.clear()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the means."""
        log_means(pl_module, "train", self.means.means(summed_over(trainer)))


def log_means(module: pl.LightningModule, part: str, means: Mapping[str, float]) -> None:
    """Hand means over to whatever reads logged values."""
    module.log_dict({f"{part}_{name}": value for name, value in means.items()}, sync_dist=True)


def summed_over(trainer: pl.Trainer) -> Callable[[Tensor], Tensor]:
    """Give what adds a tensor up over the processes."""
    return lambda tensor: trainer.strategy.reduce(tensor, reduce_op="sum")
