"""Make a model folder of a checkpoint of Richter et al. 2025, which commands use as they use one of pre-training."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfcell.core.atomic import atomic_folder, write_text
from selfcell.core.config import Settings, build, to_toml
from selfcell.core.digest import sha256_of
from selfcell.core.errors import InputError, speaking_of
from selfcell.network.encoder import EncoderSettings, MlpEncoder
from selfcell.training.import_tables import read_class_names, read_gene_table
from selfcell.training.out_folder import MARKER, check_folder
from selfcell.training.paper_checkpoint import PaperCheckpoint, recognize
from selfcell.training.paper_layouts import CLASSIFIER, NEGATIVE_BINOMIAL
from selfcell.training.run_folder import TrainedModel, load, write_genes, write_manifest, write_state, write_weights
from selfcell.training.torch_file import read_state_dict

logger = logging.getLogger(__name__)

_PAPER_SEED = 0
_DECODER_AS_EVALUATED = (
    "it decodes the embedding as trained, and not what ReLU makes of it: import without --as-evaluated-in-paper "
    "(as_evaluated_in_paper) to impute with it"
)


class ImportedSettings(Settings):
    """What ``config.toml`` of an imported model holds; how it was trained the checkpoint does not say."""

    network: EncoderSettings


def import_checkpoint(
    path: str | Path,
    *,
    genes: str | Path,
    out: str | Path,
    labels: str | Path | None = None,
    as_evaluated_in_paper: bool = False,
    allow_numpy: bool = False,
    overwrite: bool = False,
) -> TrainedModel:
    """Make a model folder of a checkpoint that the authors of :cite:t:`richter2025` released, or that their code wrote.

    Which kind of model it is, its keys and shapes tell: a masked autoencoder, one with a negative binomial, a
    cell-type classifier, BYOL, SimSiam or Barlow Twins. Nothing in the file is run.

    Parameters
    ----------
    path
        The file, a Lightning checkpoint or a bare state dict.
    genes
        A table in Parquet or CSV with a row for each gene, in the order of the encoder's input: Ensembl ids as the
        index or the column ``feature_id``, symbols as the column ``feature_name``, or both.
    out
        The model folder to make.
    labels
        The names of a classifier's types, in the order of its outputs: one a line, or a column of a Parquet or CSV
        file.
    as_evaluated_in_paper
        Use the weights as the paper's evaluation does: ReLU between blocks, and a rectified embedding. Otherwise the
        network is the one that was trained, with SELU (ReLU in a classifier) and a bare embedding.
    allow_numpy
        Let the file hold scalars and arrays of numpy beside the weights.
    overwrite
        Replace a folder that was made before.

    Returns
    -------
    The model. What was left out of the file and why is under ``imported`` in its manifest.

    Raises
    ------
    InputError
        If the file cannot be read or recognized, keys are left over or missing, or genes or labels do not fit.
    """
    path, out = Path(path), Path(out)
    check_folder(out, overwrite=overwrite)
    state = read_state_dict(path, allow_numpy=allow_numpy)
    with speaking_of(str(path)):
        found = recognize(state)
        network = _network_of(found, as_evaluated_in_paper=as_evaluated_in_paper)
    table = read_gene_table(Path(genes), n_genes=found.widths[0])
    names = _class_names(found, labels)
    heads, left_out = _heads_of(found, as_evaluated_in_paper=as_evaluated_in_paper)
    with torch.random.fork_rng():
        encoder = MlpEncoder(network, n_genes=len(table))
    encoder.load_state_dict({f"layers.{key}": weight for key, weight in found.encoder.items()})
    _say_what_it_is(path, found, left_out)
    imported = {
        "file": path.name,
        "sha256": sha256_of(path),
        "layout": found.layout.name,
        "as_evaluated_in_paper": as_evaluated_in_paper,
        "left_out": left_out,
        "warning": found.layout.warning,
    }
    data = {"origin": path.name, "fingerprint": imported["sha256"], "n_genes": len(table)}
    about = {**_kind_of(found, names), "seed": _PAPER_SEED, "imported": imported, "data": data}
    with atomic_folder(out) as temporary:
        write_text(temporary / "config.toml", to_toml(ImportedSettings(network=network)))
        write_genes(temporary / "genes.csv", table)
        write_weights(temporary / "encoder.safetensors", encoder)
        write_state(temporary / "heads.safetensors", heads)
        write_manifest(temporary, {**about, "status": "finished"})
        (temporary / MARKER).touch()
    return load(out)


def _network_of(found: PaperCheckpoint, *, as_evaluated_in_paper: bool) -> EncoderSettings:
    uses_relu = as_evaluated_in_paper or found.layout is CLASSIFIER
    _, *hidden_sizes, n_latent = found.widths
    return build(
        EncoderSettings,
        {
            "hidden_sizes": hidden_sizes,
            "n_latent": n_latent,
            "activation": "relu" if uses_relu else "selu",
            "rectify_embedding": as_evaluated_in_paper,
        },
    )


def _class_names(found: PaperCheckpoint, labels: str | Path | None) -> tuple[str, ...]:
    if found.layout is not CLASSIFIER:
        if labels is not None:
            raise InputError(
                f"--labels (labels) names the types of a classifier, but the checkpoint is of kind {found.layout.name}."
            )
        return ()
    if labels is None:
        raise InputError(
            f"The checkpoint is a classifier of {found.n_classes} types, whose names it does not hold. Give them in "
            "the order of its outputs, in a file with one a line: --labels FILE (labels)."
        )
    return read_class_names(Path(labels), n_classes=found.n_classes)


def _heads_of(found: PaperCheckpoint, *, as_evaluated_in_paper: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Give the weights beside the encoder under the names that a run has for them, and what is left out and why."""
    if found.layout is CLASSIFIER:
        # Of the head's three modules, activation, dropout and Linear, the last has weights.
        return {f"head.2.{part}": _whole(weight) for part, weight in found.head.items()}, found.left_out
    if found.decoder and as_evaluated_in_paper:
        return {}, {**found.left_out, "decoder.": _DECODER_AS_EVALUATED}
    return {f"decoder.{key}": _whole(weight) for key, weight in found.decoder.items()}, found.left_out


def _whole(weight: Tensor) -> Tensor:
    # In memory of its own: safetensors refuses weights that share it.
    return weight.float().clone()


def _kind_of(found: PaperCheckpoint, names: tuple[str, ...]) -> dict[str, Any]:
    layout = found.layout
    if layout is CLASSIFIER:
        return {
            "kind": "fine-tuned",
            "task": "cell_type",
            "pretext": None,
            "pretext_settings": None,
            "labels": list(names),
        }
    settings: dict[str, Any] = {}
    if layout.output is not None:
        likelihood = "negative_binomial" if layout is NEGATIVE_BINOMIAL else "squared_error"
        settings = {"likelihood": likelihood, "output": layout.output}
    return {"kind": "pretrained", "pretext": layout.pretext, "pretext_settings": settings}


def _say_what_it_is(path: Path, found: PaperCheckpoint, left_out: dict[str, str]) -> None:
    logger.info("%s is of kind %s, with layers %s.", path, found.layout.name, "-".join(map(str, found.widths)))
    for begin, why in left_out.items():
        logger.info("Left out: %s* (%s).", begin, why)
    if found.layout.warning is not None:
        logger.warning("%s", found.layout.warning)
