"""SimSiam: predict the other view's projection, which is held still for the gradient."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from selfcell.data.minibatch import CellMinibatch
from selfcell.data.programs import GenePrograms
from selfcell.network.encoder import MlpEncoder
from selfcell.network.heads import HeadSizes, projection_head, projection_spread
from selfcell.pretext.base import Loss, PretextTask
from selfcell.pretext.two_views import TwoViews, TwoViewSettings


class SimSiamSettings(TwoViewSettings):
    """Settings of SimSiam."""

    name: Literal["simsiam"] = "simsiam"
    """The pretext task; `selfcell list` names them all."""
    projector_sizes: HeadSizes = (256, 256, 256)
    """Hidden units and output of the projector; the paper has 2048, 2048 and 2048."""
    predictor_sizes: HeadSizes = (64,)
    """Hidden units of the predictor, a quarter of the projector's output as in the paper, which has 512."""


class SimSiam(PretextTask):
    r"""Predict the projection of the other view, through which no gradient flows :cite:p:`chen2021simsiam`.

    With projections :math:`z` and predictions :math:`p` of both views, averaged over cells,

    .. math:: L = -\tfrac{1}{2} \cos(p_1, \mathrm{sg}(z_2)) - \tfrac{1}{2} \cos(p_2, \mathrm{sg}(z_1)) ,

    from 1 down to -1, where :math:`\mathrm{sg}` stops the gradient. Batch norm without scale ends the projector; the
    predictor is narrow in its middle.

    Departs from the paper in the sizes of the heads, and in one learning rate for all layers, where the paper keeps the
    predictor's constant.

    Parameters
    ----------
    settings
        Settings.
    encoder
        The network to train.
    programs
        Gene programmes, where the views need them.
    """

    Settings = SimSiamSettings
    compares_cells = True
    moving_target = True

    def __init__(self, settings: SimSiamSettings, *, encoder: MlpEncoder, programs: GenePrograms | None = None) -> None:
        super().__init__(settings, encoder=encoder, programs=programs)
        self.settings = settings
        self.encoder = encoder
        self.views = TwoViews(settings, programs=programs)
        n_units = settings.projector_sizes[-1]
        self.projector = projection_head([encoder.n_latent, *settings.projector_sizes], last="batch_norm_without_scale")
        self.predictor = projection_head([n_units, *settings.predictor_sizes, n_units])

    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:
        """Negative cosine; logs the mean cosine as ``alignment``, and ``projection_spread``."""
        embedding, second_embedding = self.views(minibatch, generator=generator).embedded(self.encoder)
        first_projection = self.projector(embedding)
        second_projection = self.projector(second_embedding)
        total = 0.5 * negative_cosine(self.predictor(first_projection), second_projection) + 0.5 * negative_cosine(
            self.predictor(second_projection), first_projection
        )
        return Loss(
            total=total,
            terms={"alignment": -total.detach(), "projection_spread": projection_spread(first_projection)},
            embedding=embedding.detach(),
        )


def negative_cosine(
    prediction: Float[Tensor, "n_cells n_units"], projection: Float[Tensor, "n_cells n_units"]
) -> Float[Tensor, ""]:
    """Mean over cells of the negative cosine; the projection gets no gradient."""
    return -functional.cosine_similarity(prediction, projection.detach(), dim=1).mean()
