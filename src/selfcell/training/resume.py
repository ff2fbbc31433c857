"""Whether an interrupted run may go on, and whether there is anything left to do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfcell.core.config import Settings, build, read_toml
from selfcell.core.errors import InputError
from selfcell.training.run_folder import read_manifest

FREE = (
    "training.max_epochs",
    "training.device",
    "training.devices",
    "training.nodes",
    "training.checkpoint_minutes",
    "data.loader_threads",
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


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _require_same(name: str, before: object, given: object) -> None:
    if before != given:
        raise InputError(f"This run cannot be resumed: its {name} was {before}, but now {given} is given.")
