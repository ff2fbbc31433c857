"""The fully-connected encoder, and the decoder that mirrors it."""

import itertools
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from selfcell.core.config import Settings
from selfcell.data.minibatch import SparseExpression
from selfcell.network.blockwise import BlockwiseExpression, blockwise_linear
from selfcell.network.compute import Compute
from selfcell.network.dropout import QuickDropout
from selfcell.network.padded import PaddedExpression, padded_expression, padded_linear
from selfcell.network.sparse import lay_by_gene, sparse_linear

Laid: TypeAlias = SparseExpression | BlockwiseExpression | PaddedExpression
"""Cells in a form that a first layer of its own takes."""
ActivationName = Literal["selu", "relu", "gelu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"selu": nn.SELU, "relu": nn.ReLU, "gelu": nn.GELU}


class EncoderSettings(Settings):
    """The network: one hidden block of 512 units and 64 dimensions, SELU, dropout 0.1.

    The paper's encoder is :data:`PAPER_NETWORK`. On data sets of up to 30,000 cells one block did better in every
    regime (``docs/judgement.md``), and trains faster; the presets of the paper's models have its network.
    """

    hidden_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(512,), min_length=1)
    """Units of each hidden block of the encoder, from the genes inwards; the decoder mirrors them. The paper has
    [512, 512, 256, 256]."""
    n_latent: int = Field(default=64, ge=2)
    """Size of the embedding."""
    activation: ActivationName = "selu"
    """Activation between blocks: selu, relu or gelu. What is trained with one is always used with the same one."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of hidden units dropped while training, between 0 and 1."""
    rectify_embedding: bool = False
    """Set what is negative in the embedding to 0, as the paper does where it evaluates. For imported checkpoints: what
    is trained with a bare embedding is best used with one."""


PAPER_NETWORK: dict[str, Any] = {"hidden_sizes": (512, 512, 256, 256)}
"""What the network of Richter et al. 2025 has otherwise."""


class MlpEncoder(nn.Module):
    """Expression to embedding: blocks of Linear, activation and dropout, and a bare Linear at the end.

    The network of Richter et al. 2025 :cite:p:`richter2025`, without normalization layers. The paper trains it with
    SELU and runs the same weights with ReLU afterwards, rectifying the embedding too; here the activation stays, and
    the embedding is what the last Linear gives, unless ``rectify_embedding`` is set.

    Parameters
    ----------
    settings
        Sizes, activation, dropout.
    n_genes
        Width of the input.
    """

    def __init__(self, settings: EncoderSettings, *, n_genes: int) -> None:
        super().__init__()
        self.settings = settings
        self.n_genes = n_genes
        self.n_latent = settings.n_latent
        self.layers = stacked_blocks([n_genes, *settings.hidden_sizes, settings.n_latent], settings)
        lay_by_gene(cast("nn.Linear", self.layers[0]))
        self.compute = Compute()

    def forward(self, expression: Float[Tensor, "n_cells n_genes"] | Laid) -> Float[Tensor, "n_cells n_latent"]:
        """Embed cells given as ``log1p`` of counts per 10,000: dense, without the zeros, or with zeros in blocks."""
        first, rest = cast("nn.Linear", self.layers[0]), cast("nn.Sequential", self.layers[1:])
        expression = self._laid_out(expression)
        with self.compute.blocks(first.weight.device):
            if isinstance(expression, SparseExpression):
                hidden = sparse_linear(expression, first, dtype=self.compute.dtype)
            elif isinstance(expression, PaddedExpression):
                hidden = padded_linear(expression, first)
            elif isinstance(expression, BlockwiseExpression):
                hidden = blockwise_linear(expression, first, dtype=self.compute.dtype)
            else:
                hidden = first(expression)
            embedding: Tensor = rest(hidden).to(first.weight.dtype)
        return embedding.relu() if self.settings.rectify_embedding else embedding

    def _laid_out(self, expression: Tensor | Laid) -> Tensor | Laid:
        """Lay cells out as they are computed."""
        if isinstance(expression, PaddedExpression):
            return expression
        if isinstance(expression, SparseExpression) and self.goes_sparse(expression.values):
            return expression
        if isinstance(expression, BlockwiseExpression):
            if self.goes_sparse(expression.sparse.values):
                return expression
            expression = expression.dense()
        if self.compute.in_blocks and not (isinstance(expression, Tensor) and expression.requires_grad):
            return padded_expression(expression, dtype=self.compute.dtype)
        return expression.dense() if isinstance(expression, SparseExpression) else expression

    def goes_sparse(self, values: Tensor) -> bool:
        """Tell whether cells with these values are computed without their zeros: on a CPU, in single precision."""
        weight = cast("nn.Linear", self.layers[0]).weight
        return self.compute.sparse and values.is_cpu and values.dtype == weight.dtype == torch.float32


def mirrored_decoder(settings: EncoderSettings, *, n_outputs: int) -> nn.Sequential:
    """Make the decoder: the encoder's sizes backwards, with linear output.

    Departs from the paper, whose released decoder ends in a sigmoid although ``log1p`` values reach 9.
    """
    return stacked_blocks([settings.n_latent, *reversed(settings.hidden_sizes), n_outputs], settings)


def stacked_blocks(sizes: Sequence[int], settings: EncoderSettings) -> nn.Sequential:
    """Stack Linear, activation, dropout; the last Linear is bare."""
    blocks: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes[:-1]):
        blocks += [nn.Linear(n_in, n_out), ACTIVATIONS[settings.activation](), QuickDropout(settings.dropout)]
    return nn.Sequential(*blocks, nn.Linear(sizes[-2], sizes[-1]))
