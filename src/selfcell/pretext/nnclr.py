"""NNCLR: the positive of a cell is the nearest cell seen before, not its own other view."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from selfcell.data.minibatch import CellMinibatch
from selfcell.data.programs import GenePrograms
from selfcell.network.encoder import MlpEncoder
from selfcell.network.gather import gather_cells, gathered_positions
from selfcell.network.heads import HeadSizes, projection_head, projection_spread
from selfcell.network.projection_queue import ProjectionQueue
from selfcell.pretext.base import Loss, TargetNetworkTask
from selfcell.pretext.two_views import TwoViews, TwoViewSettings


class NnclrSettings(TwoViewSettings):
    """Settings of NNCLR."""

    name: Literal["nnclr"] = "nnclr"
    """The pretext task; `selfcell list` names them all."""
    projector_sizes: HeadSizes = (256, 256, 128)
    """Hidden units and output of the projector; the paper has 2048, 2048 and 256."""
    predictor_sizes: HeadSizes = (256,)
    """Hidden units of the predictor, whose output is as wide as the projector's; the paper has 4096."""
    queue_size: int = Field(default=1024, ge=1)
    """Projections of earlier cells among which neighbors are sought; the paper has 98304."""
    temperature: float = Field(default=0.1, gt=0)
    """Divides the cosines."""


class Nnclr(TargetNetworkTask):
    r"""Predict from one view of a cell the nearest neighbor of its other view :cite:p:`dwibedi2021`.

    :math:`n_{1,c}` is the direction in a queue of earlier projections that is nearest to the projection of the first
    view of cell :math:`c`, and :math:`p_{2,k}` the prediction made from the second view of cell :math:`k`. At unit
    length, over the :math:`N` cells of the minibatch,

    .. math:: L_{12} = -\frac{1}{N} \sum_c \log \frac{\exp(n_{1,c} \cdot p_{2,c} / \tau)}
        {\sum_k \exp(n_{1,c} \cdot p_{2,k} / \tau)} , \qquad L = \tfrac{1}{2} (L_{12} + L_{21}) .

    No gradient flows through the neighbors. After each step the first views' projections, of all processes, replace
    the oldest of the queue, which starts as random directions. Departs from the paper in sizes and in AdamW for LARS.

    Parameters
    ----------
    settings
        Settings.
    encoder
        The network to train.
    programs
        Gene programmes, where the views need them.
    """

    Settings = NnclrSettings
    compares_cells = True
    moving_target = True
    follows_progress = False

    def __init__(self, settings: NnclrSettings, *, encoder: MlpEncoder, programs: GenePrograms | None = None) -> None:
        super().__init__(settings, encoder=encoder, programs=programs)
        self.settings = settings
        self.encoder = encoder
        self.views = TwoViews(settings, programs=programs)
        n_units = settings.projector_sizes[-1]
        self.projector = projection_head([encoder.n_latent, *settings.projector_sizes], last="batch_norm")
        self.predictor = projection_head([n_units, *settings.predictor_sizes, n_units])
        self.queue = ProjectionQueue(size=settings.queue_size, n_units=n_units)
        self._step_projection: Tensor | None = None

    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:
        """Cross-entropy both ways; logs the mean cosine of neighbor and prediction as ``alignment``, and the spread."""
        embedding, second_embedding = self.views(minibatch, generator=generator).embedded(self.encoder)
        first_projection, second_projection = self.projector(embedding), self.projector(second_embedding)
        first_neighbor = nearest_in_queue(first_projection, queue=self.queue.projections)
        second_neighbor = nearest_in_queue(second_projection, queue=self.queue.projections)
        second_prediction = self.predictor(second_projection)
        temperature = self.settings.temperature
        total = 0.5 * neighbor_cross_entropy(first_neighbor, second_prediction, temperature=temperature)
        total = total + 0.5 * neighbor_cross_entropy(
            second_neighbor, self.predictor(first_projection), temperature=temperature
        )
        if self.training:
            self._step_projection = gather_cells(first_projection.detach())
        return Loss(
            total=total,
            terms={
                "alignment": functional.cosine_similarity(first_neighbor, second_prediction).mean().detach(),
                "projection_spread": projection_spread(first_projection),
            },
            embedding=embedding.detach(),
        )

    def update_target(self, *, progress: float) -> None:  # noqa: ARG002
        """Enqueue the first views' projections of the last training step."""
        if self._step_projection is not None:
            self.queue.enqueue(self._step_projection)
            self._step_projection = None


@torch.no_grad()
def nearest_in_queue(
    projection: Float[Tensor, "n_cells n_units"], *, queue: Float[Tensor, "queue_size n_units"]
) -> Float[Tensor, "n_cells n_units"]:
    """Give of each cell the direction in the queue with the largest cosine; the queue is at unit length."""
    return queue[(projection @ queue.T).argmax(dim=1)]


def neighbor_cross_entropy(
    neighbor: Float[Tensor, "n_cells n_units"], prediction: Float[Tensor, "n_cells n_units"], *, temperature: float
) -> Float[Tensor, ""]:
    """Cross-entropy of each neighbor's own prediction among the predictions of all processes.

    Parameters
    ----------
    neighbor
        Direction at unit length, one a cell.
    prediction
        Made from the other view of the same cells, of any length.
    temperature
        Divides the cosines.
    """
    candidates = gather_cells(functional.normalize(prediction, dim=1))
    logits = neighbor @ candidates.T / temperature
    return functional.cross_entropy(logits, gathered_positions(neighbor.shape[0], device=neighbor.device))
