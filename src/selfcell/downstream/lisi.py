"""How many batches, or labels, there are around a cell: the local inverse Simpson index."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float, Int

from selfcell.downstream.integration_kernels import inverse_simpson

_CELLS_AT_ONCE = 1024


def lisi(
    indices: Int[np.ndarray, "n_cells n_neighbors"],
    distances: Float[np.ndarray, "n_cells n_neighbors"],
    code: Int[np.ndarray, " n_cells"],
) -> Float[np.ndarray, " n_cells"]:
    r"""Compute the local inverse Simpson index of each cell :cite:p:`korsunsky2019`.

    Neighbors at distance :math:`d_j` weigh :math:`p_j \propto e^{-\beta d_j}`, with :math:`\beta` such that the entropy
    of the weights is the logarithm of the perplexity, a third of the number of neighbors. The index is
    :math:`1 / \sum_c (\sum_{j \in c} p_j)^2` over the codes :math:`c`: the number of codes that would give it, were
    they equally common.

    The cell itself does not count. Where many neighbors are equally near, no :math:`\beta` may reach the
    perplexity; the search then ends after 50 steps, as in the original.

    Parameters
    ----------
    indices, distances
        The nearest cells of each cell. The cell itself is one of them.
    code
        Batch or label of each cell, from 0.

    Returns
    -------
    Between 1 and the number of codes.
    """
    n_cells, n_neighbors = indices.shape
    itself = indices == np.arange(n_cells)[:, None]
    others = np.where(itself, np.inf, distances).astype(np.float64)
    perplexity = float(max(n_neighbors // 3, 1))
    neighbor_code, n_codes = code[indices], int(code.max()) + 1
    result = np.empty(n_cells)

    def compute(start: int) -> None:
        stop = min(start + _CELLS_AT_ONCE, n_cells)
        inverse_simpson(others, neighbor_code, perplexity, n_codes, start, stop, result)

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(compute, range(0, n_cells, _CELLS_AT_ONCE)))
    return result


def ilisi(index_of_batch: Float[np.ndarray, " n_cells"], *, n_batches: int) -> float:
    """Scale the median index of batches: 0 where one batch surrounds a cell, 1 where all do :cite:p:`luecken2022`."""
    return float((np.median(index_of_batch) - 1) / (n_batches - 1))


def clisi(index_of_label: Float[np.ndarray, " n_cells"], *, n_labels: int) -> float:
    """Scale the median index of labels: 1 where one label surrounds a cell, 0 where all do :cite:p:`luecken2022`."""
    return float((n_labels - np.median(index_of_label)) / (n_labels - 1))
