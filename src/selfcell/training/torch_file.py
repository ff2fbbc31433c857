"""Read the weights in a file that torch wrote, by torch's weights-only loader: nothing that is in it is ever run."""

import _codecs
import functools
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from selfcell.core.errors import InputError

_DAMAGED = (
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    EOFError,
    OSError,
    MemoryError,
)
"""What torch raises, beside pickle's and struct's own errors, where a file is cut short or of another kind."""
_NAMED = re.compile(r"GLOBAL (\S+) was not an allowed global")
_OF_NUMPY = re.compile(r"got <class 'numpy\.dtypes\.(\w+)DType'>")
_LONGEST_NAME = 100
_TAKE_OUT = (
    "If you trust who made the file, take the weights out where it was made: "
    "torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW)."
)


def read_state_dict(path: Path, *, allow_numpy: bool = False) -> dict[str, Tensor]:
    """Read the weights by name: what a file holds, or what a Lightning checkpoint has as its ``state_dict``.

    Beside them it may hold plain data, and name optimizers, schedules and activations of torch, as the arguments of a
    network that Lightning keeps do; none of these is made.

    Parameters
    ----------
    path
        The file.
    allow_numpy
        Let it hold numpy's scalars, types and arrays of numbers and text too, as settings beside the weights do.

    Raises
    ------
    InputError
        If there is no such file, it is damaged, it holds no weights, something that is no plain data, or weights that
        are no plain arrays.
    """
    if not path.is_file():
        raise InputError(f"There is no file {str(path)!r}.")
    try:
        allowed = [*_named_classes(), *(_numpy_globals() if allow_numpy else [])]
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            # torch warns of how a file was pickled; whether it can be read is what matters.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, struct.error, *_DAMAGED) as error:
        known = {name for _, name in _named_classes()}
        refused = [name for name in _foreign(path, error) if not (name in known or (allow_numpy and _is_numpys(name)))]
        raise InputError(_why_refused(path, refused) if refused else _why_not_read(path, error)) from error
    state = _weights_of(content, path)
    _refuse_unusual(state, path)
    return state


def _weights_of(content: Any, path: Path) -> dict[str, Tensor]:
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    is_state = isinstance(state, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )
    if not is_state or not state:
        raise InputError(
            f"{path} holds no weights by name: it is neither a Lightning checkpoint, which has a state_dict, nor a "
            "state dict. Save one: torch.save(network.state_dict(), FILE)."
        )
    return dict(state)


def _refuse_unusual(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that would take more memory than the file has, or that are no arrays of numbers."""
    for name, weight in state.items():
        if not _is_plain(weight):
            raise InputError(
                f"{path}: {shortened(name)} is no plain array with a value in the file for each of its entries. Save "
                "it as one: weight.to_dense().contiguous()."
            )


def _is_plain(weight: Tensor) -> bool:
    is_array = weight.layout == torch.strided and weight.device.type == "cpu"
    if not is_array or weight.is_nested or weight.is_quantized:
        return False
    return weight.numel() * weight.element_size() <= weight.untyped_storage().nbytes()


def shortened(name: str) -> str:
    """Give a name of weights for a message: of one without end its beginning."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."


def _foreign(path: Path, error: Exception) -> list[str]:
    """Name what the loader refuses to make: functions and classes that are no plain data."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (pickle.UnpicklingError, struct.error, *_DAMAGED):
        # Of files in torch's older format the loader itself names the first.
        return _NAMED.findall(str(error))


def _why_refused(path: Path, refused: list[str]) -> str:
    named = ", ".join(refused[:5]) + (f" and {len(refused) - 5} more" if len(refused) > 5 else "")
    if all(map(_is_numpys, refused)):
        return (
            f"{path} holds values of numpy beside its weights ({named}), which are read only if allowed: --allow-numpy "
            "(allow_numpy=True). Numbers and text alone are allowed by that."
        )
    return (
        f"{path} holds more than weights and plain data ({named}). Reading that could run any code, so it is refused. "
        f"{_TAKE_OUT}"
    )


def _why_not_read(path: Path, error: Exception) -> str:
    if (kind := _OF_NUMPY.search(str(error))) is not None:
        return (
            f"{path} holds values of numpy of a kind that is never read ({kind[1]}): --allow-numpy (allow_numpy=True) "
            f"allows numbers and text alone. {_TAKE_OUT}"
        )
    first_line = (str(error).strip() or type(error).__name__).split("\n")[0].partition(". ")[0]
    return (
        f"{path} is cut short, or no file that torch wrote ({first_line}). Download it again, as the file itself and "
        "not as the page or pointer that stands for it."
    )


class _ClassByName:
    """Stands for a class of torch that a file names among its settings: nothing of torch's can be made by it."""


@functools.cache
def _named_classes() -> tuple[tuple[type, str], ...]:
    """List the optimizers, schedules and activations of torch, which Lightning keeps of a network's arguments."""
    packages = (torch.optim, torch.optim.lr_scheduler, torch.nn.modules.activation)
    classes = {value for package in packages for value in vars(package).values() if isinstance(value, type)}
    found = {f"{one.__module__}.{one.__qualname__}" for one in classes if one.__module__.startswith("torch.")}
    return tuple((_ClassByName, name) for name in sorted(found))


def _is_numpys(name: str) -> bool:
    return name.partition(".")[0] == "numpy" or name == "_codecs.encode"


def _numpy_globals() -> list[Any]:
    """List what scalars, types and arrays of numbers are pickled as, by its names in numpy 1 and 2."""
    scalar, rebuild = (cast("tuple[Any, ...]", value.__reduce__())[0] for value in (np.float64(0), np.zeros(1)))
    kinds = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdU"}
    by_old_name = [
        (made, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name, made in (("scalar", scalar), ("_reconstruct", rebuild))
    ]
    return [*by_old_name, np.dtype, np.ndarray, *kinds, _codecs.encode]
