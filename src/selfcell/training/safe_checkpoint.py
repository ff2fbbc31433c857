"""Lightning checkpoints without pickle: one safetensors file, everything that is no tensor as JSON in its header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from lightning.fabric.plugins import CheckpointIO

from selfcell.core.atomic import atomic_path
from selfcell.core.reading import check_fields, reading
from selfcell.training.finite import NotFiniteError

_HEADER_KEY = "state"
_RELIED_ON: dict[str, type] = {
    **dict.fromkeys(("state_dict", "loops", "callbacks"), dict),
    **dict.fromkeys(("optimizer_states", "lr_schedulers"), list),
    **dict.fromkeys(("epoch", "global_step"), int),
    "pytorch-lightning_version": str,
}
"""Entries that a checkpoint of Lightning has, with their types."""


class SafetensorsCheckpointIO(CheckpointIO):
    """Writes and reads the nested state of a Lightning training run as safetensors, atomically."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint, unless a weight is NaN or infinite; what was there before is then kept."""
        _refuse_damaged(checkpoint)
        tensors: dict[str, torch.Tensor] = {}
        state = json.dumps(_pack(checkpoint, tensors))
        with atomic_path(Path(path), durable=True) as temporary:
            safetensors.torch.save_file(tensors, temporary, metadata={_HEADER_KEY: state})

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; tensors come to the CPU and Lightning moves them."""
        with reading(Path(path)), safetensors.safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            checkpoint = _unpacked(file, tensors)
            for name, weight in checkpoint["state_dict"].items():
                if not isinstance(weight, torch.Tensor):
                    raise TypeError(f"{name} is no tensor")
            return checkpoint

    def load_progress(self, path: Path) -> dict[str, Any]:
        """Read a checkpoint without its tensors: None stands for each."""
        with reading(path), safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return _unpacked(file, dict.fromkeys(file.keys()))

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


def _unpacked(file: Any, tensors: Mapping[str, torch.Tensor | None]) -> dict[str, Any]:
    unpacked = _unpack(json.loads(file.metadata()[_HEADER_KEY]), tensors)
    check_fields(unpacked, **_RELIED_ON)
    return dict(unpacked)


def _refuse_damaged(checkpoint: dict[str, Any]) -> None:
    for name, weight in checkpoint.get("state_dict", {}).items():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            where = {"step": int(checkpoint["global_step"]), "epoch": int(checkpoint["epoch"])}
            raise NotFiniteError(f"weight {name.removeprefix('objective.')}", float(weight.sum()), **where)


def _pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Turn nested state into JSON with tensors taken out; mappings become lists of pairs, as keys may be integers."""
    if isinstance(value, torch.Tensor):
        name = f"tensor_{len(tensors)}"
        # How it lies in memory is kept: an optimizer goes through weights and their state side by side.
        by_column = value.ndim == 2 and not value.is_contiguous() and value.T.is_contiguous()
        # A copy of its own: safetensors refuses tensors that share memory.
        tensors[name] = (value.T if by_column else value).detach().cpu().contiguous().clone()
        return {"tensor_by_column" if by_column else "tensor": name}
    if isinstance(value, dict):
        return {"pairs": [[_pack(key, tensors), _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_pack(item, tensors) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"A checkpoint holds a {type(value).__name__}, which has no form in JSON.")


def _unpack(value: Any, tensors: Mapping[str, torch.Tensor | None]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "tensor_by_column" in value:
        laid_by_row = tensors[value["tensor_by_column"]]
        return None if laid_by_row is None else laid_by_row.T
    if "tuple" in value:
        return tuple(_unpack(item, tensors) for item in value["tuple"])
    return {_unpack(key, tensors): _unpack(item, tensors) for key, item in value["pairs"]}
