"""Run folders of older formats, read as if they were of this one; the files themselves stay as they are.

A change of what a run folder holds raises :data:`FORMAT_VERSION`, and comes with a function here that says what older
folders mean by it, and with golden folders of the new format in ``tests/golden``. What only adds an entry that may be
missing needs neither.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

FORMAT_VERSION = 2


class Described(NamedTuple):
    """What a run folder says of itself."""

    manifest: dict[str, Any]
    """``manifest.json``."""
    settings: dict[str, Any]
    """``config.toml``."""


def migrate(manifest: Mapping[str, Any], settings: Mapping[str, Any]) -> Described:
    """Give what a folder of any older format would say of itself in this one.

    Parameters
    ----------
    manifest
        What ``manifest.json`` holds, with its ``format_version``.
    settings
        What ``config.toml`` holds.
    """
    described = Described(copy.deepcopy(dict(manifest)), copy.deepcopy(dict(settings)))
    for version in range(described.manifest["format_version"], FORMAT_VERSION):
        described = _MIGRATIONS[version](described)
        described.manifest["format_version"] = version + 1
    return described


def _from_1(described: Described) -> Described:
    """Format 2 says whether the embedding is rectified, and what the decoder of a masked autoencoder gives out."""
    manifest, settings = described
    settings.setdefault("network", {}).setdefault("rectify_embedding", False)
    is_autoencoder = settings.get("pretext", {}).get("name") == "masked_autoencoder"
    if is_autoencoder:
        settings["pretext"].setdefault("output", "identity")
    if manifest.get("pretext") == "masked_autoencoder" and manifest.get("pretext_settings") is not None:
        manifest["pretext_settings"].setdefault("output", "identity")
    return described


_MIGRATIONS: dict[int, Callable[[Described], Described]] = {1: _from_1}
"""By the format that is read; each gives the next one."""
