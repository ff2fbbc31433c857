"""BYOL: predict what a slowly moving copy of the network says of another view of the cell."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from selfcell.data.minibatch import CellMinibatch
from selfcell.data.programs import GenePrograms
from selfcell.network.encoder import MlpEncoder
from selfcell.network.heads import HeadSizes, projection_head, projection_spread
from selfcell.network.target import TargetNetwork, cosine_momentum
from selfcell.pretext.base import Loss, TargetNetworkTask
from selfcell.pretext.two_views import TwoViews, TwoViewSettings


class ByolSettings(TwoViewSettings):
    """Settings of BYOL."""

    name: Literal["byol"] = "byol"
    """The pretext task; `selfcell list` names them all."""
    projector_sizes: HeadSizes = (512, 128)
    """Hidden units and output of the projector; the papers have 4096 and 256."""
    predictor_sizes: HeadSizes = (512,)
    """Hidden units of the predictor, whose output is as wide as the projector's; the papers have 4096."""
    target_momentum: float = Field(default=0.99, ge=0, le=1)
    """Share of the target network kept at the first step, rising to 1 at the last; 1 never moves the target."""


class Byol(TargetNetworkTask):
    r"""Predict the projection that a target network gives of the other view :cite:p:`grill2020`.

    Encoder, projector and predictor see one view and give :math:`p`; the target network, a moving average of encoder
    and projector without gradient, sees the other and gives :math:`t`. Both ways are added up, averaged over cells:

    .. math:: L = \left(2 - 2 \cos(p_1, t_2)\right) + \left(2 - 2 \cos(p_2, t_1)\right) ,

    and after each step :math:`\xi \leftarrow m \xi + (1 - m) \theta` with :math:`m` on a half cosine to 1.

    Departs from the paper in the sizes of the heads, which are for fewer units and cells, and in a momentum that starts
    at 0.99 instead of 0.996, as trainings are shorter. Departs from the code released with
    :cite:t:`richter2025`, where the target network keeps its random weights (``target_momentum = 1`` does the same) and
    the encoder's last layer is bypassed: here the target moves and the whole encoder is trained.

    Parameters
    ----------
    settings
        Settings.
    encoder
        The network to train.
    programs
        Gene programmes, where the views need them.
    """

    Settings = ByolSettings
    compares_cells = True
    moving_target = True

    def __init__(self, settings: ByolSettings, *, encoder: MlpEncoder, programs: GenePrograms | None = None) -> None:
        super().__init__(settings, encoder=encoder, programs=programs)
        self.settings = settings
        self.encoder = encoder
        self.views = TwoViews(settings, programs=programs)
        n_units = settings.projector_sizes[-1]
        self.projector = projection_head([encoder.n_latent, *settings.projector_sizes])
        self.predictor = projection_head([n_units, *settings.predictor_sizes, n_units])
        self.target_network = TargetNetwork(nn.Sequential(encoder, self.projector))

    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:
        """Both prediction errors; logs the mean cosine as ``alignment``, and ``projection_spread``."""
        views = self.views(minibatch, generator=generator)
        embedding, second_embedding = views.embedded(self.encoder)
        first_projection, second_projection = self.projector(embedding), self.projector(second_embedding)
        first_target, second_target = self.target_network.of_both(views)
        total = prediction_error(self.predictor(first_projection), second_target) + prediction_error(
            self.predictor(second_projection), first_target
        )
        return Loss(
            total=total,
            terms={"alignment": 1 - total.detach() / 4, "projection_spread": projection_spread(first_projection)},
            embedding=embedding.detach(),
        )

    def update_target(self, *, progress: float) -> None:
        """Move the target network towards encoder and projector."""
        momentum = cosine_momentum(self.settings.target_momentum, progress)
        self.target_network.update(nn.Sequential(self.encoder, self.projector), momentum=momentum)


def prediction_error(
    prediction: Float[Tensor, "n_cells n_units"], target: Float[Tensor, "n_cells n_units"]
) -> Float[Tensor, ""]:
    """Squared distance of the two at unit length, averaged over cells: 0 if they agree, 4 if they are opposite."""
    return (2 - 2 * functional.cosine_similarity(prediction, target, dim=1)).mean()
