"""Whether an interrupted run may go on, and how far it got."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from selfcell.core.config import Settings, build, read_toml
from selfcell.core.errors import InputError
from selfcell.training.run_folder import read_manifest
from selfcell.training.safe_checkpoint import SafetensorsCheckpointIO
from selfcell.training.settings import TrainingSettings

FREE = (
    "training.max_epochs",
    "training.device",
    "training.devices",
    "training.nodes",
    "training.checkpoint_minutes",
    "data.loader_threads",
    "data.resident",
    "data.cache_folder",
)
"""Ends of the addresses of settings that may differ when a run is resumed."""


def check_resumable(out: Path, about: Mapping[str, Any], settings: Settings) -> bool:
    """Refuse to go on under other conditions than a run began with; tell whether it is finished already.

    Parameters
    ----------
    out
        The run folder.
    about
        Entries of its manifest that must be the same.
    settings
        What ``config.toml`` would hold now.

    Raises
    ------
    InputError
        If cells or settings differ, naming the first that does.
    """
    manifest = read_manifest(out)
    before = _flat(build(type(settings), read_toml(out / "config.toml")).model_dump(mode="json"))
    given = _flat(settings.model_dump(mode="json"))
    for address, value in given.items():
        if not address.endswith(FREE):
            _require_same(f"setting {address}", before[address], value)
    for address, value in _flat(about).items():
        _require_same(address.replace("data.", "data's "), _flat(manifest).get(address), value)
    epochs = next(address for address in given if address.endswith("training.max_epochs"))
    return bool(manifest["status"] == "finished" and given[epochs] <= before[epochs])


@dataclass(frozen=True)
class Reached:
    """How far an interrupted training got."""

    epochs: int
    """Whole ones."""
    minibatches: int
    """Of the epoch after them."""

    @classmethod
    def of(cls, checkpoint: Path | None) -> "Reached":
        """Read it from a checkpoint, if there is one."""
        if checkpoint is None:
            return cls(0, 0)
        progress = SafetensorsCheckpointIO().load_checkpoint(checkpoint)["loops"]["fit_loop"]
        within = progress["epoch_loop.batch_progress"]
        minibatches = 0 if within["is_last_batch"] else within["current"]["processed"]
        return cls(int(progress["epoch_progress"]["current"]["processed"]), int(minibatches))

    def is_end(self, log: Path, settings: TrainingSettings) -> bool:
        """Tell whether the last epoch was done, although the run was not said to be finished."""
        if not 0 < self.epochs < settings.max_epochs:
            return self.epochs > 0
        losses = pd.read_csv(log).head(self.epochs).get("validation_loss")
        since_best = 0 if losses is None else self.epochs - 1 - int(losses.idxmin())
        return bool(settings.patience) and since_best >= settings.patience

    def __str__(self) -> str:
        if not self.epochs and not self.minibatches:
            return "Nothing was saved yet: training begins anew."
        within = f" at minibatch {self.minibatches + 1:,}" if self.minibatches else ""
        return f"Going on in epoch {self.epochs + 1}{within}."


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _require_same(name: str, before: object, given: object) -> None:
    if before != given:
        raise InputError(f"This run cannot be resumed: its {name} was {before}, but now {given} is given.")
