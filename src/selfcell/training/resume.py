"""Whether an interrupted run may go on, and how far it got."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfcell.core.config import Settings, build
from selfcell.core.errors import InputError
from selfcell.core.reading import read_table, reading
from selfcell.core.words import seconds_of
from selfcell.training.run_folder import read_manifest, read_settings
from selfcell.training.safe_checkpoint import SafetensorsCheckpointIO
from selfcell.training.settings import TrainingSettings

FREE = (
    "training.max_epochs",
    "training.budget",
    "training.device",
    "training.devices",
    "training.nodes",
    "training.checkpoint_minutes",
    "training.tracker",
    "data.loader_threads",
    "data.resident",
    "data.cache_folder",
)
"""Ends of the addresses of settings that may differ when a run is resumed."""

_STEP = ("training.minibatch_size", "training.accumulate")
"""Ends of the addresses of settings whose product must stay the same: the cells of an optimizer step."""


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
    before = _flat(build(type(settings), read_settings(out)).model_dump(mode="json"))
    given = _flat(settings.model_dump(mode="json"))
    same_steps = _cells_per_step(before) == _cells_per_step(given)
    for address, value in given.items():
        if not address.endswith(FREE) and not (same_steps and address.endswith(_STEP)):
            _require_same(f"setting {address}", before[address], value)
    for address, value in _flat(about).items():
        _require_same(address.replace("data.", "data's "), _flat(manifest).get(address), value)
    is_finished = manifest["status"] == "finished"
    return bool(is_finished and (_ended_by_patience(out) or not _asks_for_more(given, before)))


def why_finished(out: Path) -> str:
    """Say that a run is finished, and what would train it longer."""
    if _ended_by_patience(out):
        return (
            f"The run in {out} is finished already: its validation loss had stopped falling (training.patience), "
            "and such a run cannot be prolonged. Begin anew (--overwrite) with a larger training.patience to train "
            "longer."
        )
    return f"The run in {out} is finished already; raise training.max_epochs or training.budget to train longer."


def _ended_by_patience(out: Path) -> bool:
    return bool(read_manifest(out).get("fit", {}).get("stopped_by") == "patience")


def _asks_for_more(given: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Tell whether there are more epochs or more time to train for than before."""
    if _ending(given, "training.max_epochs") > _ending(before, "training.max_epochs"):
        return True
    now, then = (_ending(values, "training.budget") for values in (given, before))
    if then is None:
        return False
    return now is None or seconds_of(now, name="training.budget") > seconds_of(then, name="training.budget")


def _cells_per_step(values: Mapping[str, Any]) -> int:
    size, accumulate = (_ending(values, address) for address in _STEP)
    return int(size) * int(accumulate)


def _ending(values: Mapping[str, Any], end: str) -> Any:
    return next(value for address, value in values.items() if address.endswith(end))


@dataclass(frozen=True)
class Reached:
    """How far an interrupted training got."""

    epochs: int
    """Whole ones."""
    minibatches: int
    """Of the epoch after them."""
    seconds: float = 0.0
    """Time trained, of all sessions."""

    @classmethod
    def of(cls, checkpoint: Path | None) -> "Reached":
        """Read it from a checkpoint, if there is one."""
        if checkpoint is None:
            return cls(0, 0)
        state = SafetensorsCheckpointIO().load_progress(checkpoint)
        with reading(checkpoint):
            progress = state["loops"]["fit_loop"]
            within = progress["epoch_loop.batch_progress"]
            minibatches = 0 if within["is_last_batch"] else within["current"]["processed"]
            epochs = int(progress["epoch_progress"]["current"]["processed"])
            return cls(epochs, int(minibatches), float(state["callbacks"]["Clock"]["seconds"]))

    def is_end(self, log: Path, settings: TrainingSettings) -> bool:
        """Tell whether the last epoch was done or the budget spent, although the run was not said to be finished."""
        if not log.exists():
            return False
        rows = read_table(log)
        if settings.budget_seconds is not None and self.seconds >= settings.budget_seconds:
            # Within an epoch it may have broken off before the loss was watched.
            return self.minibatches == 0 or bool(self.epochs < rows["epoch"].iloc[-1] < self.epochs + 1)
        if not 0 < self.epochs < settings.max_epochs:
            return self.epochs > 0
        losses = rows.head(self.epochs).get("validation_loss")
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
