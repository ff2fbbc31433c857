"""What an exported file computes: raw counts in, embedding and, of a classifier, calibrated probabilities out."""

import copy
import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from selfcell.data.counts import TARGET_TOTAL
from selfcell.downstream.classifier_confidence import ClassifierConfidence
from selfcell.downstream.labelled_reference import ALPHA
from selfcell.downstream.type_classifier import trained_head
from selfcell.network.compute import Compute
from selfcell.network.encoder import MlpEncoder
from selfcell.training.run_folder import TrainedModel

_TINY = torch.finfo(torch.float32).tiny
_LOWEST = math.log(_TINY)


class ExportedNetwork(nn.Module):
    """The normalization, the encoder and, of a fine-tuned classifier, its head and temperature, as one dense network.

    Parameters
    ----------
    encoder
        A copy of its own, on the CPU.
    head
        Of a classifier.
    temperature
        That its logits are divided by.
    """

    def __init__(self, encoder: MlpEncoder, head: nn.Module | None = None, *, temperature: float = 1.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.temperature = temperature

    @classmethod
    def of(cls, model: TrainedModel) -> "ExportedNetwork":
        """Copy the networks of a model."""
        encoder = copy.deepcopy(model.encoder).cpu()
        encoder.compute = Compute()
        first = cast("nn.Linear", encoder.layers[0])
        # Laid by gene it would be written as a view of a larger array, of which torch warns.
        first.weight = nn.Parameter(first.weight.detach().contiguous())
        head = None if model.labels is None else trained_head(model)
        temperature = ClassifierConfidence.of_manifest(model.manifest, alpha=ALPHA).temperature
        return cls(encoder, head, temperature=temperature).eval().requires_grad_(requires_grad=False)

    def forward(self, counts: Float[Tensor, "n_cells n_genes"]) -> dict[str, Float[Tensor, "n_cells n_outputs"]]:
        """Give ``embedding`` and, of a classifier, ``probability``.

        A graph cannot refuse a cell. Where :func:`selfcell.embed` would, as it has no counts, or one that is negative
        or not finite, all outputs of the cell are NaN.
        """
        library_size = counts.sum(dim=1, keepdim=True)
        # Asked of the counts themselves: in some runtimes ReLU makes 0 of NaN.
        is_usable = (counts.amin(dim=1, keepdim=True) >= 0) & (library_size > 0) & torch.isfinite(library_size)
        expression = torch.log1p(counts * (TARGET_TOTAL / library_size.clamp(min=_TINY)))
        embedding = self.encoder(expression)
        outputs = {"embedding": embedding}
        if self.head is not None:
            # No probability is taken for less than the smallest number, as in ClassifierConfidence.
            log_probability = self.head(embedding).log_softmax(dim=1).clamp(min=_LOWEST)
            outputs["probability"] = (log_probability / self.temperature).softmax(dim=1)
        return {name: torch.where(is_usable, output, torch.nan) for name, output in outputs.items()}
