"""A run folder: all that is needed to use, judge or repeat a training run. Safetensors, JSON, TOML and CSV only.

==================== ================================================================================
config.toml          every setting, nothing left to defaults
encoder.safetensors  weights of the encoder
heads.safetensors    weights of what was trained beside it
genes.csv            id and symbol of each gene, in the order of the encoder's input
manifest.json        format version, kind, status, package versions, data, seed, machine, seconds
split.json           which donors (or cells) were for training, validation and test
cells.safetensors    hashes of the cells, by which one is known again; not of cells streamed from disk
log.csv              one row an epoch
checkpoints/         what ``resume`` continues from
tensorboard/         the same curves for TensorBoard
==================== ================================================================================
"""

import functools
import hashlib
import importlib.metadata
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from selfcell.core.atomic import atomic_path, write_json
from selfcell.core.config import build, read_toml
from selfcell.core.errors import InputError
from selfcell.core.reading import check_fields, read_object, read_table, reading
from selfcell.data.genes import GeneTable
from selfcell.network.encoder import EncoderSettings, MlpEncoder
from selfcell.training.hub import find_model
from selfcell.training.known_cells import KnownCells, read_known_cells
from selfcell.training.migrations import FORMAT_VERSION, migrate
from selfcell.training.run_facts import check_manifest, check_split

_PACKAGES = ("selfcell", "torch", "lightning", "anndata", "numpy", "scipy", "pandas", "scikit-learn")


@dataclass(frozen=True)
class TrainedModel:
    """A trained encoder with its genes and, if it has been fine-tuned, its head."""

    encoder: MlpEncoder
    """In evaluation mode."""
    genes: GeneTable
    manifest: dict[str, Any]
    path: Path
    split: dict[str, Any] | None
    """What ``split.json`` holds."""
    head_state: dict[str, torch.Tensor]
    """Weights of what was trained beside the encoder: a decoder, or a classifier."""
    address: str | None = None
    """Of a model that was loaded by its name on the Hub: repository and commit, as ``org/name@commit``."""

    def __repr__(self) -> str:
        what = self.manifest.get("pretext") or self.manifest["kind"]
        return f"TrainedModel({what}, {len(self.genes):,} genes to {self.encoder.n_latent} dimensions, {self.name!r})"

    @property
    def name(self) -> str:
        """Where the model is from: its address on the Hub, or else its folder."""
        return self.address or str(self.path)

    @functools.cached_property
    def known_cells(self) -> KnownCells | None:
        """The cells of the run, for one to be known again; None where the run has kept no list."""
        return read_known_cells(self.path)

    @functools.cached_property
    def weights_digest(self) -> str:
        """SHA-256 over all weights, by which two trainings of the same settings are told apart."""
        digest = hashlib.sha256()
        for state in (self.encoder.state_dict(), self.head_state):
            for name, tensor in sorted(state.items()):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The classes of a fine-tuned classifier, in the order of its outputs; None for a pre-trained encoder."""
        labels = self.manifest.get("labels")
        return None if labels is None else tuple(labels)


def write_weights(path: Path, module: nn.Module) -> None:
    """Write a module's weights as safetensors, atomically."""
    write_state(path, module.state_dict())


def write_state(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Write weights by name as safetensors, atomically."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(contiguous, temporary)


def write_genes(path: Path, genes: GeneTable) -> None:
    """Write ``genes.csv`` atomically."""
    with atomic_path(path) as temporary:
        genes.to_frame().to_csv(temporary, index=False)


def write_manifest(path: Path, content: dict[str, Any]) -> None:
    """Write ``manifest.json`` with the format version and what describes this machine."""
    write_json(path / "manifest.json", {"format_version": FORMAT_VERSION, **content, **describe_environment()})


def describe_environment() -> dict[str, Any]:
    """Give the versions of the packages that matter, and the machine."""
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "command": " ".join(Path(part).name if position == 0 else part for position, part in enumerate(sys.argv)),
    }


