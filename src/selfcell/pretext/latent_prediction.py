"""Latent prediction: hide a part of each cell and predict the embedding of the whole cell."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from selfcell.core.errors import InputError
from selfcell.data.minibatch import CellMinibatch
from selfcell.data.programs import GenePrograms
from selfcell.network.encoder import MlpEncoder
from selfcell.network.heads import HeadSizes, projection_head, projection_spread
from selfcell.network.target import TargetNetwork, cosine_momentum
from selfcell.pretext.base import Loss, PretextSettings, TargetNetworkTask
from selfcell.pretext.masks import draw_exact_mask
from selfcell.pretext.membership import ProgramMembership


class LatentPredictionSettings(PretextSettings):
    """Settings of latent prediction."""

    name: Literal["latent_prediction"] = "latent_prediction"
    """The pretext task; `selfcell list` names them all."""
    mask_fraction: float = Field(default=0.5, gt=0, lt=1)
    """Share of genes hidden in each cell or, with `pretext.programs`, of programmes, hidden whole."""
    predictor_sizes: HeadSizes = (256,)
    """Hidden units of the predictor, whose output is as wide as the embedding."""
    target_momentum: float = Field(default=0.99, ge=0, le=1)
    """Share of the target network kept at the first step, rising to 1 at the last; the paper has 0.996."""

    @property
    def uses_programs(self) -> bool:
        """Whether whole programmes are hidden."""
        return self.programs is not None


class LatentPrediction(TargetNetworkTask):
    r"""Predict the embedding of a cell from a part of its genes: a joint-embedding predictive architecture.

    After I-JEPA :cite:p:`assran2023`. In each cell the same share of genes, or of gene programmes with all their genes,
    is drawn at random and set to zero. The encoder :math:`f` sees the rest; the target network :math:`\bar f`, its
    moving average without gradient, sees the whole cell. A predictor :math:`g` is told which programmes are hidden, by
    the mean :math:`h` of learned vectors, one a programme (nothing where genes are hidden one by one). With
    :math:`\mathrm{LN}` standardizing a cell's embedding over its :math:`d` units,

    .. math:: L = \frac{1}{N d} \sum_c \left\lVert g(f(x_c^\mathrm{visible}) + h_c) -
        \mathrm{LN}(\bar f(x_c)) \right\rVert^2 .

    Nothing is reconstructed, so noise of counts that no embedding holds costs nothing, and the two networks' embeddings
    are those that are kept: there is no projector.

    Departs from the paper, whose transformer has an embedding of each place, of which those of the hidden places are
    predicted: an encoder with one embedding a cell has none of a part, and the whole cell, unlike a part of
    it, is what the encoder will see in use. The embedding is standardized and the error squared; momentum follows a
    half cosine.

    Parameters
    ----------
    settings
        Settings.
    encoder
        The network to train.
    programs
        Gene programmes to hide; needed if the settings name some.

    Raises
    ------
    InputError
        If programmes are asked for and there is none.
    """

    Settings = LatentPredictionSettings
    compares_cells = True
    moving_target = True

    def __init__(
        self, settings: LatentPredictionSettings, *, encoder: MlpEncoder, programs: GenePrograms | None = None
    ) -> None:
        super().__init__(settings, encoder=encoder, programs=programs)
        self.settings = settings
        self.encoder = encoder
        n_latent = encoder.n_latent
        self.predictor = projection_head([n_latent, *settings.predictor_sizes, n_latent])
        self.program_vectors: nn.Linear | None = None
        if settings.uses_programs:
            if not programs:
                raise InputError(
                    "latent_prediction is to hide gene programmes, but there are none on these genes. Choose others "
                    "(pretext.programs), let smaller ones in (pretext.program_min_genes), or leave them out."
                )
            self.program_vectors = nn.Linear(len(programs), n_latent, bias=False)
            self.membership = ProgramMembership(programs)
        self.target_network = TargetNetwork(encoder)

    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:
        """Squared error of the embedding; logs ``masked_fraction``, and ``alignment``, the mean cosine."""
        expression = minibatch.expression()
        mask, told = self._hide(expression, generator)
        embedding = self.encoder(expression.masked_fill(mask, 0.0))
        predicted = self.predictor(embedding + told)
        target = functional.layer_norm(self.target_network(expression), (self.encoder.n_latent,))
        return Loss(
            total=functional.mse_loss(predicted, target),
            terms={
                "alignment": functional.cosine_similarity(predicted, target).mean().detach(),
                "masked_fraction": mask.to(expression.dtype).mean(),
                "projection_spread": projection_spread(embedding),
            },
            embedding=embedding.detach(),
        )

    def update_target(self, *, progress: float) -> None:
        """Move the target network towards the encoder."""
        momentum = cosine_momentum(self.settings.target_momentum, progress)
        self.target_network.update(self.encoder, momentum=momentum)

    def _hide(self, expression: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | float]:
        """Draw what is hidden: the mask of genes, and what the predictor is told."""
        n_cells, n_genes = expression.shape
        share = self.settings.mask_fraction
        if self.program_vectors is None:
            return draw_exact_mask(n_cells, n_genes, share, generator=generator).to(expression.device), 0.0
        hidden = draw_exact_mask(n_cells, len(self.membership), share, generator=generator).to(expression.device)
        told = hidden.to(expression) / hidden.sum(dim=1, keepdim=True)
        return self.membership.union(hidden), self.program_vectors(told)
