"""Other people's networks from scvi-tools, seeded, quiet, and leaving the process as it was."""

import contextlib
import io
import logging
import os
import random
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from selfcell.baselines.base import ComparedCells
from selfcell.core.extras import import_extra
from selfcell.core.seeds import derive_seed
from selfcell.data.source import obs_column
from selfcell.training.fit import seeded

_LOGGERS = ("scvi", "lightning", "lightning.pytorch", "lightning.fabric")
_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "XLA_FLAGS", "XLA_PYTHON_CLIENT_PREALLOCATE")
_MINIBATCH_SIZE = 128


def import_scvi() -> ModuleType:
    """Give the package scvi-tools.

    Raises
    ------
    InputError
        If it is not installed.
    """
    return import_extra("scvi", extra="scvi", use="Each of the baselines scvi, scanvi and totalvi")


@contextlib.contextmanager
def scvi_session(seed: int, stream: str) -> Iterator[ModuleType]:
    """Give scvi-tools with its seed set, for a block in which it says nothing.

    Seeding scvi-tools seeds torch, NumPy and Python and sets variables of the environment; all of it is given back as
    it was. Its warnings, of its own calls of other packages and of few cells, are not shown.

    Parameters
    ----------
    seed
        The one seed.
    stream
        What the random numbers are for.

    Raises
    ------
    InputError
        If scvi-tools is not installed.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    with warnings.catch_warnings(), seeded(seed, stream), contextlib.ExitStack() as after:
        warnings.simplefilter("ignore")
        after.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002 (scvi-tools seeds this one)
        after.callback(random.setstate, random.getstate())
        for name in _VARIABLES:
            after.callback(_set_variable, name, os.environ.get(name))
        scvi = import_scvi()
        for logger in loggers:
            after.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        # It prints why it stopped early.
        after.enter_context(contextlib.redirect_stdout(io.StringIO()))
        after.callback(setattr, scvi.settings, "seed", None)
        scvi.settings.seed = derive_seed(seed, stream) % 2**32
        yield scvi


def known_experiments(compared: ComparedCells) -> np.ndarray:
    """Give the experiment of each cell, of which the comparison names the column; one of training where it saw none.

    What scvi-tools was not trained with it refuses.
    """
    batch = obs_column(compared.cells.obs, str(compared.batch_key), role="batch").to_numpy(dtype=object).astype(str)
    known = np.unique(batch[compared.unlabelled])
    return np.asarray(np.where(np.isin(batch, known), batch, known[0]))


def n_epochs(n_cells: int, *, at_most: int, cells_seen: int) -> int:
    """Give the epochs in which so many cells are seen in all, but one at least.

    scvi-tools takes up to eight million cells. The baselines take fewer, each as many as more were no better for.

    Parameters
    ----------
    n_cells
        Cells of one epoch.
    at_most
        Epochs at most.
    cells_seen
        Cells of all epochs.
    """
    return min(at_most, max(round(cells_seen / n_cells), 1))


def minibatch_size(*n_cells: int) -> int:
    """Give the largest minibatch of at most 128 cells, the package's own, that leaves no cell by itself at the end.

    Normalization over a minibatch fails on a single cell.

    Parameters
    ----------
    n_cells
        Numbers of cells that are each cut into minibatches.
    """
    fitting = (size for size in range(_MINIBATCH_SIZE, 2, -1) if all(n % size != 1 for n in n_cells))
    return next(fitting, _MINIBATCH_SIZE)


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
