"""Train any objective to the best validation loss, resumable after every epoch."""

import contextlib
import logging
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from selfcell.core.errors import InputError
from selfcell.core.memory import keep_freed_memory
from selfcell.core.seeds import derive_seed
from selfcell.core.words import counted
from selfcell.data.loader import CellLoader
from selfcell.network.block_error import compiler_fault
from selfcell.network.compute import Compute, best_dtype, quick_float32, set_compute
from selfcell.pretext.base import Objective
from selfcell.training.collapse import CollapseWatch
from selfcell.training.module import ObjectiveModule
from selfcell.training.processes import SharedLoaders, is_first_process, wait_for_all
from selfcell.training.progress import CellProgressBar, EpochLog
from selfcell.training.resume import Reached
from selfcell.training.safe_checkpoint import SafetensorsCheckpointIO
from selfcell.training.settings import TrainingSettings

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

    epochs: int
    """Epochs trained, of all sessions."""
    steps: int
    kept_epoch: int
    """The epoch whose weights were kept."""
    validation_loss: float | None
    """Of the weights that were kept; None where there were no validation cells."""
    seconds: float
    """Of this session."""


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
        If there is no GPU although one is asked for, or patience without validation cells.
    """
    n_cells = train.n_cells
    accelerator = _accelerator(settings.device)
    set_compute(objective, how_to_compute(settings, accelerator))
    if not settings.exact:
        keep_freed_memory()
    log = EpochLog(out / "log.csv")
    last = kept = _checkpoint(out, "last", monitor=None)
    callbacks: list[pl.Callback] = [log, CollapseWatch()]
    if settings.patience:
        if validation is None:
            raise InputError("patience needs validation cells: hold some out, or set training.patience=0.")
        # Before the last checkpoint, which stores what this one knows.
        kept = _checkpoint(out, "best", monitor="validation_loss")
        callbacks += [EarlyStopping("validation_loss", patience=settings.patience), kept]
    callbacks.append(last)
    if settings.checkpoint_minutes:
        callbacks.append(_CheckpointWithinEpoch(last.file, seconds=60 * settings.checkpoint_minutes))
    if show_progress and is_first_process():
        callbacks.append(CellProgressBar(n_cells=n_cells, max_epochs=settings.max_epochs, title=title))
    started = time.perf_counter()
    # On a GPU the setting would let products round to TF32.
    as_it_is = settings.exact or accelerator != "cpu"
    with _quiet_lightning(), _interruptible(), torch.random.fork_rng(), quick_float32(exact=as_it_is):
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy="ddp" if settings.devices * settings.nodes > 1 else "auto",
            # Torch has none for the CPU.
            sync_batchnorm=accelerator != "cpu" and settings.devices * settings.nodes > 1,
            max_epochs=settings.max_epochs,
            gradient_clip_val=settings.gradient_clip or None,
            callbacks=callbacks,
            plugins=[SafetensorsCheckpointIO()],
            logger=TensorBoardLogger(out, name=None, version="tensorboard"),
            num_sanity_val_steps=0,
            limit_val_batches=0 if validation is None else None,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        checkpoint = _last_checkpoint(out) if resume else None
        reached = Reached.of(checkpoint)
        done = reached.is_end(log.path, settings)
        if resume and is_first_process():
            logger.info("%s", f"All of {counted(reached.epochs, 'epoch')} are trained." if done else reached)
        if not done:
            module = ObjectiveModule(objective, settings)
            trainer.fit(module, datamodule=SharedLoaders(train, validation), ckpt_path=checkpoint)
    wait_for_all()
    epoch = _load_weights(objective, kept.file)
    rows = pd.read_csv(log.path).set_index("epoch")
    return FitOutcome(
        epochs=int(rows.index[-1]),
        steps=int(rows["step"].iloc[-1]),
        kept_epoch=epoch,
        validation_loss=float(rows["validation_loss"][epoch]) if "validation_loss" in rows else None,
        seconds=round(time.perf_counter() - started, 2),
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


class _Checkpoint(ModelCheckpoint):
    """A checkpoint of one name, in safetensors, that knows itself again when the run folder has been moved."""

    FILE_EXTENSION = ".safetensors"

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


class _CheckpointWithinEpoch(pl.Callback):
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

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save if it is time; the first process decides for all."""
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        if trainer.strategy.broadcast(time.monotonic() - self.saved >= self.seconds):
            trainer.save_checkpoint(self.path)
            self.saved = time.monotonic()


def _checkpoint(out: Path, name: str, *, monitor: str | None) -> _Checkpoint:
    return _Checkpoint(
        dirpath=out / "checkpoints",
        filename=name,
        monitor=monitor,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def _last_checkpoint(out: Path) -> Path | None:
    path = out / "checkpoints" / "last.safetensors"
    # Interrupted before the first checkpoint: there is nothing to continue from, and little is lost.
    return path if path.exists() else None


def _load_weights(objective: Objective, path: Path) -> int:
    """Load the weights of a checkpoint into an objective, and give the epoch they are of."""
    checkpoint = SafetensorsCheckpointIO().load_checkpoint(path)
    objective.load_state_dict({name.removeprefix("objective."): it for name, it in checkpoint["state_dict"].items()})
    objective.cpu().eval()
    set_compute(objective, Compute())
    return int(checkpoint["epoch"]) + 1


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
