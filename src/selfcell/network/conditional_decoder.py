"""A decoder that is told the batch of each cell, so that the embedding need not hold it."""

from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from selfcell.network.encoder import EncoderSettings, stacked_blocks

ConditionedLayers = Literal["first", "every"]


class ConditionalDecoder(nn.Module):
    """The mirrored decoder, with the batch of each cell beside what goes into its layers, as zeros and a one.

    The weights of all batches are zero at first: batches begin alike, and one that no training cell is of stays at what
    is common to all.

    Parameters
    ----------
    settings
        Of the encoder, whose sizes are mirrored.
    n_outputs
        Outputs.
    n_batches
        Batches.
    conditioned
        Which layers are told: the first alone, or every one, so that each output has an offset for each batch.
    """

    def __init__(
        self, settings: EncoderSettings, *, n_outputs: int, n_batches: int, conditioned: ConditionedLayers = "every"
    ) -> None:
        super().__init__()
        self.n_batches = n_batches
        self.conditioned = conditioned
        self.layers = stacked_blocks([settings.n_latent, *reversed(settings.hidden_sizes), n_outputs], settings)
        for place in self._linear_places():
            if self._is_told(place):
                plain = cast("nn.Linear", self.layers[place])
                told = nn.Linear(plain.in_features + n_batches, plain.out_features)
                with torch.no_grad():
                    told.weight.copy_(functional.pad(plain.weight, (0, n_batches)))
                    told.bias.copy_(plain.bias)
                self.layers[place] = told

    def forward(
        self, embedding: Float[Tensor, "n_cells n_latent"], batch_code: Int[Tensor, " n_cells"]
    ) -> Float[Tensor, "n_cells n_outputs"]:
        """Decode cells as they would look in these batches."""
        outputs: Tensor = self.last(self.units(embedding, batch_code))
        return outputs

    def units(
        self, embedding: Float[Tensor, "n_cells n_latent"], batch_code: Int[Tensor, " n_cells"]
    ) -> Float[Tensor, "n_cells n_units"]:
        """Give what goes into the last layer."""
        of_batch = functional.one_hot(batch_code, self.n_batches).to(embedding.dtype)
        units = embedding
        for place, layer in enumerate(self.layers):
            if self._is_told(place):
                units = torch.cat([units, of_batch.to(units.dtype)], dim=1)
            if layer is not self.last:
                units = layer(units)
        return units

    @property
    def last(self) -> nn.Linear:
        """The last layer."""
        return cast("nn.Linear", self.layers[-1])

    def _linear_places(self) -> list[int]:
        return [place for place, layer in enumerate(self.layers) if isinstance(layer, nn.Linear)]

    def _is_told(self, place: int) -> bool:
        places = self._linear_places()
        return place in (places[:1] if self.conditioned == "first" else places)
