"""VICReg: views agree, every unit varies over cells, no two units vary together."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from selfcell.data.minibatch import CellMinibatch
from selfcell.data.programs import GenePrograms
from selfcell.network.encoder import MlpEncoder
from selfcell.network.gather import gather_cells
from selfcell.network.heads import HeadSizes, projection_head, projection_spread
from selfcell.pretext.base import Loss, PretextTask
from selfcell.pretext.two_views import TwoViews, TwoViewSettings


class VicregSettings(TwoViewSettings):
    """Settings of VICReg."""

    name: Literal["vicreg"] = "vicreg"
    """The pretext task; `selfcell list` names them all."""
    projector_sizes: HeadSizes = (256, 256, 256)
    """Hidden units and output of the projector; the paper has 8192, 8192 and 8192."""
    invariance_weight: float = Field(default=25.0, gt=0)
    """Weight of the squared distance of the two views."""
    variance_weight: float = Field(default=25.0, ge=0)
    """Weight of what each unit's standard deviation lacks to 1; 0 lets the projections collapse."""
    covariance_weight: float = Field(default=1.0, ge=0)
    """Weight of the covariances between units."""


class VicregTerms(NamedTuple):
    """The three parts of the loss, unweighted scalars."""

    invariance: Tensor
    variance: Tensor
    covariance: Tensor


class Vicreg(PretextTask):
    r"""Keep the two views of a cell together and the units spread and uncorrelated :cite:p:`bardes2022`.

    With projections of :math:`N` cells and :math:`d` units, :math:`L = \lambda s + \mu v + \nu c` of

    .. math::

        s &= \frac{1}{N d} \sum_{c, i} (z_{1,ci} - z_{2,ci})^2 \\
        v &= \frac{1}{2 d} \sum_{k = 1, 2} \sum_i \max\left(0, 1 - \sqrt{\mathrm{Var}_c(z_{k,ci}) + 10^{-4}}\right) \\
        c &= \frac{1}{d} \sum_{k = 1, 2} \sum_{i \neq j} \mathrm{Cov}_c(z_{k,ci}, z_{k,cj})^2 ,

    with :math:`N - 1` below variances and covariances, over the cells of all processes. As in the authors' code, and
    unlike the paper's formulas, :math:`s` is also averaged over units and :math:`v` over the views. Departs from the
    paper in the size of the projector and in AdamW for LARS.

    Parameters
    ----------
    settings
        Settings.
    encoder
        The network to train.
    programs
        Gene programmes, where the views need them.
    """

    Settings = VicregSettings
    compares_cells = True

    def __init__(self, settings: VicregSettings, *, encoder: MlpEncoder, programs: GenePrograms | None = None) -> None:
        super().__init__(settings, encoder=encoder, programs=programs)
        self.settings = settings
        self.encoder = encoder
        self.views = TwoViews(settings, programs=programs)
        self.projector = projection_head([encoder.n_latent, *settings.projector_sizes], last="linear_without_bias")

    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:
        """Weighted sum of invariance, variance and covariance; logs each unweighted, and ``projection_spread``."""
        embedding, second_embedding = self.views(minibatch, generator=generator).embedded(self.encoder)
        first_projection, second_projection = self.projector(embedding), self.projector(second_embedding)
        terms = vicreg_terms(gather_cells(first_projection), gather_cells(second_projection))
        total = (
            self.settings.invariance_weight * terms.invariance
            + self.settings.variance_weight * terms.variance
            + self.settings.covariance_weight * terms.covariance
        )
        logged = {name: term.detach() for name, term in terms._asdict().items()}
        return Loss(
            total=total,
            terms={**logged, "projection_spread": projection_spread(first_projection)},
            embedding=embedding.detach(),
        )


def vicreg_terms(first: Float[Tensor, "n_cells n_units"], second: Float[Tensor, "n_cells n_units"]) -> VicregTerms:
    """Give the three parts of the loss for the projections of two views, of at least two cells."""
    return VicregTerms(
        invariance=functional.mse_loss(first, second),
        variance=(lack_of_spread(first) + lack_of_spread(second)) / 2,
        covariance=covariance_between_units(first) + covariance_between_units(second),
    )


def lack_of_spread(projection: Float[Tensor, "n_cells n_units"]) -> Float[Tensor, ""]:
    """Give what the standard deviation of each unit lacks to 1, averaged over units."""
    return functional.relu(1 - (projection.var(dim=0) + 1e-4).sqrt()).mean()


def covariance_between_units(projection: Float[Tensor, "n_cells n_units"]) -> Float[Tensor, ""]:
    """Sum of the squared covariances of different units, divided by the number of units."""
    n_cells, n_units = projection.shape
    centered = projection - projection.mean(dim=0)
    covariance = centered.T @ centered / (n_cells - 1)
    others = covariance - torch.diag(covariance.diagonal())
    return others.square().sum() / n_units
