"""Where curves go besides ``log.csv`` and TensorBoard: an experiment tracker, if one is asked for and installed."""

import os
from pathlib import Path
from typing import Literal

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from selfcell.core.errors import InputError

Tracker = Literal["none", "wandb", "mlflow"]
PROJECT = "selfcell"
"""What the tracker files runs under."""
_PACKAGES = {"wandb": "wandb", "mlflow": "mlflow-skinny"}


def loggers(tracker: Tracker, out: Path) -> list[Logger]:
    """Give the loggers of a run: TensorBoard always, and the tracker.

    Where a tracker keeps its runs is set as its own documentation says (``WANDB_MODE``, ``MLFLOW_TRACKING_URI``).

    Parameters
    ----------
    tracker
        Its name.
    out
        The run folder, by whose name the run goes.

    Raises
    ------
    InputError
        If the package of the tracker is not installed, or MLflow has no address.
    """
    return [TensorBoardLogger(out, name=None, version="tensorboard"), *_of_tracker(tracker, out)]


def _of_tracker(tracker: Tracker, out: Path) -> list[Logger]:
    if tracker == "none":
        return []
    try:
        if tracker == "wandb":
            return [WandbLogger(name=out.name, project=PROJECT, save_dir=out)]
        return [MLFlowLogger(experiment_name=PROJECT, run_name=out.name, tracking_uri=_mlflow_address())]
    except ModuleNotFoundError as error:
        raise InputError(
            f"training.tracker={tracker} needs a package that is not installed: pip install {_PACKAGES[tracker]}"
        ) from error


def _mlflow_address() -> str:
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if not address:
        raise InputError(
            "training.tracker=mlflow needs the address of a server or a database in MLFLOW_TRACKING_URI, such as "
            "sqlite:///mlflow.db (pip install mlflow)."
        )
    return address
