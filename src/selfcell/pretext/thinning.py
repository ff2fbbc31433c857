"""Thinning of counts on a CPU, by all threads; what it is stands in :func:`selfcell.pretext.views.thin_counts`."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selfcell.data.minibatch import CellMinibatch
from selfcell.network.kernels import in_parts
from selfcell.network.random_bits import drawn_seed
from selfcell.pretext.thin_kernels import keep_positive, thin_entries


def thinned_entries(
    minibatch: CellMinibatch, keep: Float[Tensor, " n_cells"], *, generator: torch.Generator
) -> Float[Tensor, " n_values"]:
    """Draw what stays of each count.

    The draws of a cell are a function of a seed and its place, the same with any number of threads. A probability
    is taken to the nearest multiple of 2^-32.

    Parameters
    ----------
    minibatch
        Cells with raw counts, on the CPU.
    keep
        Probability that a molecule stays, up to 1; 0 leaves the cell untouched.
    generator
        Source of randomness, on the CPU.
    """
    offsets, values = minibatch.cell_offsets.numpy(), minibatch.values.numpy()
    units = (keep.double() * 2**32).round()
    # A cell of which everything stays has the limit 0: 2^32 does not fit.
    limits = torch.where(units < 2**32, units.clamp(min=1), 0).numpy().astype(np.uint32)
    thinned, touched = np.empty_like(values), (keep > 0).numpy()
    in_parts(
        thin_entries,
        *drawn_seed(generator),
        limits,
        touched,
        offsets,
        values,
        thinned,
        work=offsets,
        n_threads=torch.get_num_threads(),
    )
    return torch.from_numpy(thinned)


def without_zeros(minibatch: CellMinibatch, values: Float[Tensor, " n_values"]) -> CellMinibatch:
    """Give cells with new values, without the entries that came to zero.

    Parameters
    ----------
    minibatch
        Cells, on the CPU.
    values
        One an entry.
    """
    offsets, genes, arrays = minibatch.cell_offsets.numpy(), minibatch.gene_index.numpy(), values.numpy()
    before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(arrays > 0, dtype=np.int64)])
    new_offsets = before[offsets]
    new_genes, new_values = np.empty(new_offsets[-1], dtype=genes.dtype), np.empty(new_offsets[-1], dtype=arrays.dtype)
    in_parts(
        keep_positive,
        offsets,
        genes,
        arrays,
        new_offsets,
        new_genes,
        new_values,
        work=offsets,
        n_threads=torch.get_num_threads(),
    )
    return CellMinibatch(
        values=torch.from_numpy(new_values),
        gene_index=torch.from_numpy(new_genes),
        cell_offsets=torch.from_numpy(new_offsets),
        n_genes=minibatch.n_genes,
        codes=minibatch.codes,
    )
