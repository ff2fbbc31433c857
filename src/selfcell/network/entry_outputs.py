"""Outputs of a decoder's last layer for some genes of each cell alone."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from selfcell.data.minibatch import SparseExpression
from selfcell.network.by_gene import ByGene, sum_by_gene
from selfcell.network.entry_kernels import add_rows, predict_entries
from selfcell.network.kernels import as_bits, in_parts


def outputs_of_entries(
    hidden: Float[Tensor, "n_cells n_units"],
    layer: nn.Linear,
    asked: SparseExpression,
    *,
    outputs_per_gene: int,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "outputs_per_gene n_entries"]:
    """Apply a layer to give the outputs of some genes of each cell; those of the others are not computed.

    Parameters
    ----------
    hidden
        What goes into the layer.
    layer
        From units to the outputs of all genes, without activation.
    asked
        Which genes of each cell, on the CPU; its values do not matter.
    outputs_per_gene
        How many the layer gives for a gene; the first of all genes come first.
    dtype
        In which weights and hidden units are read: float32 or bfloat16.
    """
    assert layer.bias is not None
    weights, biases = layer.weight.chunk(outputs_per_gene), layer.bias.chunk(outputs_per_gene)
    return torch.stack(
        [
            _OutputsOfEntries.apply(hidden, weight, bias, asked, dtype)  # type: ignore[no-untyped-call]
            for weight, bias in zip(weights, biases, strict=True)
        ]
    )


class _OutputsOfEntries(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, asked: SparseExpression, dtype: torch.dtype
    ) -> Tensor:
        offsets, genes, _ = asked.arrays()
        rows, cells = weight.detach().to(dtype), hidden.detach().to(dtype)
        outputs = torch.empty(len(genes))
        in_parts(
            predict_entries,
            offsets,
            genes,
            as_bits(rows),
            bias.detach().numpy(),
            as_bits(cells),
            outputs.numpy(),
            work=offsets,
            n_threads=torch.get_num_threads(),
        )
        ctx.asked, ctx.hidden, ctx.rows, ctx.cells = asked, hidden.dtype, rows, cells
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        offsets, genes, _ = ctx.asked.arrays()
        residual = gradients[0].contiguous()
        d_hidden, d_weight = torch.zeros(ctx.cells.shape), torch.empty(ctx.rows.shape)
        add = (offsets, genes, residual.numpy(), as_bits(ctx.rows), d_hidden.numpy())
        in_parts(add_rows, *add, work=offsets, n_threads=torch.get_num_threads())
        by_gene = residual.numpy()[ByGene.of(ctx.asked).entries]
        sum_by_gene(np.arange(len(d_weight)), ctx.asked, by_gene, ctx.cells, out=d_weight)
        d_bias = torch.zeros(len(d_weight)).index_add_(0, ctx.asked.gene_index.long(), residual)
        return d_hidden.to(ctx.hidden), d_weight, d_bias, None, None
