"""Export a model as one file that runs without this package: counts in, embedding and probabilities out."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float

from selfcell.core.atomic import atomic_path
from selfcell.core.errors import InputError
from selfcell.data.counts import TARGET_TOTAL
from selfcell.data.source import Cells
from selfcell.downstream.classifier_confidence import ClassifierConfidence
from selfcell.downstream.embed import as_model, embed_counts
from selfcell.downstream.exported_files import FORMATS, FileFormat, Network
from selfcell.downstream.exported_network import ExportedNetwork
from selfcell.downstream.labelled_reference import ALPHA
from selfcell.downstream.type_classifier import classify, trained_head
from selfcell.training.run_folder import TrainedModel, describe_environment

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
TOLERANCE = {"embedding": 1e-4, "probability": 1e-3}
"""Largest difference between a file and its model, as a share of the largest value. Single precision leaves some 1e-6,
which a temperature below 1 enlarges in probabilities."""
_N_CHECKED = 64


def export(model: TrainedModel | str | Path, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a model as one file that runs without this package, and check it against the model.

    The network takes ``counts``, raw counts of the model's genes in their order, float32, for any number of cells, and
    normalizes them itself. It gives ``embedding``, as :func:`selfcell.embed` does, and of a model that was fine-tuned
    for cell types ``probability``, of which the largest of a cell is the confidence that :func:`selfcell.annotate`
    reports. All outputs of a cell that ``embed`` would refuse, as it has no counts, are NaN. Heads of other tasks are
    left out. What the file holds of its genes, labels and origin is in ``docs/export.md``.

    Parameters
    ----------
    model
        A loaded model, or a run folder.
    path
        The file to make: ``.onnx``, for onnxruntime and others, or ``.pt2``, for :func:`torch.export.load`.
    overwrite
        Replace a file that is there.

    Raises
    ------
    InputError
        If the file is named otherwise or there already, what its format needs is not installed, or the model is too
        large for it.
    FloatingPointError
        If what the file gives differs from what the model gives by more than :data:`TOLERANCE`; no file is left then.

    Examples
    --------
    >>> selfcell.export("runs/mae", "encoder.pt2")
    """
    model, path = as_model(model), Path(path)
    if path.suffix not in FORMATS:
        raise InputError(f"{path} must end in {' or '.join(FORMATS)}, which says what format it is.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already. Name another file, or replace it (--overwrite).")
    network, kind = ExportedNetwork.of(model), FORMATS[path.suffix]
    _say_what_is_left_out(model)
    with atomic_path(path) as temporary:
        kind.write(network, json.dumps(description(model), ensure_ascii=False), temporary)
        opened = kind.read(temporary)
        if opened is None:
            logger.warning("%s is not checked against the model, as %s is not installed.", path, kind.by)
        else:
            _check(opened, model, path, kind)


def description(model: TrainedModel) -> dict[str, Any]:
    """Give what a file holds beside the network: genes, labels, how sure it is, and where it comes from."""
    manifest, versions = model.manifest, describe_environment()["versions"]
    about: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "selfcell_version": versions["selfcell"],
        "torch_version": versions["torch"],
        "model": {
            # Not the whole path: files go to others.
            "name": model.path.name,
            "weights_sha256": model.weights_digest,
            **{name: manifest[name] for name in ("kind", "task", "pretext", "seed", "imported") if name in manifest},
            "data": {
                name: manifest["data"][name]
                for name in ("fingerprint", "n_cells", "n_genes")
                if name in manifest["data"]
            },
        },
        "normalization": {"target_total": TARGET_TOTAL, "transform": "log1p"},
        "gene_ids": list(model.genes.ids),
        "gene_symbols": list(model.genes.symbols),
    }
    if model.labels is not None:
        calibration = manifest.get("calibration")
        about["labels"] = list(model.labels)
        about["calibration"] = (
            None if calibration is None else {key: calibration[key] for key in ("temperature", "least_probability")}
        )
    return about


def _say_what_is_left_out(model: TrainedModel) -> None:
    task = model.manifest.get("task")
    if task not in {None, "cell_type"}:
        logger.info("The encoder is exported; what was trained beside it for %s is not.", task)
    if model.labels is not None and "calibration" not in model.manifest:
        logger.warning(
            "No cells were held out to calibrate the classifier on, so the probabilities are not calibrated. Fine-tune "
            "with --validation-fraction 0.15 for that."
        )


def _check(opened: Network, model: TrainedModel, path: Path, kind: FileFormat) -> None:
    """Compare a file with its model on simulated cells, all together and one alone."""
    counts = _simulated_counts(len(model.genes))
    expected = _outputs_of_model(model, counts)
    found = {name: np.concatenate([output, opened(counts[:1])[name]]) for name, output in opened(counts).items()}
    said = []
    for name, outputs in expected.items():
        both = np.concatenate([outputs, outputs[:1]])
        difference = float(np.abs(found[name] - both).max() / np.abs(both).max())
        if not difference <= TOLERANCE[name]:
            raise FloatingPointError(
                f"{path} is not written: run by {kind.by}, its {name} differs from the model's by {difference:.1e} of "
                f"the largest value, more than {TOLERANCE[name]:g}."
            )
        said.append(f"{name} {difference:.1e} (at most {TOLERANCE[name]:g})")
    logger.info(
        "Checked: run by %s on %d simulated cells, the file gives what the model gives. Largest difference, as a share "
        "of the largest value: %s.",
        kind.by,
        _N_CHECKED,
        ", ".join(said),
    )


def _simulated_counts(n_genes: int) -> Float[np.ndarray, "n_cells n_genes"]:
    """Draw cells of 50 to 50,000 counts, most of them in a few genes, each cell with one at least."""
    random = np.random.default_rng(0)
    rate = random.lognormal(sigma=2.0, size=n_genes)
    depth = np.geomspace(50, 50_000, _N_CHECKED)
    counts = random.poisson(depth[:, None] * rate / rate.sum()).astype(np.float32)
    counts[:, rate.argmax()] += 1
    return np.asarray(counts)


def _outputs_of_model(model: TrainedModel, counts: Float[np.ndarray, "n_cells n_genes"]) -> dict[str, np.ndarray]:
    sparse = sp.csr_matrix(counts)
    outputs = {"embedding": embed_counts(model.encoder, sparse)}
    if model.labels is not None:
        confidence = ClassifierConfidence.of_manifest(model.manifest, alpha=ALPHA)
        obs = pd.DataFrame(index=[f"cell {number}" for number in range(len(counts))])
        cells = Cells(sparse, model.genes, obs, origin="simulated cells", counts_address="X", scale="counts")
        outputs["probability"] = confidence.probability(classify(model.encoder, trained_head(model), cells))
    return outputs
