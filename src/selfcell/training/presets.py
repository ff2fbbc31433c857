"""Settings under a name: those of the paper's models."""

import importlib.resources
import tomllib
from importlib.resources.abc import Traversable
from typing import Any

from selfcell.core.errors import InputError, did_you_mean


def preset(name: str) -> dict[str, Any]:
    """Give the settings of one of the models of :cite:t:`richter2025`, for :func:`selfcell.pretrain`.

    What the paper's released code does otherwise is listed in the documentation under departures.

    Parameters
    ----------
    name
        A name that :func:`presets` lists, such as ``paper-random``.

    Returns
    -------
    Nested mappings of what differs from the defaults.

    Raises
    ------
    InputError
        If there is no preset of this name.

    Examples
    --------
    >>> settings = selfcell.preset("paper-random")
    >>> settings["pretext"]["mask_fraction"]
    0.5
    >>> settings["training"]["max_epochs"] = 20  # then selfcell.pretrain(cells, settings, out=...)
    """
    return tomllib.loads(preset_text(name))


def preset_text(name: str) -> str:
    """Give the TOML file of a preset; raises what :func:`preset` does."""
    files = _files()
    if name not in files:
        raise InputError(f"Unknown preset {name!r}. {did_you_mean(name, list(files))}")
    return files[name].read_text(encoding="utf-8").rstrip()


def presets() -> dict[str, str]:
    """List the presets: name to what it is."""
    return {name: file.read_text(encoding="utf-8").split("\n")[0].lstrip("# ") for name, file in _files().items()}


def _files() -> dict[str, Traversable]:
    folder = importlib.resources.files("selfcell.training") / "preset_files"
    files = {file.name.removesuffix(".toml"): file for file in folder.iterdir() if file.name.endswith(".toml")}
    return dict(sorted(files.items()))
