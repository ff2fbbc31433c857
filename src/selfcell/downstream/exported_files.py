"""The formats that a network is exported in: how each is written, and run again to be checked."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float

from selfcell.core.errors import InputError
from selfcell.core.extras import import_extra
from selfcell.downstream.exported_network import ExportedNetwork

KEY = "selfcell"
"""Name under which a file holds what is known of it, as JSON: of ``metadata_props`` in ONNX."""
EXTRA_FILE = f"{KEY}.json"
"""The same of ``extra_files`` in torch's format."""
LARGEST_ONNX = 2_000_000_000
"""Bytes of weights: an ONNX file is one message of protobuf, which ends at 2 GiB."""

Network: TypeAlias = Callable[[Float[np.ndarray, "n_cells n_genes"]], dict[str, np.ndarray]]
"""Counts, float32, to outputs by name."""


class FileFormat(NamedTuple):
    """A format, by which a file name ends."""

    title: str
    write: Callable[[ExportedNetwork, str, Path], None]
    """Writes a network with what is known of it (JSON) to a path."""
    read: Callable[[Path], Network | None]
    """Opens what was written; None where nothing is installed that could run it."""
    by: str
    """What it is run by."""


def write_onnx(network: ExportedNetwork, about: str, path: Path) -> None:
    """Write a network as ONNX, all of it in one file.

    Raises
    ------
    InputError
        If onnx or onnxscript is not installed, or the weights do not fit in the format.
    """
    for package in ("onnx", "onnxscript"):  # torch writes the file with them
        import_extra(package, extra="onnx", use="Exporting to ONNX")
    n_bytes = sum(weight.nbytes for weight in network.parameters())
    if n_bytes > LARGEST_ONNX:
        raise InputError(
            f"The network has {n_bytes / 1e9:.1f} GB of weights, and an ONNX file holds 2 GB. Export it to a .pt2 file."
        )
    with _quiet_exporter():
        program = torch.onnx.export(
            network,
            _example(network),
            dynamo=True,
            input_names=["counts"],
            output_names=_output_names(network),
            dynamic_shapes=_dynamic_shapes(),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props[KEY] = about
    program.save(path, external_data=False)


def read_onnx(path: Path) -> Network | None:
    """Open a network with onnxruntime, on the CPU; None where that is not installed."""
    try:
        import onnxruntime  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda counts: dict(zip(names, session.run(names, {"counts": counts}), strict=True))


def write_pt2(network: ExportedNetwork, about: str, path: Path) -> None:
    """Write a network in the format of :func:`torch.export.save`."""
    with _quiet_exporter():
        program = torch.export.export(network, _example(network), dynamic_shapes=_dynamic_shapes())
        # They would be kept as a pickle.
        program.example_inputs = None
        # torch's own writer ends the process where the disk is full.
        content = io.BytesIO()
        torch.export.save(program, content, extra_files={EXTRA_FILE: about})
    path.write_bytes(content.getbuffer())


def read_pt2(path: Path) -> Network:
    """Open a network with :func:`torch.export.load`."""
    with _quiet_exporter():
        module = torch.export.load(path).module()

    def run(counts: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            return {name: output.numpy() for name, output in module(torch.from_numpy(counts)).items()}

    return run


FORMATS = {
    ".onnx": FileFormat("ONNX", write_onnx, read_onnx, by="onnxruntime"),
    ".pt2": FileFormat("torch.export", write_pt2, read_pt2, by="torch.export.load"),
}
"""By the suffix of the file."""


def _output_names(network: ExportedNetwork) -> list[str]:
    return ["embedding"] if network.head is None else ["embedding", "probability"]


def _example(network: ExportedNetwork) -> tuple[torch.Tensor]:
    # Of more than one cell, as torch takes a size of 1 for a fixed one.
    return (torch.ones(3, network.encoder.n_genes),)


def _dynamic_shapes() -> dict[str, Any]:
    return {"counts": {0: torch.export.Dim("n_cells", min=1)}}


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep back what torch says of itself while it exports: of torchvision, and of names that it is to drop."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        registration.setLevel(level)
