"""What integration trains: an encoder that sees no batch, with a decoder that is told it."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selfcell.data.minibatch import CellMinibatch
from selfcell.downstream.alignment import maximum_mean_discrepancy
from selfcell.downstream.supervised import Supervised
from selfcell.network.blocked_likelihood import EntryWeights, likelihood_of_all
from selfcell.network.conditional_decoder import ConditionalDecoder
from selfcell.network.encoder import MlpEncoder
from selfcell.network.likelihoods import Likelihood
from selfcell.network.squared_error import squared_error_of_all
from selfcell.pretext.base import Loss
from selfcell.pretext.dense_masks import hide_in_blocks, nothing_hidden


class ConditionalAutoencoder(Supervised):
    """Reconstruct whole cells from their embedding and their batch.

    What a batch does to all its cells the decoder knows already, so that the embedding is free of carrying it. The
    encoder is told no batch: cells of a batch that no training cell is of are embedded as all others are.

    Parameters
    ----------
    encoder
        Trained along.
    decoder
        Ends in the outputs that the likelihood asks for.
    likelihood
        The loss of the reconstruction, averaged over all entries.
    mmd_weight
        Weight of the discrepancy between the embeddings of batches
        (:func:`selfcell.downstream.alignment.maximum_mean_discrepancy`), as a multiple of the reconstruction's loss as
        it stands, so that it means the same for any number of genes and any likelihood.
    """

    def __init__(
        self, encoder: MlpEncoder, decoder: ConditionalDecoder, likelihood: Likelihood, *, mmd_weight: float = 0.0
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.mmd_weight = mmd_weight

    def freeze_encoder(self) -> None:
        """Leave the encoder out of the training but for its last Linear: frozen whole, its embedding could not change.

        This is the paper's shallow fine-tuning.
        """
        super().freeze_encoder()
        self.encoder.layers[-1].requires_grad_(requires_grad=True)

    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:  # noqa: ARG002
        """Mean loss over all entries, zeros too, and the discrepancy; logs both."""
        batch_code = minibatch.codes["batch"]
        embedding, reconstruction = self._reconstruct(minibatch, batch_code)
        terms, total = {"reconstruction": reconstruction.detach()}, reconstruction
        if self.mmd_weight:
            discrepancy = maximum_mean_discrepancy(embedding, batch_code, n_batches=self.decoder.n_batches)
            terms["discrepancy"] = discrepancy.detach()
            total = reconstruction + self.mmd_weight * reconstruction.detach() * discrepancy
        return Loss(total=total, terms=terms, embedding=embedding.detach())

    @property
    def _is_linear(self) -> bool:
        return not self.likelihood.of_counts and getattr(self.likelihood, "output", None) == "identity"

    def _reconstruct(
        self, minibatch: CellMinibatch, batch_code: Int[Tensor, " n_cells"]
    ) -> tuple[Float[Tensor, "n_cells n_latent"], Float[Tensor, ""]]:
        """Give embedding and loss by the quickest of three ways to the same numbers."""
        compute, last = self.encoder.compute, self.decoder.last
        if self.encoder.goes_sparse(minibatch.values):
            truth = minibatch.sparse_expression()
            embedding = self.encoder(truth)
            return embedding, self._error_of_entries(self._units(embedding, batch_code), minibatch)
        if compute.in_blocks and self._is_linear:
            cells = minibatch.sparse_expression()
            drawn = hide_in_blocks(cells, nothing_hidden(minibatch.values.device), dtype=compute.dtype)
            embedding = self.encoder(drawn.visible)
            return embedding, drawn.squared_error(self._units(embedding, batch_code), last, compute)
        expression = minibatch.expression()
        embedding = self.encoder(expression)
        units = self._units(embedding, batch_code)
        with compute.blocks(embedding.device):
            outputs = last(units).to(embedding.dtype)
        measured = minibatch.counts() if self.likelihood.of_counts else expression
        return embedding, self.likelihood(outputs, measured, minibatch.library_size).mean()

    def _units(self, embedding: Tensor, batch_code: Tensor) -> Tensor:
        with self.encoder.compute.blocks(embedding.device):
            return self.decoder.units(embedding, batch_code)

    def _error_of_entries(self, units: Tensor, minibatch: CellMinibatch) -> Float[Tensor, ""]:
        """Take the loss without an array of cells x genes."""
        last, dtype = self.decoder.last, self.encoder.compute.dtype
        n_cells, scale = minibatch.n_cells, 1 / (minibatch.n_cells * minibatch.n_genes)
        if self._is_linear:
            return squared_error_of_all(
                units,
                last,
                minibatch.sparse_expression(),
                entry_weight=(1.0, 1.0),
                zero_weight=torch.ones(n_cells),
                scale=scale,
                dtype=dtype,
            )
        measured = minibatch.sparse_counts() if self.likelihood.of_counts else minibatch.sparse_expression()
        return likelihood_of_all(
            units,
            last,
            self.likelihood,
            measured,
            library_size=minibatch.library_size,
            scored=EntryWeights(torch.ones(len(measured.values)), 1.0),
            scale=scale,
            dtype=dtype,
        )
