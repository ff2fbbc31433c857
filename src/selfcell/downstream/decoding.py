"""From cells to what a model's decoder expects of them: the autoencoder of a run, and its expected expression."""

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from torch import Tensor

from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.core.reading import reading
from selfcell.data.counts import TARGET_TOTAL
from selfcell.data.loader import cell_loader
from selfcell.data.minibatch import CellMinibatch
from selfcell.downstream.count_distribution import CountDistribution
from selfcell.downstream.reconstruction_scores import Forecast
from selfcell.network.compute import quick_float32
from selfcell.network.encoder import MlpEncoder
from selfcell.network.likelihoods import Likelihood, NegativeBinomial
from selfcell.pretext.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderSettings
from selfcell.training.run_folder import TrainedModel

DECODER_PARTS = ("decoder", "likelihood")
"""The children of a masked autoencoder that decode; weights of a run's heads begin with their names."""


def has_decoder(model: TrainedModel) -> bool:
    """Tell whether a run has a decoder of gene expression: of a masked autoencoder, or fine-tuned to reconstruct."""
    reconstructs = model.manifest.get("task") == "reconstruction"
    is_autoencoder = model.manifest["kind"] == "pretrained" and model.manifest.get("pretext") == "masked_autoencoder"
    # Of an imported checkpoint the decoder may have been left out.
    return (reconstructs or is_autoencoder) and any(name.startswith("decoder.") for name in model.head_state)


def require_decoder(model: TrainedModel, *, remedy: str) -> None:
    """Refuse a run without a decoder.

    Parameters
    ----------
    model
        The run.
    remedy
        What to do instead: a sentence.

    Raises
    ------
    InputError
        If it has none.
    """
    if has_decoder(model):
        return
    task, pretext = model.manifest.get("task"), model.manifest.get("pretext")
    if why := model.manifest.get("imported", {}).get("left_out", {}).get("decoder."):
        raise InputError(f"{model.path} was imported without its decoder: {why}. {remedy}")
    how = f"pre-trained by {pretext}" if task is None else f"fine-tuned for {task}"
    raise InputError(f"{model.path} was {how}, which leaves no decoder of gene expression. {remedy}")


def decoder_settings(model: TrainedModel) -> MaskedAutoencoderSettings:
    """Give the plain autoencoder whose decoder a run has, or would have: loss and output are those of pre-training.

    A run that was pre-trained without a decoder takes the squared error.
    """
    kept: dict[str, Any] = {"mask": "none"}
    if model.manifest.get("pretext") == "masked_autoencoder":
        with reading(model.path / "manifest.json"):
            kept |= {name: model.manifest["pretext_settings"][name] for name in ("likelihood", "output")}
    return build(MaskedAutoencoderSettings, kept)


def load_autoencoder(model: TrainedModel) -> MaskedAutoencoder:
    """Give a run's encoder with its decoder, which :func:`require_decoder` has made sure of, in evaluation mode."""
    with torch.random.fork_rng():
        encoder = MlpEncoder(model.encoder.settings, n_genes=model.encoder.n_genes)
        autoencoder = MaskedAutoencoder(decoder_settings(model), encoder=encoder)
    encoder.load_state_dict(model.encoder.state_dict())
    load_decoder(autoencoder, model)
    return autoencoder.eval().requires_grad_(requires_grad=False)


def load_decoder(autoencoder: MaskedAutoencoder, model: TrainedModel) -> None:
    """Put the weights of a run's decoder into an autoencoder."""
    for part in DECODER_PARTS:
        prefix = f"{part}."
        weights = {name.removeprefix(prefix): w for name, w in model.head_state.items() if name.startswith(prefix)}
        with reading(model.path / "heads.safetensors"):
            autoencoder.get_submodule(part).load_state_dict(weights)


def decode(autoencoder: MaskedAutoencoder, counts: sp.csr_matrix) -> tuple[Float[Tensor, "n_cells n_outputs"], Tensor]:
    """Give what the decoder gives for a block of cells, with the counts of each cell.

    Parameters
    ----------
    autoencoder
        In evaluation mode.
    counts
        Of some cells, in the encoder's order of genes; few enough that cells x outputs fit in memory.

    Raises
    ------
    FloatingPointError
        If the decoder gives values that are not finite.
    """
    device = next(autoencoder.encoder.parameters()).device
    minibatch: CellMinibatch = next(iter(cell_loader(counts, minibatch_size=counts.shape[0]))).to(device)
    with torch.inference_mode(), quick_float32(exact=device.type != "cpu"):
        outputs = autoencoder.decoder(autoencoder.encoder(minibatch.sparse_expression()))
        if not torch.isfinite(outputs).all():
            raise FloatingPointError("The decoder gives values that are not finite; its weights are probably damaged.")
        return outputs, minibatch.library_size


def expected_expression(autoencoder: MaskedAutoencoder, counts: sp.csr_matrix) -> Float[np.ndarray, "n_cells n_genes"]:
    """Give the expected expression of a block of cells: ``log1p`` of counts per 10,000, never negative.

    A decoder of counts gives the mean count per 10,000, of which the ``log1p`` is taken. That lies above the mean of
    the ``log1p``, which a decoder trained on the squared error gives. What is expected below 0 becomes 0.
    """
    return _expression(autoencoder.likelihood, *decode(autoencoder, counts))


def forecast_by_decoder(autoencoder: MaskedAutoencoder, counts: sp.csr_matrix) -> Forecast:
    """Give the expected expression of a block of cells and, of a decoder of counts, their distribution."""
    outputs, library_size = decode(autoencoder, counts)
    likelihood = autoencoder.likelihood
    expression = _expression(likelihood, outputs, library_size)
    if not likelihood.of_counts:
        return Forecast(expression)
    log_theta = likelihood.log_theta.detach().cpu().numpy() if isinstance(likelihood, NegativeBinomial) else None
    decoded = outputs.cpu().numpy()
    return Forecast(
        expression, lambda depth: CountDistribution.of_outputs(decoded, depth, log_inverse_dispersion=log_theta)
    )


def expected_counts(autoencoder: MaskedAutoencoder, counts: sp.csr_matrix) -> Float[np.ndarray, "n_cells n_genes"]:
    """Give the expected counts of a block of cells at each cell's own depth.

    A decoder of counts gives their mean. One of ``log1p`` expression gives the counts that have the expected
    ``log1p``, which lie below the mean.
    """
    outputs, library_size = decode(autoencoder, counts)
    likelihood = autoencoder.likelihood
    with torch.inference_mode():
        expected = likelihood.expected(outputs, library_size)
        if not likelihood.of_counts:
            expected = expected.clamp(min=0).expm1() * (library_size[:, None] / TARGET_TOTAL)
        return np.asarray(expected.cpu().numpy())


def _expression(
    likelihood: Likelihood, outputs: Float[Tensor, "n_cells n_outputs"], library_size: Float[Tensor, " n_cells"]
) -> Float[np.ndarray, "n_cells n_genes"]:
    with torch.inference_mode():
        expected = likelihood.expected(outputs, torch.full_like(library_size, TARGET_TOTAL))
        expected = expected.log1p() if likelihood.of_counts else expected.clamp(min=0)
        return np.asarray(expected.cpu().numpy())
