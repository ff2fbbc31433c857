"""Barlow Twins: make each unit agree between two views, and differ from all other units."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from selfcell.data.minibatch import CellMinibatch
from selfcell.data.programs import GenePrograms
from selfcell.network.encoder import MlpEncoder
from selfcell.network.gather import gather_cells
from selfcell.network.heads import HeadSizes, projection_head, projection_spread
from selfcell.pretext.base import Loss, PretextTask
from selfcell.pretext.two_views import TwoViews, TwoViewSettings


class BarlowTwinsSettings(TwoViewSettings):
    """Settings of Barlow Twins."""

    name: Literal["barlow_twins"] = "barlow_twins"
    """The pretext task; `selfcell list` names them all."""
    projector_sizes: HeadSizes = (256, 256, 512, 512)
    """Hidden units and output of the projector; these are Richter et al.'s, for images it is 8192, 8192 and 8192."""
    redundancy_weight: float = Field(default=0.0051, gt=0)
    """Weight of the correlations between different units, the paper's lambda; its text has 0.005, its code 0.0051."""


class BarlowTwins(PretextTask):
    r"""Bring the correlation of the two views' projections to the identity :cite:p:`zbontar2021`.

    The projections are standardized over the cells, unit by unit, and correlated between the views,
    :math:`C_{ij} = \frac{1}{N} \sum_c \hat{z}_{1,ci} \hat{z}_{2,cj}` with :math:`N` the cells that are there, and

    .. math:: L = \sum_i (1 - C_{ii})^2 + \lambda \sum_{i \neq j} C_{ij}^2 .

    In training over several processes the correlation is that of the cells of all of them. Departs from the paper in
    the size of the projector and in AdamW for LARS, and from the code released with :cite:t:`richter2025`, which
    divides by the minibatch size that was asked for, also where the last minibatch is smaller.

    Parameters
    ----------
    settings
        Settings.
    encoder
        The network to train.
    programs
        Gene programmes, where the views need them.
    """

    Settings = BarlowTwinsSettings
    compares_cells = True

    def __init__(
        self, settings: BarlowTwinsSettings, *, encoder: MlpEncoder, programs: GenePrograms | None = None
    ) -> None:
        super().__init__(settings, encoder=encoder, programs=programs)
        self.settings = settings
        self.encoder = encoder
        self.views = TwoViews(settings, programs=programs)
        self.projector = projection_head([encoder.n_latent, *settings.projector_sizes], last="linear_without_bias")

    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:
        """Distance of the correlation from the identity; logs its two parts, ``alignment`` and the spread."""
        embedding, second_embedding = self.views(minibatch, generator=generator).embedded(self.encoder)
        first_projection, second_projection = self.projector(embedding), self.projector(second_embedding)
        correlation = cross_correlation(gather_cells(first_projection), gather_cells(second_projection))
        invariance, redundancy = distance_from_identity(correlation)
        return Loss(
            total=invariance + self.settings.redundancy_weight * redundancy,
            terms={
                "invariance": invariance.detach(),
                "redundancy": redundancy.detach(),
                "alignment": correlation.detach().diagonal().mean(),
                "projection_spread": projection_spread(first_projection),
            },
            embedding=embedding.detach(),
        )


def cross_correlation(
    first: Float[Tensor, "n_cells n_units"], second: Float[Tensor, "n_cells n_units"]
) -> Float[Tensor, "n_units n_units"]:
    """Correlate each unit of the first view with each of the second, over cells.

    A variance is taken as at least 1e-5 more than it is, as in batch norm, so that a constant unit correlates with
    nothing.
    """
    return _standardized(first).T @ _standardized(second) / first.shape[0]


def distance_from_identity(
    correlation: Float[Tensor, "n_units n_units"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Squared distance from the identity: of the diagonal, and of everything else."""
    diagonal = correlation.diagonal()
    others = correlation - torch.diag(diagonal)
    return (1 - diagonal).square().sum(), others.square().sum()


def _standardized(projection: Tensor) -> Tensor:
    centered = projection - projection.mean(dim=0)
    return centered / (centered.square().mean(dim=0) + 1e-5).sqrt()
