"""A classifier of cell types: an encoder with a linear head."""

from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from selfcell.core.reading import reading
from selfcell.data.loader import cell_loader
from selfcell.data.minibatch import CellMinibatch
from selfcell.data.source import Cells
from selfcell.downstream.embed import CELLS_AT_ONCE
from selfcell.downstream.supervised import Supervised
from selfcell.network.compute import quick_float32
from selfcell.network.encoder import ACTIVATIONS, MlpEncoder
from selfcell.pretext.base import Loss
from selfcell.training.run_folder import TrainedModel

ClassWeights: TypeAlias = Literal["balanced", "root", "none"]
"""How much a class weighs: one over its number of cells, one over the root of it, or every cell alike."""
_POWER: dict[ClassWeights, float] = {"balanced": 1.0, "root": 0.5, "none": 0.0}


class CellTypeClassifier(Supervised):
    """An encoder with a linear head on its activated embedding, trained by weighted cross-entropy.

    The head is the paper's: activation, dropout, Linear. The activation is the one the encoder was trained with.

    Parameters
    ----------
    encoder
        Trained along.
    class_weight
        Weight of the cells of each class in the loss; 0 for a class that no training cell has.
    label_smoothing
        Share of each label that is spread over all classes that have a weight.
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
        total = weighted_cross_entropy(logits, label_code, weight=weight, label_smoothing=self.label_smoothing)
        return Loss(total=total, terms={"accuracy": accuracy})


def weighted_cross_entropy(
    logits: Float[Tensor, "n_cells n_classes"],
    label_code: Int[Tensor, " n_cells"],
    *,
    weight: Float[Tensor, " n_classes"],
    label_smoothing: float,
) -> Float[Tensor, ""]:
    r"""Give the cross-entropy of smoothed labels, each cell weighing as its class does.

    .. math::

        \frac{\sum_i w_{y_i} \big( (1 - \epsilon) \ell_{i y_i}
        + \frac{\epsilon}{C} \sum_{c: w_c > 0} \ell_{ic} \big)}{\sum_i w_{y_i}},
        \quad \ell_{ic} = -\log \mathrm{softmax}(z_i)_c

    with C the number of classes of any weight. torch's own weighs :math:`\ell_{ic}` by class c instead, so that what is
    spread over classes goes to the rarest: with balanced weights nearly every cell is then taken for one of these.
    Without a cell of any weight, the loss is 0.
    """
    surprise = -torch.log_softmax(logits, dim=1)
    present = weight > 0
    spread = surprise[:, present].mean(dim=1) if label_smoothing else 0.0
    loss = (1 - label_smoothing) * surprise.gather(1, label_code[:, None])[:, 0] + label_smoothing * spread
    of_cell = weight[label_code]
    # Held-out cells may be of absent types alone, and 0 / 0 is no loss.
    return (of_cell * loss).sum() / of_cell.sum().clamp(min=torch.finfo(loss.dtype).tiny)


def classifier_head(encoder: MlpEncoder, *, n_classes: int) -> nn.Sequential:
    """Make the head of a classifier: activation, dropout, Linear."""
    activation = ACTIVATIONS[encoder.settings.activation]()
    return nn.Sequential(activation, nn.Dropout(encoder.settings.dropout), nn.Linear(encoder.n_latent, n_classes))


def trained_head(model: TrainedModel) -> nn.Sequential:
    """Give the head of a fine-tuned classifier, with its weights, in evaluation mode."""
    assert model.labels is not None
    head = classifier_head(model.encoder, n_classes=len(model.labels))
    with reading(model.path / "heads.safetensors"):
        head.load_state_dict({name.removeprefix("head."): tensor for name, tensor in model.head_state.items()})
    return head.eval()


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


def class_weight(
    label_code: Int[np.ndarray, " n_cells"], *, n_classes: int, kind: ClassWeights
) -> Float[np.ndarray, " n_classes"]:
    """Give the weight of the cells of each class, 1 in the mean over cells; 0 for a class without cells.

    ``balanced`` is n_cells / (classes present x cells of the class), as in scikit-learn.
    """
    n_cells = np.bincount(label_code, minlength=n_classes).astype(float)
    present = n_cells > 0
    weight = np.zeros(n_classes)
    weight[present] = n_cells[present] ** -_POWER[kind]
    weight *= len(label_code) / (weight @ n_cells)
    return weight
