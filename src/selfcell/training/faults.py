"""What stops a training from outside its numbers, said so that it can be mended: memory, disk, losses that are none."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import safetensors
import torch

from selfcell.core.errors import InputError
from selfcell.core.write_errors import DISK_FULL, CannotWriteError, error_number
from selfcell.training.finite import NotFiniteError
from selfcell.training.settings import TrainingSettings

_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


class StoppedError(InputError):
    """What stopped a training.

    Parameters
    ----------
    what
        What it was.
    mend
        How to go on with the training, where it was asked for by itself and not as a part of something larger.
    """

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what, mend)
        self.what = what
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.what} {self.mend}"


class NoMemoryError(StoppedError):
    """Memory is short."""


class DiskFullError(StoppedError):
    """A file can grow no further."""


@contextlib.contextmanager
def explained(settings: TrainingSettings, *, checkpoint: Path) -> Iterator[None]:
    """Say of a fault within the block what it was, what is kept, and how to go on.

    Parameters
    ----------
    settings
        Of the training.
    checkpoint
        What ``--resume`` goes on from, once it is there.

    Raises
    ------
    StoppedError
        If a loss or gradient is no number, memory is short, or the disk is full.
    """
    try:
        yield
    except NotFiniteError as error:
        raise StoppedError(*_not_finite(error, settings, checkpoint)) from error
    except (MemoryError, RuntimeError, OSError, safetensors.SafetensorError) as error:
        if is_out_of_memory(error):
            raise NoMemoryError(*_out_of_memory(error, settings, checkpoint)) from error
        if is_disk_full(error):
            told = error.__cause__ if isinstance(error, CannotWriteError) and error.__cause__ else error
            raise DiskFullError(*_disk_full(told, checkpoint)) from error
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that there is no memory left, on the CPU or a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | NoMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error says that a file can grow no further."""
    if isinstance(error, DiskFullError):
        return True
    return isinstance(error, OSError | safetensors.SafetensorError) and error_number(error) in DISK_FULL


def without_mend(error: BaseException) -> str:
    """Give what an error says, but for how to go on with a training that was asked for by itself."""
    return error.what if isinstance(error, StoppedError) else str(error).strip() or "no message"


def _not_finite(error: NotFiniteError, settings: TrainingSettings, checkpoint: Path) -> tuple[str, str]:
    causes = [f"a learning rate that is too high (training.learning_rate={settings.learning_rate:g})"]
    if not settings.gradient_clip:
        causes.append("gradients that are not clipped (training.gradient_clip=0)")
    if settings.precision != "float32" and not settings.exact:
        causes.append(f"rounding (training.precision={settings.precision}; float32 rounds least)")
    causes.append("cells with huge counts")
    kept = f"The last good checkpoint is {checkpoint}." if checkpoint.exists() else "No checkpoint was made before."
    return (
        f"{error} Likely causes: {', '.join(causes[:-1])}, or {causes[-1]}.",
        f"{kept} --resume would come to the same: change a setting and train anew (--overwrite, or another --out).",
    )


def _out_of_memory(error: BaseException, settings: TrainingSettings, checkpoint: Path) -> tuple[str, str]:
    size, accumulate = settings.cells_per_minibatch, settings.accumulate
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    said = f"Out of memory with training.minibatch_size={size:,}: {first_line}"
    said += "" if said.endswith(".") else "."
    if size == 1:
        return said, "Take a smaller network, such as network.hidden_sizes=[256]."
    parts = next((parts for parts in range(2, size + 1) if size % parts == 0 and parts <= 4), None)
    if parts is None:
        return said, f"Begin anew (--overwrite) with --set training.minibatch_size={size // 2}."
    smaller = f"--set training.minibatch_size={size // parts} --set training.accumulate={accumulate * parts}"
    how = f"{smaller}: steps of as many cells in 1/{parts} of the memory"
    if checkpoint.exists():
        return said, f"Go on from {checkpoint} with --resume {how}."
    return said, f"No checkpoint was made before. Begin anew with --overwrite {how}."


def _disk_full(error: BaseException, checkpoint: Path) -> tuple[str, str]:
    kept = (
        f"The checkpoint before it, {checkpoint}, is whole: make room and go on with --resume."
        if checkpoint.exists()
        else "No checkpoint was made before: make room and begin anew (--overwrite)."
    )
    return f"The disk is full: {str(error).strip().rstrip('.')}, while writing to {checkpoint.parent.parent}.", kept
