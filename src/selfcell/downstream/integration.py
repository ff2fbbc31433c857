"""Data integration: an embedding in which cells lie together by type and not by batch."""

import functools
import logging
from typing import Any, Literal, cast

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import nn

from selfcell.core.errors import InputError
from selfcell.data.minibatch import CellMinibatch
from selfcell.data.source import Cells, encode, obs_column
from selfcell.data.splits import Split
from selfcell.downstream.alignment import BatchDiscriminator, maximum_mean_discrepancy
from selfcell.downstream.base import Columns, DownstreamTask, EncodedCells, SupervisedSettings, TaskScores
from selfcell.downstream.cell_type import label_classes
from selfcell.downstream.embed import embed_counts
from selfcell.downstream.resampling import TestUnits
from selfcell.downstream.supervised import FineTuningSettings, Start, Supervised, TrainingPlace, train_supervised
from selfcell.network.conditional_decoder import ConditionalDecoder, ConditionedLayers
from selfcell.network.encoder import MlpEncoder
from selfcell.network.likelihoods import Likelihood, LikelihoodName, OutputName, make_likelihood
from selfcell.pretext.base import Loss
from selfcell.pretext.dense_masks import hide_in_blocks, nothing_hidden
from selfcell.pretext.sparse_likelihood import mean_likelihood
from selfcell.pretext.sparse_masks import hide_at_random
from selfcell.training.fit import FitOutcome
from selfcell.training.run_folder import TrainedModel

logger = logging.getLogger(__name__)


class IntegrationTrainingSettings(FineTuningSettings):
    """The optimizer of integration."""

    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    max_epochs: int = Field(default=50, ge=1)


class IntegrationSettings(SupervisedSettings):
    """Settings of data integration."""

    training: IntegrationTrainingSettings = IntegrationTrainingSettings()
    """Optimizer of probe, fine_tuned and from_scratch."""
    likelihood: Literal["pretext"] | LikelihoodName = "pretext"
    """The loss of the reconstruction: that of the pretext task, and squared_error where it has none; or one by name."""
    batch_in: ConditionedLayers = "every"
    """Which layers of the decoder are told the batch: first, hidden or every one."""
    alignment: Literal["none", "adversarial", "mmd"] = "none"
    alignment_weight: float = Field(default=1.0, ge=0)


class ConditionalAutoencoder(Supervised):
    def __init__(
        self,
        encoder: MlpEncoder,
        likelihood: Likelihood,
        *,
        n_batches: int,
        settings: IntegrationSettings,
    ) -> None:
        super().__init__()
        self.encoder, self.likelihood, self.settings, self.n_batches = encoder, likelihood, settings, n_batches
        self.decoder = ConditionalDecoder(
            encoder.settings,
            n_outputs=likelihood.outputs_per_gene * encoder.n_genes,
            n_batches=n_batches,
            conditioned=settings.batch_in,
        )
        if settings.alignment == "adversarial":
            self.discriminator = BatchDiscriminator(n_latent=encoder.n_latent, n_batches=n_batches)

    def begin_from(self, model: TrainedModel) -> None:
        super().begin_from(model)
        if self.settings_of_start:
            pass

    def freeze_encoder(self) -> None:
        """Leave all of the encoder but its last Linear out of the training."""
        super().freeze_encoder()
        self.encoder.layers[-1].requires_grad_(requires_grad=True)

    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:
        batch_code = minibatch.codes["batch"]
        drawn = hide_at_random(minibatch.sparse_expression(), None, rescale=False, generator=generator)
        embedding = self.encoder(drawn.visible)
        with self.encoder.compute.blocks(embedding.device):
            units = self.decoder.units(embedding, batch_code)
        total = drawn.squared_error(units, self.decoder.last, self.encoder.compute.dtype)
        terms = {"reconstruction": total.detach()}
        if self.settings.alignment == "adversarial":
            al = self.discriminator(embedding, batch_code)
        elif self.settings.alignment == "mmd":
            al = maximum_mean_discrepancy(embedding, batch_code, n_batches=self.n_batches)
        else:
            return Loss(total=total, terms=terms, embedding=embedding.detach())
        terms["alignment"] = al.detach()
        return Loss(total=total + self.settings.alignment_weight * al, terms=terms, embedding=embedding.detach())
