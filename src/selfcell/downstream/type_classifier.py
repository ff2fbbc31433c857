"""A classifier of cell types: an encoder with a linear head."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from selfcell.data.loader import cell_loader
from selfcell.data.minibatch import CellMinibatch
from selfcell.data.source import Cells
from selfcell.downstream.embed import CELLS_AT_ONCE
from selfcell.downstream.supervised import Supervised
from selfcell.network.compute import quick_float32
from selfcell.network.encoder import ACTIVATIONS, MlpEncoder
from selfcell.pretext.base import Loss


class CellTypeClassifier(Supervised):
    """An encoder with a linear head on its activated embedding, trained by weighted cross-entropy.

    The head is the paper's: activation, dropout, Linear. The activation is the one the encoder was trained with.

    Parameters
    ----------
    encoder
        Trained along.
    class_weight
        Weight of each class in the loss.
    label_smoothing
        Share of each label that is spread over all classes.
    """

    def __init__(
        self, encoder: MlpEncoder, *, class_weight: Float[Tensor, " n_classes"], label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.label_smoothing = label_smoothing
        self.head = classifier_head(encoder, n_classes=len(class_weight))
        self.register_buffer("class_weight", class_weight, persistent=False)

    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:  # noqa: ARG002
        """Cross-entropy of the labels; logs ``accuracy``."""
        label_code = minibatch.codes["label"]
        logits = self.head(self.encoder(minibatch.sparse_expression()))
        accuracy = (logits.argmax(dim=1) == label_code).float().mean()
        weight = self.get_buffer("class_weight")
        total = nn.functional.cross_entropy(logits, label_code, weight=weight, label_smoothing=self.label_smoothing)
        # Types that no training cell has weigh nothing; held-out cells may be of these alone, and 0 / 0 is no loss.
        total = torch.where(weight[label_code].sum() > 0, total, 0.0)
        return Loss(total=total, terms={"accuracy": accuracy})


def classifier_head(encoder: MlpEncoder, *, n_classes: int) -> nn.Sequential:
    """Make the head of a classifier: activation, dropout, Linear."""
    activation = ACTIVATIONS[encoder.settings.activation]()
    return nn.Sequential(activation, nn.Dropout(encoder.settings.dropout), nn.Linear(encoder.n_latent, n_classes))


def classify(encoder: MlpEncoder, head: nn.Module, cells: Cells) -> Float[np.ndarray, "n_cells n_classes"]:
    """Give the probability of each class for each cell."""
    encoder.eval()
    head.eval()
    with torch.inference_mode(), quick_float32():
        parts = [
            head(encoder(minibatch.sparse_expression())).softmax(dim=1).numpy()
            for minibatch in cell_loader(cells.counts, minibatch_size=CELLS_AT_ONCE)
        ]
    probability: np.ndarray = np.concatenate(parts)
    return probability


def balanced_class_weight(label_code: Int[np.ndarray, " n_cells"], *, n_classes: int) -> Float[Tensor, " n_classes"]:
    """Weigh each class by n_cells / (classes present x its cells), as scikit-learn does; absent classes by 0."""
    n_cells = np.bincount(label_code, minlength=n_classes)
    with np.errstate(divide="ignore"):
        weight = len(label_code) / ((n_cells > 0).sum() * n_cells)
    return torch.from_numpy(np.where(n_cells > 0, weight, 0.0).astype(np.float32))
