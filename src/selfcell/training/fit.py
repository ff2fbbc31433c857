"""Train any objective to the best validation loss, resumable after every epoch."""

import contextlib
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping

from selfcell.core.errors import InputError
from selfcell.core.memory import keep_freed_memory
from selfcell.core.reading import read_table
from selfcell.core.seeds import derive_seed
from selfcell.core.words import counted
from selfcell.data.loader import CellLoader
from selfcell.network.block_error import compiler_fault
from selfcell.network.compute import Compute, best_dtype, quick_float32, set_compute
from selfcell.pretext.base import Objective
from selfcell.training.average import WeightAverage, averaged_weights
from selfcell.training.checkpoints import CheckpointWithinEpoch, Clock, EpochCheckpoint
from selfcell.training.collapse import CollapseWatch
from selfcell.training.faults import explained
from selfcell.training.means import TrainingMeans
from selfcell.training.module import ObjectiveModule
from selfcell.training.processes import SharedLoaders, is_first_process, slurm_plugins, wait_for_all
from selfcell.training.progress import CellProgressBar, EpochLog
from selfcell.training.resume import Reached
from selfcell.training.safe_checkpoint import SafetensorsCheckpointIO
from selfcell.training.settings import TrainingSettings
from selfcell.training.trackers import loggers

logger = logging.getLogger(__name__)

_NOTICES = (
    r".*does not have many workers.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*GPU available but not used.*",
    r".*You defined a `validation_step` but have no `val_dataloader`.*",
)


@dataclass(frozen=True)
class FitOutcome:
    """How a training went."""

    epochs: int | float
    """Epochs trained, of all sessions; with a fraction where the budget was spent within one."""
    steps: int
    """Optimizer steps, of all sessions."""
    kept_epoch: int | float
    """The epoch whose weights were kept."""
    validation_loss: float | None
    """Of the weights that were kept; None where there were no validation cells."""
    seconds: float
    """Of all sessions."""
    cells: int = 0
    """Cells trained on, of all sessions; one counts again in each epoch."""
    train_loss: float | None = None
    """Mean over the epoch whose weights were kept."""
    stopped_by: str = "max_epochs"
    """The setting that ended it: max_epochs, patience or budget."""


