"""What ``manifest.json`` and ``split.json`` of a run folder must say, checked where they are read."""

import math
from collections.abc import Mapping
from typing import Any

from selfcell.core.reading import check_fields

_TABLE = (dict, type(None))
_TEXT = (str, type(None))
_LIST = (list, type(None))
_OPTIONAL: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("fit", "pretext_settings", "calibration", "imported", "composition"), _TABLE),
    **dict.fromkeys(("task", "pretext", "label_key", "target", "transform", "start"), _TEXT),
    **dict.fromkeys(("labels", "target_names"), _LIST),
}
"""Entries that only some runs have; others may stand beside them."""
_PARTS = ("train", "validation", "test")


def check_manifest(manifest: Any) -> None:
    """Check what is relied on of a manifest, in the present format.

    Raises
    ------
    ValueError
        If an entry is missing or of another type.
    """
    check_fields(manifest, status=str, kind=str, seed=int, data=dict, versions=dict, machine=dict)
    check_fields(manifest, **{name: kinds for name, kinds in _OPTIONAL.items() if name in manifest})
    data = manifest["data"]
    check_fields(data, fingerprint=str, origin=str)
    check_fields(data, **{name: int for name in data if name.startswith("n_")})
    for name in ("labels", "target_names"):
        if any(not isinstance(one, str) for one in manifest.get(name) or ()):
            raise ValueError(f"{name} must be a list of names")
    if (fit := manifest.get("fit")) is not None:
        check_fields(fit, epochs=(int, float), kept_epoch=(int, float), seconds=(int, float))
        check_fields(fit, validation_loss=(int, float, type(None)))
    if (calibration := manifest.get("calibration")) is not None:
        check_fields(calibration, temperature=float, least_probability=dict)
        check_fields(calibration["least_probability"], **dict.fromkeys(calibration["least_probability"], float))
        if not 0 < calibration["temperature"] < math.inf:
            raise ValueError(f"the temperature of the calibration cannot be {calibration['temperature']}")


def check_split(split: Any) -> None:
    """Check what is relied on of a split: donors of each part, positions of each, or a rule.

    Raises
    ------
    ValueError
        If none of them is there, or it is of another type.
    """
    check_fields(split, unit=str)
    if split["unit"] != "cell":
        _check_parts(split, "donors", str)
    elif "rule" in split:
        check_fields(split, rule=dict)
        numbers = (int, float)
        check_fields(split["rule"], seed=int, validation_fraction=numbers, test_fraction=numbers)
    else:
        _check_parts(split, "positions", int)


def _check_parts(split: Mapping[str, Any], of_what: str, kind: type) -> None:
    check_fields(split, **{of_what: dict})
    check_fields(split[of_what], **dict.fromkeys(_PARTS, list))
    for part in _PARTS:
        for one in split[of_what][part]:
            if not isinstance(one, kind) or isinstance(one, bool) or (isinstance(one, int) and one < 0):
                raise ValueError(f"the {of_what} of {part} cannot be {str(one)[:40]!r}")
