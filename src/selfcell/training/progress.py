"""What is shown and written while training: a bar in cells, and one row an epoch in ``log.csv``."""

import logging
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
from tqdm import tqdm

from selfcell.core.atomic import atomic_path
from selfcell.core.reading import read_table, reading
from selfcell.core.words import in_words
from selfcell.data.minibatch import CellMinibatch
from selfcell.training.checkpoints import Clock, is_cut, is_last_minibatch
from selfcell.training.waiting import TimedLoader

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 60.0
_SECONDS_BETWEEN_NOTES = 1.0


class CellProgressBar(pl.Callback):
    """A bar over all epochs with cells per second, the time left and the share of time that cells were waited for.

    The time left is that of the epochs or of the budget, whichever ends first, if no early stop comes before.

    Parameters
    ----------
    n_cells
        Training cells in an epoch.
    max_epochs
        Epochs at most.
    title
        What is trained.
    clock
        Knows the budget.
    """

    def __init__(self, *, n_cells: int, max_epochs: int, title: str, clock: Clock) -> None:
        self.n_cells = n_cells
        self.max_epochs = max_epochs
        self.title = title
        self.clock = clock
        self.loss = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar, at the place a resumed run has reached."""
        self.begun_at = self.n_cells * trainer.current_epoch + _cells_done(trainer)
        self.bar = tqdm(
            # With a budget the cells to come are not known.
            total=self.n_cells * self.max_epochs if self.clock.budget is None else None,
            initial=self.begun_at,
            desc=self.title,
            unit=" cells",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.5,
            disable=None,  # where no terminal looks on; lines are logged instead
        )
        self.n_done = 0
        self.started = self.told = self.noted = time.monotonic()
        self.waited = _loader(trainer).waited

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: CellMinibatch,
        batch_idx: int,
    ) -> None:
        """Move the bar by the cells of the step, those of other processes too."""
        self.n_done += batch.n_cells * trainer.world_size
        self.bar.update(batch.n_cells * trainer.world_size)
        now = time.monotonic()
        if self.bar.disable and now - self.told > _SECONDS_BETWEEN_LINES:
            self._tell(trainer)
        elif not self.bar.disable and now - self.noted > _SECONDS_BETWEEN_NOTES:
            self.noted = now
            self.bar.set_postfix_str(self._note(trainer), refresh=False)

    def _tell(self, trainer: pl.Trainer) -> None:
        """Log how far the epoch is, for those who read a file."""
        self.told = time.monotonic()
        in_epoch = min(self.begun_at + self.n_done - self.n_cells * trainer.current_epoch, self.n_cells)
        logger.info(
            "%s: epoch %d, %s of %s cells, %s cells/s, data %s, %s left in the epoch, %s",
            self.title,
            trainer.current_epoch + 1,
            f"{in_epoch:,}",
            f"{self.n_cells:,}",
            f"{self._pace():,.0f}",
            self._waiting(trainer),
            in_words((self.n_cells - in_epoch) / self._pace()),
            self._left(),
        )

    def _note(self, trainer: pl.Trainer) -> str:
        parts = [f"epoch {trainer.current_epoch + 1}", self.loss, f"data {self._waiting(trainer)}"]
        if self.clock.budget is not None:
            parts.append(self._left())
        return ", ".join(part for part in parts if part)

    def _pace(self) -> float:
        return self.n_done / max(1e-9, time.monotonic() - self.started)

    def _waiting(self, trainer: pl.Trainer) -> str:
        share = (_loader(trainer).waited - self.waited) / max(1e-9, time.monotonic() - self.started)
        return f"{100 * share:.0f} %"

    def _left(self) -> str:
        """Say how long it takes until all epochs are done, or the budget is spent."""
        seconds = (self.n_cells * self.max_epochs - self.begun_at - self.n_done) / max(1e-9, self._pace())
        if self.clock.left is not None and self.clock.left < seconds:
            return f"{in_words(self.clock.left)} of the budget left"
        return f"{in_words(max(0.0, seconds))} in all epochs"

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the epoch and the loss beside the bar."""
        name = "validation" if "validation_loss" in trainer.callback_metrics else "train"
        loss = float(trainer.callback_metrics[f"{name}_loss"])
        self.loss = f"{name} loss {loss:.4f}"
        self.bar.set_postfix_str(self._note(trainer))
        if self.bar.disable:
            epoch = trainer.current_epoch + (round(share_of_epoch(trainer), 2) if is_cut(trainer) else 1)
            logger.info("%s: epoch %s, %s loss %.4f", self.title, epoch, name, loss)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self.bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the terminal clean."""
        if hasattr(self, "bar"):
            self.bar.close()


def _cells_done(trainer: pl.Trainer) -> int:
    """Give about how many cells of the epoch that a resumed run goes on in have been seen already."""
    return 0 if is_last_minibatch(trainer) else round(share_of_epoch(trainer) * _loader(trainer).n_cells)


def share_of_epoch(trainer: pl.Trainer) -> float:
    """Give the share of the epoch's minibatches that have been trained on."""
    return (trainer.fit_loop.batch_idx + 1) / max(1, trainer.num_training_batches)


def _loader(trainer: pl.Trainer) -> TimedLoader:
    loader: TimedLoader = trainer.train_dataloader  # type: ignore[assignment]
    return loader


class EpochLog(pl.Callback):
    """Writes ``log.csv``: one row an epoch with all logged terms, learning rate, seconds, cells per second and waiting.

    ``waiting`` is the share of the time of its steps in which the program waited for minibatches, between 0 and 1.
    Written whole after each epoch, atomically. A resumed run goes on from the rows of the epochs that it keeps. Where
    the budget was spent within an epoch, the last row has a fraction as its epoch.

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
        self._start_clock(trainer)
        if trainer.current_epoch > 0 and self.path.exists():
            logged = read_table(self.path)
            with reading(self.path):
                kept = logged[logged["epoch"] <= trainer.current_epoch]
                self.rows = kept.astype({"epoch": int}).to_dict("records")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, and keep the learning rate before the scheduler moves it."""
        self._start_clock(trainer)
        self.learning_rate = trainer.optimizers[0].param_groups[0]["lr"]

    def _start_clock(self, trainer: pl.Trainer) -> None:
        self.started = self.stepped = time.perf_counter()
        self.waited = _loader(trainer).waited
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
        self.stepped = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the row of the epoch."""
        if not trainer.is_global_zero:
            return
        seconds = time.perf_counter() - self.started
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {
            "epoch": trainer.current_epoch + (round(share_of_epoch(trainer), 4) if is_cut(trainer) else 1),
            "step": trainer.global_step,
            **values,
            "learning_rate": self.learning_rate,
            "seconds": round(seconds, 3),
            "cells_per_second": round(self.n_cells / seconds, 1),
            "waiting": round((_loader(trainer).waited - self.waited) / max(1e-9, self.stepped - self.started), 4),
        }
        self.rows.append(row)
        # A fraction would turn the other epochs into fractions too.
        epochs = pd.Series([it["epoch"] for it in self.rows], dtype=object)
        with atomic_path(self.path) as temporary:
            pd.DataFrame(self.rows).assign(epoch=epochs).to_csv(temporary, index=False)
