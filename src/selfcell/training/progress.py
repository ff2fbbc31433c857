"""What is shown and written while training: a bar in cells, and one row an epoch in ``log.csv``."""

import logging
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
from tqdm import tqdm

from selfcell.core.atomic import atomic_path
from selfcell.core.words import in_words
from selfcell.data.loader import CellLoader
from selfcell.data.minibatch import CellMinibatch

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 60.0


class CellProgressBar(pl.Callback):
    """A bar over all epochs with cells per second and the time left, if no early stop comes first.

    Parameters
    ----------
    n_cells
        Training cells in an epoch.
    max_epochs
        Epochs at most.
    title
        What is trained.
    """

    def __init__(self, *, n_cells: int, max_epochs: int, title: str) -> None:
        self.n_cells = n_cells
        self.max_epochs = max_epochs
        self.title = title

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar, at the place a resumed run has reached."""
        self.begun_at = self.n_cells * trainer.current_epoch + _cells_done(trainer)
        self.bar = tqdm(
            total=self.n_cells * self.max_epochs,
            initial=self.begun_at,
            desc=self.title,
            unit=" cells",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.5,
            disable=None,  # where no terminal looks on; lines are logged instead
        )
        self.n_done = 0
        self.started = self.told = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: CellMinibatch,
        batch_idx: int,
    ) -> None:
        """Move the bar by the cells of the step, those of other processes too."""
        self.bar.update(batch.n_cells * trainer.world_size)
        self.n_done += batch.n_cells * trainer.world_size
        if self.bar.disable and time.monotonic() - self.told > _SECONDS_BETWEEN_LINES:
            self._tell(trainer)

    def _tell(self, trainer: pl.Trainer) -> None:
        """Log how far the epoch is, for those who read a file."""
        self.told = time.monotonic()
        pace = self.n_done / (self.told - self.started)
        in_epoch = min(self.begun_at + self.n_done - self.n_cells * trainer.current_epoch, self.n_cells)
        logger.info(
            "%s: epoch %d, %s of %s cells, %s cells/s, %s left in the epoch",
            self.title,
            trainer.current_epoch + 1,
            f"{in_epoch:,}",
            f"{self.n_cells:,}",
            f"{pace:,.0f}",
            in_words((self.n_cells - in_epoch) / pace),
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the epoch and the loss beside the bar."""
        name = "validation" if "validation_loss" in trainer.callback_metrics else "train"
        loss = float(trainer.callback_metrics[f"{name}_loss"])
        self.bar.set_postfix_str(f"epoch {trainer.current_epoch + 1}, {name} loss {loss:.4f}")
        if self.bar.disable:
            logger.info("%s: epoch %d, %s loss %.4f", self.title, trainer.current_epoch + 1, name, loss)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self.bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the terminal clean."""
        if hasattr(self, "bar"):
            self.bar.close()


def _cells_done(trainer: pl.Trainer) -> int:
    """Give about how many cells of the epoch a resumed run has seen already."""
    n_steps = trainer.fit_loop.epoch_loop.batch_progress.current.completed
    return round(n_steps / max(1, trainer.num_training_batches) * _epoch_size(trainer)) if n_steps else 0


def _epoch_size(trainer: pl.Trainer) -> int:
    loader = trainer.train_dataloader
    return loader.n_cells if isinstance(loader, CellLoader) else 0


class EpochLog(pl.Callback):
    """Writes ``log.csv``: one row an epoch with all logged terms, the learning rate, seconds and cells per second.

    Written whole after each epoch, atomically. A resumed run goes on from the rows of the epochs that it keeps. Where
    an epoch was resumed in its midst, its training terms are means over what came after.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self.learning_rate = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Give what a checkpoint within an epoch needs to hold."""
        return {"learning_rate": self.learning_rate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up again; an epoch that begins anew sets its own."""
        self.learning_rate = float(state_dict["learning_rate"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the rows of the epochs before the checkpoint that was resumed from, and start the clock."""
        self._start_clock()
        if trainer.current_epoch > 0 and self.path.exists():
            logged = pd.read_csv(self.path)
            self.rows = logged[logged["epoch"] <= trainer.current_epoch].to_dict("records")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, and keep the learning rate before the scheduler moves it."""
        self._start_clock()
        self.learning_rate = trainer.optimizers[0].param_groups[0]["lr"]

    def _start_clock(self) -> None:
        self.started = time.perf_counter()
        self.n_cells = 0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: CellMinibatch,
        batch_idx: int,
    ) -> None:
        """Count the cells, those of other processes too."""
        self.n_cells += batch.n_cells * trainer.world_size

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the row of the epoch."""
        if not trainer.is_global_zero:
            return
        seconds = time.perf_counter() - self.started
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            **values,
            "learning_rate": self.learning_rate,
            "seconds": round(seconds, 3),
            "cells_per_second": round(self.n_cells / seconds, 1),
        }
        self.rows.append(row)
        with atomic_path(self.path) as temporary:
            pd.DataFrame(self.rows).to_csv(temporary, index=False)