@functools.cache
def _version(package: str) -> str:
    return importlib.metadata.version(package)


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a run's ``manifest.json``, as this format has it.

    Raises
    ------
    InputError
        If it is no run folder, or of a newer format.
    """
    found = _read_manifest(path)
    with reading(path / "manifest.json"):
        manifest = migrate(found, {}).manifest
        check_manifest(manifest)
    return manifest


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings of a run, its ``config.toml``, as this format has them; raises as :func:`read_manifest`."""
    found, file = _read_manifest(path), path / "config.toml"
    if not file.exists():
        raise InputError(f"{path} is incomplete: {file.name} is missing.")
    settings = read_toml(file)
    with reading(file):
        check_fields(settings, **dict.fromkeys(settings.keys() & {"network", "pretext"}, dict))
        return migrate(found, settings).settings


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    if not path.exists():
        raise InputError(f"There is no run folder {str(path)!r}.")
    if not file.exists():
        raise InputError(
            f"{path} is not a run folder: it has no manifest.json. Give the folder that was named as --out."
        )
    manifest = read_object(file)
    found = manifest.get("format_version")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise InputError(f"{file} is damaged, or not of selfcell: it names no format version.")
    if found > FORMAT_VERSION:
        versions = manifest.get("versions")
        maker = versions.get("selfcell", "a newer version") if isinstance(versions, dict) else "a newer version"
        raise InputError(
            f"{path} has run format {found}, made with selfcell {maker}; this is selfcell {_version('selfcell')}, "
            f"which reads formats up to {FORMAT_VERSION}. Upgrade it: pip install --upgrade selfcell."
        )
    return manifest


def load(model: str | Path) -> TrainedModel:
    """Load the encoder of a finished run.

    Parameters
    ----------
    model
        The run folder; or, where there is no such folder, a model on the Hugging Face Hub: ``org/name`` or
        ``org/name@revision``, fetched as :func:`selfcell.pull` does and kept in the Hub's cache.

    Raises
    ------
    InputError
        If it is no finished run folder of a format that can be read, a file in it is damaged, or the Hub has no such
        model.

    Examples
    --------
    >>> model = selfcell.load("runs/mae")  # or "org/name" on the Hub
    >>> model.encoder.n_latent
    64
    """
    path, address = find_model(model)
    manifest = read_manifest(path)
    if manifest["status"] != "finished":
        raise InputError(
            f"The run in {path} is not finished. Go on with it by the command that began it (pretrain or finetune), "
            "with --resume (resume=True in Python)."
        )
    with reading(path / "genes.csv"):
        genes = GeneTable.from_frame(read_table(path / "genes.csv", dtype=str, keep_default_na=False))
    with reading(path / "config.toml"):
        network = build(EncoderSettings, read_settings(path)["network"])
    return TrainedModel(
        encoder=_read_encoder(path / "encoder.safetensors", network, n_genes=len(genes)),
        genes=genes,
        manifest=manifest,
        path=path,
        split=_read_split(path / "split.json"),
        head_state=_read_weights(path / "heads.safetensors"),
        address=None if address is None else str(address),
    )


def _read_encoder(path: Path, network: EncoderSettings, *, n_genes: int) -> MlpEncoder:
    """Read an encoder; weights of other sizes are refused before a network of what settings say is made."""
    weights = _read_weights(path)
    with reading(path):
        with torch.device("meta"):
            expected = MlpEncoder(network, n_genes=n_genes).state_dict()
        _check_shapes(weights, expected)
        with torch.random.fork_rng():
            encoder = MlpEncoder(network, n_genes=n_genes)
        encoder.load_state_dict(weights)
    return encoder.eval().requires_grad_(requires_grad=False)


def _check_shapes(weights: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    for name in sorted({*expected, *weights}):
        shapes = [tuple(state[name].shape) if name in state else None for state in (weights, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{name} is {shapes[0]}, but by config.toml and genes.csv it is {shapes[1]}")
        if weights[name].is_floating_point() and not bool(weights[name].isfinite().all()):
            raise ValueError(f"{name} has values that are not finite")


def _read_split(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    split = read_object(path)
    with reading(path):
        check_split(split)
    return split


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} is missing or damaged ({error}).") from error
