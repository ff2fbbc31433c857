"""Masked autoencoder: hide some genes of each cell and predict them from the rest."""

from typing import Literal

import torch
from pydantic import Field

from selfcell.data.minibatch import CellMinibatch
from selfcell.data.programs import GenePrograms
from selfcell.network.encoder import MlpEncoder, mirrored_decoder
from selfcell.pretext.base import Loss, PretextSettings, PretextTask
from selfcell.pretext.masks import draw_random_mask


class MaskedAutoencoderSettings(PretextSettings):
    """Settings of the masked autoencoder."""

    name: Literal["masked_autoencoder"] = "masked_autoencoder"
    """The pretext task; `selfcell list` names them all."""
    mask: Literal["random"] = "random"
    """How the hidden genes are chosen: random hides each entry of each cell independently."""
    mask_fraction: float = Field(default=0.5, gt=0, lt=1)
    """Share of entries to hide, between 0 and 1, both excluded."""
    rescale_input: bool = True
    """Divide what stays visible by 1 - mask_fraction, as the paper does, so that its expected sum is kept."""


class MaskedAutoencoder(PretextTask):
    r"""Predict the hidden genes of a cell from the visible ones :cite:p:`he2022,richter2025`.

    Each entry of each cell is hidden with probability ``mask_fraction`` and set to zero before the encoder sees it. A
    decoder that mirrors the encoder predicts all genes, and the loss is the mean squared error over the hidden entries
    :math:`M` of the minibatch, in squared ``log1p`` units,

    .. math:: L = \frac{1}{|M|} \sum_{(c, g) \in M} (\hat{x}_{cg} - x_{cg})^2 .

    Departs from the paper's released code, which divides by the number of all entries instead of the hidden ones (a
    factor of ``mask_fraction`` in the loss) and ends in a sigmoid, which cannot reach most ``log1p`` values.

    Parameters
    ----------
    settings
        Settings.
    encoder
        The network to train.
    """

    Settings = MaskedAutoencoderSettings

    def __init__(
        self, settings: MaskedAutoencoderSettings, *, encoder: MlpEncoder, programs: GenePrograms | None = None
    ) -> None:
        super().__init__(settings, encoder=encoder, programs=programs)
        self.settings = settings
        self.encoder = encoder
        self.decoder = mirrored_decoder(encoder.settings, n_genes=encoder.n_genes)

    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:
        """Mean squared error over the hidden entries; logs their share as ``masked_fraction``."""
        expression = minibatch.expression()
        mask = draw_random_mask(
            minibatch.n_cells, minibatch.n_genes, self.settings.mask_fraction, generator=generator
        ).to(expression.device)
        visible = expression.masked_fill(mask, 0.0)
        if self.settings.rescale_input:
            visible = visible / (1 - self.settings.mask_fraction)
        squared_error = (self.decoder(self.encoder(visible)) - expression).square()
        # A minibatch of few genes may hide none: its loss is 0 then, not 0 / 0.
        total = (squared_error * mask).sum() / mask.sum().clamp(min=1)
        return Loss(total=total, terms={"masked_fraction": mask.float().mean()})
