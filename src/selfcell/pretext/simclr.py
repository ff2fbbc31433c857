"""SimCLR: tell the other view of a cell from the views of all other cells."""

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
from selfcell.pretext.base import Loss, PretextTask
from selfcell.pretext.two_views import TwoViews, TwoViewSettings


class SimclrSettings(TwoViewSettings):
    """Settings of SimCLR."""

    name: Literal["simclr"] = "simclr"
    """The pretext task; `selfcell list` names them all."""
    projector_sizes: HeadSizes = (256, 128)
    """Hidden units and output of the projector; the paper has 2048 and 128."""
    temperature: float = Field(default=0.5, gt=0)
    """Divides the cosines. The paper has 0.1 for minibatches of 4096 and 0.5 for its small images."""


class Simclr(PretextTask):
    r"""Find the other view of each cell among all views of the minibatch :cite:p:`chen2020`.

    The normalized temperature-scaled cross-entropy, NT-Xent: with the projections :math:`z_1, \dots, z_{2N}` of both
    views of :math:`N` cells, where :math:`j(i)` is the other view of the same cell,

    .. math:: L = -\frac{1}{2N} \sum_{i=1}^{2N} \log \frac{\exp(\cos(z_i, z_{j(i)}) / \tau)}
        {\sum_{k \neq i} \exp(\cos(z_i, z_k) / \tau)} .

    In training over several processes the views of all of them are compared. Cells of one type repel each other like
    any others. Departs from the paper in the size of the head, in its minibatches, far smaller, and in AdamW for LARS.

    Parameters
    ----------
    settings
        Settings.
    encoder
        The network to train.
    programs
        Gene programmes, where the views need them.
    """

    Settings = SimclrSettings
    compares_cells = True

    def __init__(self, settings: SimclrSettings, *, encoder: MlpEncoder, programs: GenePrograms | None = None) -> None:
        super().__init__(settings, encoder=encoder, programs=programs)
        self.settings = settings
        self.encoder = encoder
        self.views = TwoViews(settings, programs=programs)
        self.projector = projection_head([encoder.n_latent, *settings.projector_sizes])

    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:
        """NT-Xent; logs the mean cosine of the two views as ``alignment``, and ``projection_spread``."""
        embedding, second_embedding = self.views(minibatch, generator=generator).embedded(self.encoder)
        first_projection, second_projection = self.projector(embedding), self.projector(second_embedding)
        return Loss(
            total=nt_xent(first_projection, second_projection, temperature=self.settings.temperature),
            terms={
                "alignment": functional.cosine_similarity(first_projection, second_projection).mean().detach(),
                "projection_spread": projection_spread(first_projection),
            },
            embedding=embedding.detach(),
        )


def nt_xent(
    first: Float[Tensor, "n_cells n_units"], second: Float[Tensor, "n_cells n_units"], *, temperature: float
) -> Float[Tensor, ""]:
    """Give the NT-Xent of this process's views among those of all processes.

    Parameters
    ----------
    first, second
        Projections of the two views, cell by cell.
    temperature
        Divides the cosines.
    """
    first, second = functional.normalize(first, dim=1), functional.normalize(second, dim=1)
    all_first = gather_cells(first)
    candidates = torch.cat([all_first, gather_cells(second)])
    logits = torch.cat([first, second]) @ candidates.T / temperature
    in_first = gathered_positions(first.shape[0], device=first.device)
    in_second = in_first + all_first.shape[0]
    itself = torch.cat([in_first, in_second])
    logits = logits.scatter(1, itself[:, None], float("-inf"))
    return functional.cross_entropy(logits, torch.cat([in_second, in_first]))