@contextlib.contextmanager
def seeded(seed: int, stream: str) -> Iterator[None]:
    """Seed torch's global random numbers for a block, and give them back as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, stream))
        yield


def fit(
    objective: Objective,
    settings: TrainingSettings,
    *,
    train: CellLoader,
    validation: CellLoader | None,
    out: Path,
    title: str,
    resume: bool = False,
    show_progress: bool = True,
) -> FitOutcome:
    """Train an objective; afterwards it holds the weights of the best validation loss or, without patience, the last.

    Writes ``log.csv``, ``tensorboard/`` and ``checkpoints/`` into ``out``. Interrupted at any moment, it continues from
    the last checkpoint, which may lie within an epoch, and comes to the same weights as an uninterrupted run.

    With several devices or nodes each process runs this function; see :mod:`selfcell.training.processes`.

    Parameters
    ----------
    objective
        What to train; changed in place.
    settings
        Optimizer, seed and when to stop.
    train, validation
        Cells to learn from, and cells to watch the loss on. Without the latter there is no early stopping.
    out
        The run folder.
    title
        What is trained, for the progress bar.
    resume
        Continue from ``checkpoints/last.safetensors``.
    show_progress
        Show a progress bar.

    Raises
    ------
    KeyboardInterrupt
        If interrupted, after everything needed for ``resume`` is on disk.
    InputError
        If there is no GPU although one is asked for, or patience without validation cells; if a loss is no number,
        memory is short or the disk full, with what is kept and how to go on.
    """
    accelerator = _accelerator(settings.device)
    set_compute(objective, how_to_compute(settings, accelerator))
    if not settings.exact:
        keep_freed_memory()
    if settings.patience and validation is None:
        raise InputError("patience needs validation cells: hold some out, or set training.patience=0.")
    module = ObjectiveModule(objective, settings)
    watchers = _Watchers.of(module, out)
    callbacks = watchers.callbacks(settings)
    if show_progress and is_first_process():
        bar = CellProgressBar(n_cells=train.n_cells, max_epochs=settings.max_epochs, title=title, clock=watchers.clock)
        callbacks.append(bar)
    with (
        _quiet_lightning(),
        _interruptible(),
        torch.random.fork_rng(),
        explained(settings, checkpoint=watchers.last.file),
        # On a GPU the setting would let products round to TF32.
        quick_float32(exact=settings.exact or accelerator != "cpu"),
    ):
        trainer = _trainer(settings, accelerator, callbacks, out=out, watched=validation is not None)
        checkpoint = _last_checkpoint(out) if resume else None
        reached = Reached.of(checkpoint)
        watchers.clock.before = reached.seconds
        done = reached.is_end(watchers.log.path, settings)
        if resume and is_first_process():
            logger.info("%s", f"All of {counted(reached.epochs, 'epoch')} are trained." if done else reached)
        if not done:
            trainer.fit(module, datamodule=SharedLoaders(train, validation), ckpt_path=checkpoint)
    wait_for_all()
    outcome = _outcome(watchers, settings, n_cells=train.n_cells)
    _load_weights(objective, watchers.kept_file(outcome, settings))
    if outcome.stopped_by == "budget" and is_first_process():
        logger.info("%s", _told(outcome, str(settings.budget)))
    return outcome


@dataclass(frozen=True)
class _Watchers:
    """What looks on while a training runs, and writes into its run folder."""

    means: TrainingMeans
    log: EpochLog
    last: EpochCheckpoint
    best: EpochCheckpoint
    clock: Clock

    @classmethod
    def of(cls, module: ObjectiveModule, out: Path) -> "_Watchers":
        last = EpochCheckpoint.named("last", out, monitor=None)
        best = EpochCheckpoint.named("best", out, monitor="validation_loss")
        budget = module.settings.budget_seconds
        return cls(
            TrainingMeans(module.training_means), EpochLog(out / "log.csv"), last, best, Clock(last.file, budget=budget)
        )

    def callbacks(self, settings: TrainingSettings) -> list[pl.Callback]:
        """Give them in order: those that others read first, and those last that store what the others know."""
        callbacks: list[pl.Callback] = [self.means, self.log, CollapseWatch()]
        if settings.average_decay:
            callbacks.append(WeightAverage(settings.average_decay))
        if settings.patience:
            callbacks += [EarlyStopping("validation_loss", patience=settings.patience), self.best]
        callbacks += [self.clock, self.last]
        if settings.checkpoint_minutes:
            callbacks.append(CheckpointWithinEpoch(self.last.file, seconds=60 * settings.checkpoint_minutes))
        return callbacks

    def kept_file(self, outcome: FitOutcome, settings: TrainingSettings) -> Path:
        """Give the checkpoint of the weights that are kept; those at the end of a budget are in the last."""
        return self.best.file if settings.patience and outcome.kept_epoch % 1 == 0 else self.last.file


def _trainer(
    settings: TrainingSettings, accelerator: str, callbacks: list[pl.Callback], *, out: Path, watched: bool
) -> pl.Trainer:
    several = settings.devices * settings.nodes > 1
    return pl.Trainer(
        accelerator=accelerator,
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy="ddp" if several else "auto",
        # Torch has none for the CPU.
        sync_batchnorm=accelerator != "cpu" and several,
        max_epochs=settings.max_epochs,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.gradient_clip or None,
        callbacks=callbacks,
        plugins=[SafetensorsCheckpointIO(), *slurm_plugins()],
        logger=loggers(settings.tracker, out),
        # Lightning would begin from what other trainings have left in the working directory.
        default_root_dir=out,
        num_sanity_val_steps=0,
        limit_val_batches=None if watched else 0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _outcome(watchers: _Watchers, settings: TrainingSettings, *, n_cells: int) -> FitOutcome:
    """Read from ``log.csv`` what was reached, and which epoch's weights are kept."""
    rows = read_table(watchers.log.path)
    kept = rows.loc[rows["validation_loss"].idxmin() if settings.patience else rows.index[-1]]
    epochs = _whole(float(rows["epoch"].iloc[-1]))
    is_watched = "validation_loss" in rows
    return FitOutcome(
        epochs=epochs,
        steps=int(rows["step"].iloc[-1]),
        kept_epoch=_whole(float(kept["epoch"])),
        validation_loss=float(kept["validation_loss"]) if is_watched else None,
        seconds=round(watchers.clock.seconds, 2),
        cells=round(epochs * n_cells),
        train_loss=float(kept["train_loss"]),
        stopped_by=_what_stopped(epochs, settings, watchers.clock),
    )


