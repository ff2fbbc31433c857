"""MoCo: tell the other view of a cell from a queue of cells seen before."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from selfcell.data.minibatch import CellMinibatch
from selfcell.data.programs import GenePrograms
from selfcell.network.encoder import MlpEncoder
from selfcell.network.gather import gather_cells
from selfcell.network.heads import HeadSizes, projection_head, projection_spread
from selfcell.network.projection_queue import ProjectionQueue
from selfcell.network.target import TargetNetwork
from selfcell.pretext.base import Loss, TargetNetworkTask
from selfcell.pretext.two_views import TwoViews, TwoViewSettings


class MocoSettings(TwoViewSettings):
    """Settings of MoCo."""

    name: Literal["moco"] = "moco"
    """The pretext task; `selfcell list` names them all."""
    projector_sizes: HeadSizes = (256, 128)
    """Hidden units and output of the projector; version 2 of the paper has 2048 and 128."""
    queue_size: int = Field(default=1024, ge=2)
    """Keys to compare with, from earlier minibatches. The paper has 65536, a twentieth of its images; a queue as long
    as the data compares a cell with itself."""
    temperature: float = Field(default=0.2, gt=0)
    """Divides the cosines; the paper has 0.07, its version 2 has 0.2."""
    target_momentum: float = Field(default=0.99, ge=0, le=1)
    """Share of the network that makes the keys which is kept at each step; the paper has 0.999 for longer training."""


class Moco(TargetNetworkTask):
    r"""Find a cell's other view among the keys of cells seen before :cite:p:`he2020moco`.

    Encoder and projector make a query :math:`q` of the first view; the target network, their moving average without
    gradient, makes a key :math:`k` of the second. With the queue :math:`Q` of the last keys, all at unit length,

    .. math:: L = -\frac{1}{N} \sum_c \log \frac{\exp(q_c \cdot k_c / \tau)}
        {\exp(q_c \cdot k_c / \tau) + \sum_{u \in Q} \exp(q_c \cdot u / \tau)} .

    After each step the target network moves, with constant momentum, and the step's keys, of all processes, replace the
    oldest of the queue. The queue starts as random directions and holds cells only after ``queue_size`` of them, so
    the loss rises at first.

    Departs from the paper in sizes, and in having no batch norm in the projector: nothing leaks from key to query
    through the statistics of a minibatch, for which the paper shuffles cells between devices.

    Parameters
    ----------
    settings
        Settings.
    encoder
        The network to train.
    programs
        Gene programmes, where the views need them.
    """

    Settings = MocoSettings
    moving_target = True
    follows_progress = False

    def __init__(self, settings: MocoSettings, *, encoder: MlpEncoder, programs: GenePrograms | None = None) -> None:
        super().__init__(settings, encoder=encoder, programs=programs)
        self.settings = settings
        self.encoder = encoder
        self.views = TwoViews(settings, programs=programs)
        self.projector = projection_head([encoder.n_latent, *settings.projector_sizes], batch_norm=False)
        self.target_network = TargetNetwork(nn.Sequential(encoder, self.projector))
        self.queue = ProjectionQueue(size=settings.queue_size, n_units=settings.projector_sizes[-1])
        self._step_keys: Tensor | None = None

    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:
        """Cross-entropy of the right key; logs the mean cosine with it as ``alignment``, and ``projection_spread``."""
        first, second = self.views(minibatch, generator=generator)
        embedding = self.encoder(first)
        query = self.projector(embedding)
        key = self.target_network(second)
        if self.training:
            self._step_keys = gather_cells(key)
        return Loss(
            total=queue_cross_entropy(query, key, queue=self.queue.projections, temperature=self.settings.temperature),
            terms={
                "alignment": functional.cosine_similarity(query, key).mean().detach(),
                "projection_spread": projection_spread(query),
            },
            embedding=embedding.detach(),
        )

    def update_target(self, *, progress: float) -> None:  # noqa: ARG002
        """Move the target network, and enqueue the keys of the last training step."""
        source = nn.Sequential(self.encoder, self.projector)
        self.target_network.update(source, momentum=self.settings.target_momentum)
        if self._step_keys is not None:
            self.queue.enqueue(self._step_keys)
            self._step_keys = None


def queue_cross_entropy(
    query: Float[Tensor, "n_cells n_units"],
    key: Float[Tensor, "n_cells n_units"],
    *,
    queue: Float[Tensor, "queue_size n_units"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of each query's own key against a queue of others.

    Parameters
    ----------
    query, key
        Projections of the two views, cell by cell, of any length.
    queue
        Other keys, at unit length.
    temperature
        Divides the cosines.
    """
    query, key = functional.normalize(query, dim=1), functional.normalize(key, dim=1)
    own = (query * key).sum(dim=1, keepdim=True)
    logits = torch.cat([own, query @ queue.T], dim=1) / temperature
    return functional.cross_entropy(logits, torch.zeros(query.shape[0], dtype=torch.int64, device=query.device))
