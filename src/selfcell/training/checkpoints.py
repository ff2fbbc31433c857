"""When a training run is saved: after each epoch, every so many minutes within one, and where its time is up."""

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint


class EpochCheckpoint(ModelCheckpoint):
    """A checkpoint of one name, in safetensors, that knows itself again when the run folder has been moved."""

    FILE_EXTENSION = ".safetensors"

    @classmethod
    def named(cls, name: str, out: Path, *, monitor: str | None) -> "EpochCheckpoint":
        """Make one of the run folder ``out``: of the last epoch or, where a loss is monitored, of the best."""
        return cls(
            dirpath=out / "checkpoints",
            filename=name,
            monitor=monitor,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    @property
    def file(self) -> Path:
        """Where it is written."""
        return Path(str(self.dirpath)) / f"{self.filename}{self.FILE_EXTENSION}"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state up with the paths of where the run is now."""
        path = str(self.file)
        paths = {name: path for name in ("best_model_path", "kth_best_model_path") if state_dict.get(name)}
        best = dict.fromkeys([path] * len(state_dict["best_k_models"]), state_dict["best_model_score"])
        super().load_state_dict({**state_dict, **paths, "dirpath": self.dirpath, "best_k_models": best})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, but not where the time was up within the epoch: the rest of it may yet be trained."""
        if not is_cut(trainer):
            super().on_train_epoch_end(trainer, pl_module)


class CheckpointWithinEpoch(pl.Callback):
    """Saves every so many seconds, but not after an epoch's last step: its losses are not known yet.

    Parameters
    ----------
    path
        The file to write.
    seconds
        Between two checkpoints.
    """

    def __init__(self, path: Path, *, seconds: float) -> None:
        self.path = path
        self.seconds = seconds
        self.saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time; the first process decides for all."""
        if is_last_minibatch(trainer) or not has_stepped(trainer, batch_idx):
            return
        if trainer.strategy.broadcast(time.monotonic() - self.saved >= self.seconds):
            trainer.save_checkpoint(self.path)
            self.saved = time.monotonic()


class Clock(pl.Callback):
    """Counts the time of training over all sessions and, where there is a budget, stops when it is spent.

    Within an epoch it saves the run as it stands, then lets the loss be watched; so a run with more budget goes on in
    the midst of the epoch.

    Parameters
    ----------
    path
        The checkpoint to write when time is up within an epoch.
    budget
        Seconds to train for; None does not stop.
    """

    def __init__(self, path: Path, *, budget: float | None) -> None:
        self.path = path
        self.budget = budget
        self.before = 0.0
        self.started: float | None = None

    @property
    def seconds(self) -> float:
        """Time trained so far, of all sessions."""
        return self.before + (0.0 if self.started is None else time.monotonic() - self.started)

    @property
    def left(self) -> float | None:
        """What is left of the budget; None where there is none."""
        return None if self.budget is None else max(0.0, self.budget - self.seconds)

    def state_dict(self) -> dict[str, Any]:
        """Give the time."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from it."""
        self.before = float(state_dict["seconds"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start."""
        self.started = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if the time is up; the first process decides for all."""
        if has_stepped(trainer, batch_idx) and self._is_up(trainer):
            trainer.should_stop = True
            if not is_last_minibatch(trainer):
                trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin no further epoch if the time is up."""
        if self._is_up(trainer):
            trainer.should_stop = True

    def _is_up(self, trainer: pl.Trainer) -> bool:
        return self.budget is not None and bool(trainer.strategy.broadcast(self.seconds >= self.budget))


def is_last_minibatch(trainer: pl.Trainer) -> bool:
    """Tell whether the minibatch just trained on was the last of its epoch."""
    return bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)


def is_cut(trainer: pl.Trainer) -> bool:
    """Tell, at the end of an epoch, whether it ended before its last minibatch."""
    return bool(trainer.should_stop) and not is_last_minibatch(trainer)


def has_stepped(trainer: pl.Trainer, place: int) -> bool:
    """Tell whether a step of the optimizer followed the minibatch of this place in the epoch."""
    return is_last_minibatch(trainer) or (place + 1) % trainer.accumulate_grad_batches == 0
