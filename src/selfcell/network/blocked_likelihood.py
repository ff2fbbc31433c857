"""A likelihood over all genes of all cells, some genes at a time."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from selfcell.data.minibatch import SparseExpression
from selfcell.network.blocks import given_away
from selfcell.network.by_gene import ByGene
from selfcell.network.gene_sets import GeneSets
from selfcell.network.kernels import as_bits, in_equal_parts
from selfcell.network.likelihood_kernels import (
    Entries,
    Scored,
    negative_binomial_residuals,
    poisson_residuals,
    sigmoid_residuals,
    softplus_residuals,
    zero_inflated_residuals,
)
from selfcell.network.likelihoods import (
    Likelihood,
    NegativeBinomial,
    OutputName,
    Poisson,
    SquaredError,
    ZeroInflatedNegativeBinomial,
    depth_of,
)

_GENES_AT_ONCE = 512
_LOOPS: dict[type[Likelihood], Callable[..., None]] = {
    Poisson: poisson_residuals,
    NegativeBinomial: negative_binomial_residuals,
    ZeroInflatedNegativeBinomial: zero_inflated_residuals,
}
_LOOPS_OF_OUTPUTS: dict[OutputName, Callable[..., None]] = {
    "softplus": softplus_residuals,
    "sigmoid": sigmoid_residuals,
}
_LOG_FACTORIALS = np.array([math.lgamma(count + 1.0) for count in range(1024)])


@dataclass(frozen=True)
class EntryWeights:
    """How much each entry of some cells counts."""

    entries: Float[Tensor, " n_values"]
    """The non-zero entries."""
    zeros: float
    """All others."""


def likelihood_of_all(
    hidden: Float[Tensor, "n_cells n_units"],
    layer: nn.Linear,
    likelihood: Likelihood,
    truth: SparseExpression,
    *,
    library_size: Float[Tensor, " n_cells"],
    scored: EntryWeights | GeneSets,
    scale: float,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, ""]:
    r"""Sum a likelihood of a linear last layer's outputs over the entries of cells, zeros included.

    Products of all cells with some hundred genes are made, turned into derivatives, used and forgotten: loss and
    gradients are the dense ones, but no array of cells x genes is made.

    Parameters
    ----------
    hidden
        What goes into the layer.
    layer
        From units to the outputs of all genes, without activation.
    likelihood
        That of the outputs; a squared error is one of a softplus or a sigmoid here.
    truth
        What the likelihood is of, on the CPU: counts or ``log1p`` expression.
    library_size
        Counts of each cell.
    scored
        How much entries count, or which genes of each cell do.
    scale
        Factor on the loss.
    dtype
        In which products are made: float32 or bfloat16.
    """
    assert layer.bias is not None
    log_theta = likelihood.log_theta if isinstance(likelihood, NegativeBinomial) else None
    loop, n_outputs, wanted = _loop_of(likelihood), likelihood.outputs_per_gene, torch.is_grad_enabled()
    asked = _Asked(loop, n_outputs, truth, library_size, scored, scale, dtype, wanted)
    loss: Tensor = _LikelihoodOfAll.apply(hidden, layer.weight, layer.bias, log_theta, asked)  # type: ignore[no-untyped-call]
    return loss


def _loop_of(likelihood: Likelihood) -> Callable[..., None]:
    return _LOOPS_OF_OUTPUTS[likelihood.output] if isinstance(likelihood, SquaredError) else _LOOPS[type(likelihood)]


@dataclass(frozen=True)
class _Asked:
    loop: Callable[..., None]
    outputs_per_gene: int
    truth: SparseExpression
    library_size: Tensor
    scored: EntryWeights | GeneSets
    scale: float
    dtype: torch.dtype
    wanted: bool
    """Whether gradients are."""


class _LikelihoodOfAll(torch.autograd.Function):
    """Takes the gradients together with the loss: they need the same products."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, log_theta: Tensor | None, asked: _Asked
    ) -> Tensor:
        by_output = (asked.outputs_per_gene, asked.truth.n_genes)
        rows = weight.detach().to(asked.dtype).view(*by_output, -1)
        cells = hidden.detach().to(asked.dtype)
        gradients = (torch.zeros(cells.shape), torch.empty(rows.shape)) if asked.wanted else None
        with torch.autocast("cpu", enabled=False):
            blocks = _Blocks.of(asked, bias.detach().view(by_output), log_theta)
            _go_through(blocks, rows, cells, gradients)
        ctx.gradients = None
        if gradients is not None:
            d_hidden, d_weight = gradients[0].to(hidden.dtype), gradients[1].flatten(0, 1)
            ctx.gradients = (d_hidden, d_weight, blocks.d_bias.T.flatten(), blocks.d_log_theta)
        return torch.tensor(blocks.loss.sum(), dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (*given_away(ctx, gradients[0]), None)


def _go_through(blocks: "_Blocks", rows: Tensor, cells: Tensor, gradients: tuple[Tensor, Tensor] | None) -> None:
    """Take block by block; write the gradients of cells and rows, where they are asked for."""
    n_outputs, n_genes, _ = rows.shape
    room = torch.empty(n_outputs * min(_GENES_AT_ONCE, n_genes) * len(cells), dtype=rows.dtype)
    for start in range(0, n_genes, _GENES_AT_ONCE):
        genes = slice(start, min(start + _GENES_AT_ONCE, n_genes))
        shape = (n_outputs, genes.stop - genes.start, len(cells))
        products = room[: math.prod(shape)].view(shape)
        for part, of_output in zip(products, rows, strict=True):
            torch.mm(of_output[genes], cells.T, out=part)
        blocks.residuals(products, genes)
        if gradients is not None:
            d_hidden, d_weight = gradients
            for part, of_output, d_rows in zip(products, rows, d_weight, strict=True):
                d_hidden += part.T @ of_output[genes]
                d_rows[genes] = part @ cells


@dataclass(frozen=True)
class _Blocks:
    """What the loops over blocks read and write."""

    asked: _Asked
    bias: np.ndarray
    log_theta: np.ndarray | None
    entries: ByGene
    weights: np.ndarray
    depth: np.ndarray
    d_bias: Tensor
    d_log_theta: Tensor | None
    loss: np.ndarray

    @classmethod
    def of(cls, asked: _Asked, bias: Tensor, log_theta: Tensor | None) -> "_Blocks":
        weights = np.empty(0, dtype=np.float32)
        if isinstance(asked.scored, EntryWeights):
            weights = asked.scored.entries.numpy() * np.float32(asked.scale)
        return cls(
            asked=asked,
            bias=bias.T.contiguous().numpy(),
            log_theta=None if log_theta is None else log_theta.detach().numpy(),
            entries=ByGene.of(asked.truth),
            weights=weights,
            depth=depth_of(asked.library_size).numpy(),
            d_bias=torch.empty(bias.T.shape),
            d_log_theta=None if log_theta is None else torch.empty(asked.truth.n_genes),
            loss=np.empty(asked.truth.n_genes),
        )

    def residuals(self, products: Tensor, genes: slice) -> None:
        """Turn products of some genes with all cells into derivatives, in place."""
        asked, columns = self.asked, self.entries
        of_genes = columns.gene_offsets[genes.start : genes.stop + 1]
        dispersion: tuple[np.ndarray, ...] = ()
        if self.log_theta is not None and self.d_log_theta is not None:
            dispersion = (self.log_theta[genes], self.d_log_theta.numpy()[genes])
        in_equal_parts(
            asked.loop,
            as_bits(products),
            self.bias[genes],
            Entries(of_genes, columns.cells, columns.values, columns.entries),
            self._scored(genes),
            self.depth,
            _LOG_FACTORIALS,
            self.d_bias.numpy()[genes],
            self.loss[genes],
            *dispersion,
            n_items=genes.stop - genes.start,
            n_threads=torch.get_num_threads(),
            work_of_item=asked.truth.n_cells,
        )

    def _scored(self, genes: slice) -> Scored:
        scored, scale = self.asked.scored, np.float32(self.asked.scale)
        if isinstance(scored, GeneSets):
            return Scored(scored.mask(genes), scale, self.weights)
        return Scored(np.empty((0, 0), dtype=np.uint8), np.float32(scored.zeros) * scale, self.weights)
