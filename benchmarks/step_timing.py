"""What it takes to time training steps in the interpreter of any package: a request in, a clock, figures out.

Imports nothing of selfcell, which other interpreters do not have.
"""

import dataclasses
import json
import os
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import scipy.sparse as sp
import torch

HIDDEN_SIZES = (512, 512, 256, 256)
"""Of the paper's encoder; the decoder mirrors it."""
N_LATENT = 64
FEWEST_STEPS = 3


@dataclasses.dataclass(frozen=True)
class StepRequest:
    """What to time."""

    arm: str
    cells: str
    """File of a sparse matrix of counts, cells x genes: two minibatches of cells."""
    minibatch: int
    width: float
    """Factor on all hidden sizes."""
    threads: int
    seconds: float
    """Time steps for so long, and three steps at least."""
    most_seconds: float
    """But stop after this, where one step is timed."""
    memory_gb: float
    """Memory that the process may take."""


class StepClock(pl.Callback):
    """Times steps, the fetching of their cells included, and ends the training once it knows enough.

    The first step is warm-up and not kept.

    Parameters
    ----------
    seconds, most_seconds
        As in :class:`StepRequest`.
    """

    def __init__(self, *, seconds: float, most_seconds: float) -> None:
        self.seconds, self.most_seconds = seconds, most_seconds
        self.steps: list[float] = []
        self._is_warm = False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the time of an epoch's first step."""
        self._before = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Keep the time of a step."""
        now = time.perf_counter()
        if self._is_warm:
            self.steps.append(now - self._before)
        self._is_warm, self._before, timed = True, now, sum(self.steps)
        enough = timed >= self.seconds and len(self.steps) >= FEWEST_STEPS
        trainer.should_stop = trainer.should_stop or enough or timed >= self.most_seconds


def hidden_sizes(width: float) -> tuple[int, ...]:
    """Give the encoder's hidden sizes."""
    return tuple(int(width * size) for size in HIDDEN_SIZES)


def memory_mb(name: str) -> float:
    """Give resident memory (``VmRSS``) or its high-water mark (``VmHWM``) of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def run(train: Callable[[StepRequest, sp.csr_matrix, StepClock], None], *, package: str) -> None:
    """Time what the argument of the program asks for, and print what was found as the last line."""
    warnings.simplefilter("ignore")
    request = StepRequest(**json.loads(sys.argv[1]))
    torch.set_num_threads(request.threads)
    counts = sp.load_npz(request.cells)
    loaded, clock = memory_mb("VmRSS"), StepClock(seconds=request.seconds, most_seconds=request.most_seconds)
    most = int(request.memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    found: dict[str, Any] = {"package": f"{package}, torch {torch.__version__}"}
    try:
        train(request, counts, clock)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):
            raise
        found |= {"status": f"not run: more than {request.memory_gb:.0f} GB of memory needed"}
    except SystemExit:
        # So Lightning ends on a signal.
        found |= {"status": "failed: it was told to end"}
    else:
        seconds = statistics.median(clock.steps)
        found |= {"status": "ok", "step_seconds": seconds, "cells_per_second": request.minibatch / seconds}
        found |= {"steps": len(clock.steps), "loaded_mb": loaded, "peak_mb": memory_mb("VmHWM")}
    print(json.dumps(found), flush=True)
    # Threads of some loaders would keep the process alive.
    os._exit(0)