def _what_stopped(epochs: int | float, settings: TrainingSettings, clock: Clock) -> str:
    if epochs >= settings.max_epochs:
        return "max_epochs"
    return "budget" if clock.left == 0 or epochs % 1 else "patience"


def _whole(epoch: float) -> int | float:
    return int(epoch) if epoch.is_integer() else epoch


def _told(outcome: FitOutcome, budget: str) -> str:
    watched = "" if outcome.validation_loss is None else f", validation loss {outcome.validation_loss:.4f}"
    return (
        f"The budget of {budget} is spent: {counted(round(outcome.epochs, 2), 'epoch')}, "
        f"{counted(outcome.cells, 'cell')}, "
        f"{counted(outcome.steps, 'step')}. Kept are the weights of epoch {round(outcome.kept_epoch, 2)}: "
        f"train loss {outcome.train_loss:.4f}{watched}. "
        "A larger training.budget and --resume go on."
    )


def how_to_compute(settings: TrainingSettings, accelerator: str) -> Compute:
    """Choose how the network is computed, and say so."""
    if settings.exact:
        logger.info("Computed densely in float32 (training.exact).")
        return Compute(sparse=False)
    device = {"gpu": "cuda" if torch.cuda.is_available() else "mps"}.get(accelerator, accelerator)
    chosen = {"float32": torch.float32, "bfloat16": torch.bfloat16, "auto": best_dtype(device)}[settings.precision]
    name = str(chosen).removeprefix("torch.")
    if device == "cuda":
        fault = compiler_fault(torch.device(device))
        how = "by compiled kernels" if fault is None else f"without compiled kernels ({fault})"
        logger.info("Computed densely on cuda in %s, errors in blocks of genes %s.", name, how)
        return Compute(dtype=chosen, in_blocks=True, compiled=fault is None)
    logger.info("Computed %s in %s.", "on the non-zero counts" if device == "cpu" else f"densely on {device}", name)
    return Compute(dtype=chosen)


def _accelerator(device: str) -> str:
    """Choose for Lightning; left to itself it would take Apple's GPU, which is not tested."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "gpu" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise InputError(
            "training.device=gpu, but torch finds no GPU. Use auto or cpu; `selfcell doctor` shows what it finds."
        )
    return device


def _last_checkpoint(out: Path) -> Path | None:
    path = out / "checkpoints" / "last.safetensors"
    # Interrupted before the first checkpoint: there is nothing to continue from, and little is lost.
    return path if path.exists() else None


def _load_weights(objective: Objective, path: Path) -> None:
    """Load the weights of a checkpoint into an objective: their average, where there is one."""
    checkpoint = SafetensorsCheckpointIO().load_checkpoint(path)
    weights = checkpoint["state_dict"] | averaged_weights(checkpoint)
    objective.load_state_dict({name.removeprefix("objective."): weight for name, weight in weights.items()})
    objective.cpu().eval()
    set_compute(objective, Compute())


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Undo what Lightning does on Ctrl-C: it leaves Python and lets further ones go unheard."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler: Any = signal.getsignal(signal.SIGINT) if in_main_thread else None
    try:
        yield
    except SystemExit as exit_request:
        raise KeyboardInterrupt from exit_request
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence what Lightning says on every run; its warnings of other kinds stay."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for notice in _NOTICES:
                warnings.filterwarnings("ignore", message=notice)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
