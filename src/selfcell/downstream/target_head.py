"""A head that predicts targets from an embedding: ten proteins, or a hundred thousand peaks."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from selfcell.data.loader import cell_loader
from selfcell.data.minibatch import CellMinibatch
from selfcell.data.source import Cells
from selfcell.data.target_transforms import TfIdf
from selfcell.data.targets import Targets
from selfcell.downstream.embed import CELLS_AT_ONCE
from selfcell.downstream.supervised import Supervised
from selfcell.downstream.target_space import Link, Matrix, TargetPrediction, TargetSpace, TransformName
from selfcell.network.compute import quick_float32
from selfcell.network.dropout import QuickDropout
from selfcell.network.encoder import ACTIVATIONS, MlpEncoder
from selfcell.network.likelihoods import NegativeBinomial
from selfcell.pretext.base import Loss

LossName = Literal["squared_error", "negative_binomial", "bernoulli"]
LINKS: dict[LossName, Link] = {
    "squared_error": "identity",
    "negative_binomial": "log1p_of_exp",
    "bernoulli": "sigmoid",
}
"""From what a head gives to values, for each loss."""
_TARGETS_AT_ONCE = 8_192
_LARGEST_LOG_MEAN = 15.0


def loss_of(transform: TransformName) -> LossName:
    """Give the loss that fits a transform."""
    if transform == "counts":
        return "negative_binomial"
    return "bernoulli" if transform == "binary" else "squared_error"


class TargetHead(nn.Module):
    r"""Activation, dropout and Linear from the embedding to targets; see ``hidden_size`` for one more layer.

    For the squared error the Linear gives each target, or each direction of the targets, in units of its standard
    deviation over training cells and about its mean. Directions are orthonormal, so the error in them is that of all
    targets but for a constant. Likelihoods have a Linear from a few directions to all targets instead, which is
    learned; what it gives is added to the log mean, or the logit of the mean, of each target over training cells.

    Parameters
    ----------
    encoder
        The network whose embedding it takes; its activation and dropout are the head's.
    loss
        What it is trained by.
    n_targets
        Proteins or peaks.
    n_directions
        Numbers predicted of a cell, from which the targets are made; as many as targets for each by itself.
    hidden_size
        Units of one more block, 0 for none.
    weighs_documents
        Keep the inverse document frequencies of TF-IDF too.
    """

    offset: Tensor
    scale: Tensor

    def __init__(
        self,
        encoder: MlpEncoder,
        *,
        loss: LossName,
        n_targets: int,
        n_directions: int,
        hidden_size: int,
        weighs_documents: bool = False,
    ) -> None:
        super().__init__()
        self.loss, self.n_targets = loss, n_targets
        activation, dropout = ACTIVATIONS[encoder.settings.activation], encoder.settings.dropout
        blocks: list[nn.Module] = [activation(), QuickDropout(dropout)]
        if hidden_size:
            blocks += [nn.Linear(encoder.n_latent, hidden_size), activation(), QuickDropout(dropout)]
        self.layers = nn.Sequential(*blocks, nn.Linear(hidden_size or encoder.n_latent, n_directions))
        self.register_buffer("offset", torch.zeros(n_targets))
        self.register_buffer("scale", torch.ones(n_directions))
        few = n_directions < n_targets
        self.expand = nn.Linear(n_directions, n_targets) if few and loss != "squared_error" else None
        if few and loss == "squared_error":
            self.register_buffer("components", torch.zeros(n_directions, n_targets))
        if weighs_documents:
            self.register_buffer("inverse_document_frequency", torch.zeros(n_targets))
        self.likelihood = NegativeBinomial(n_targets) if loss == "negative_binomial" else None

    @classmethod
    def for_space(cls, encoder: MlpEncoder, space: TargetSpace, train: Targets, *, hidden_size: int) -> "TargetHead":
        """Make a head for the targets of training cells."""
        loss = loss_of(space.name)
        head = cls(
            encoder,
            loss=loss,
            n_targets=len(train.names),
            n_directions=space.n_directions,
            hidden_size=hidden_size,
            weighs_documents=isinstance(space.transform, TfIdf),
        )
        for name, found in head_state_of(space, train, loss).items():
            head.get_buffer(name).copy_(torch.from_numpy(found))
        return head

    @classmethod
    def from_state(
        cls, encoder: MlpEncoder, state: dict[str, Tensor], *, transform: TransformName, hidden_size: int
    ) -> "TargetHead":
        """Make a head of weights that were stored."""
        head = cls(
            encoder,
            loss=loss_of(transform),
            n_targets=len(state["offset"]),
            n_directions=len(state["scale"]),
            hidden_size=hidden_size,
            weighs_documents="inverse_document_frequency" in state,
        )
        head.load_state_dict(state)
        return head.eval()

    def forward(self, embedding: Float[Tensor, "n_cells n_latent"]) -> Float[Tensor, "n_cells n_directions"]:
        """Give the directions of targets."""
        directions: Tensor = self.layers(embedding) * self.scale
        return directions

    def compute_loss(
        self, directions: Float[Tensor, "n_cells n_directions"], truth: Float[Tensor, "n_cells n_values"]
    ) -> Float[Tensor, ""]:
        """Give the mean loss of an entry, from what :meth:`forward` gives.

        Parameters
        ----------
        directions
            Of the cells.
        truth
            Coordinates of the targets for the squared error, else counts, or 0 and 1.
        """
        n_entries = len(directions) * self.n_targets
        if self.loss == "squared_error":
            return (directions - truth).square().sum() / n_entries
        blocks = list(_blocks(self.n_targets))
        if len(blocks) == 1:
            return self._loss_of_block(directions, truth, blocks[0]) / n_entries
        # Arrays of cells x targets are made anew on the way back instead of being kept for it.
        losses = [
            checkpoint(self._loss_of_block, directions, truth[:, block], block, use_reentrant=False) for block in blocks
        ]
        return torch.stack(losses).sum() / n_entries

    def _loss_of_block(self, directions: Tensor, truth: Tensor, block: slice) -> Tensor:
        if self.expand is None:
            linear = directions[:, block]
        else:
            linear = functional.linear(directions, self.expand.weight[block], self.expand.bias[block])
        linear = linear + self.offset[block]
        if self.likelihood is None:
            return functional.binary_cross_entropy_with_logits(linear, truth, reduction="sum")
        return self.likelihood.negative_log(linear.clamp(max=_LARGEST_LOG_MEAN), truth, genes=block).sum()

    def prediction(self, directions: Float[np.ndarray, "n_cells n_directions"]) -> TargetPrediction:
        """Give the values that directions stand for."""
        offset, link = self.offset.numpy(), LINKS[self.loss]
        if self.expand is not None:
            weight, bias = self.expand.weight.detach().numpy(), self.expand.bias.detach().numpy()
            return TargetPrediction(directions, weight.T, offset + bias, link)
        components = dict(self.named_buffers()).get("components")
        return TargetPrediction(directions, None if components is None else components.numpy(), offset, link)


def head_state_of(space: TargetSpace, train: Targets, loss: LossName) -> dict[str, np.ndarray]:
    """Give what a head takes from the targets of training cells, as the buffers of :class:`TargetHead`."""
    if loss != "squared_error":
        values = train.matrix if loss == "negative_binomial" else space.values(train)
        # Half a count more keeps what no training cell has from minus infinity.
        total = np.asarray(values.sum(axis=0, dtype=np.float64)).ravel() + 0.5
        offset = np.log(total / len(train))
        if loss == "bernoulli":
            offset = np.log(total / (len(train) + 1 - total))
        return {"offset": offset.astype(np.float32)}
    spread = space.coordinates(space.values(train)).std(axis=0)
    found = {"offset": space.center, "scale": spread.astype(np.float32)}
    if space.components is not None:
        found["components"] = space.components
    if isinstance(space.transform, TfIdf):
        found["inverse_document_frequency"] = space.transform.inverse_document_frequency.astype(np.float32)
    return found


class TargetRegressor(Supervised):
    """An encoder with a head that predicts targets.

    Parameters
    ----------
    encoder
        Trained along.
    head
        On its embedding.
    truth
        What the head is to give, one row a cell that is trained on or watched; ``codes["row"]`` of a minibatch points
        into it. Sparse rows are made dense a minibatch at a time.
    """

    def __init__(self, encoder: MlpEncoder, head: TargetHead, truth: Matrix) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.truth = truth

    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:  # noqa: ARG002
        """Give the loss of the targets."""
        directions = self.head(self.encoder(minibatch.sparse_expression()))
        return Loss(total=self.head.compute_loss(directions, self._truth_of(minibatch.codes["row"])))

    def _truth_of(self, row: Int[Tensor, " n_cells"]) -> Tensor:
        rows = self.truth[row.cpu().numpy()]
        dense = rows.toarray() if sp.issparse(rows) else rows
        return torch.from_numpy(dense).to(row.device)


def predict_targets(encoder: MlpEncoder, head: TargetHead, cells: Cells) -> TargetPrediction:
    """Predict the targets of cells in the encoder's order of genes."""
    encoder.eval()
    head.eval()
    with torch.inference_mode(), quick_float32():
        parts = [
            head(encoder(minibatch.sparse_expression())).numpy()
            for minibatch in cell_loader(cells.counts, minibatch_size=CELLS_AT_ONCE)
        ]
    return head.prediction(np.concatenate(parts))


def _blocks(n_targets: int) -> Iterator[slice]:
    return (slice(start, start + _TARGETS_AT_ONCE) for start in range(0, n_targets, _TARGETS_AT_ONCE))
