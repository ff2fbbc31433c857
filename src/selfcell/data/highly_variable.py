"""Highly variable genes: those that vary more between cells than genes of their mean do."""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

N_HIGHLY_VARIABLE = 2_000
"""The number that Seurat takes, and baselines on highly variable genes see."""

LOESS_SPAN = 0.3
"""Share of the genes that a local fit of the variance sees, as in Seurat and scanpy."""

N_FITS = 200
"""Means at which the local fit is made, evenly spread, and as many again by their ranks."""


def highly_variable_genes(
    counts: sp.csr_matrix, *, n_genes: int = N_HIGHLY_VARIABLE
) -> Int[np.ndarray, " n_highly_variable"]:
    """Choose the genes whose standardized counts vary most; all that vary where there are fewer than asked for.

    Parameters
    ----------
    counts
        Raw counts of cells x genes, of the cells that may be seen.
    n_genes
        How many to choose.

    Returns
    -------
    Positions in ascending order. Among genes that vary alike the first ones are taken.
    """
    variance = standardized_variance(counts)
    order = np.argsort(-variance, kind="stable")[: min(n_genes, int((variance > 0).sum()))]
    chosen: np.ndarray = np.sort(order)
    return chosen


def standardized_variance(counts: sp.csr_matrix) -> Float[np.ndarray, " n_genes"]:
    """Give the variance of each gene's counts, standardized by what a gene of its mean is expected to vary.

    This is the ranking of Seurat 3 :cite:p:`stuart2019`, scanpy's ``seurat_v3``: the expected variance is a curve of
    local quadratic fits of the logarithm of the variance on that of the mean; counts are centred by their own mean,
    divided by the expected standard deviation and cut off above at the square root of the number of cells. All cells
    count alike; nothing is ranked within batches. The local fits are made at up to 400 means, with lines between them
    (the originals interpolate too, by their library's own scheme), so genes at the very edge of the choice may differ.

    Parameters
    ----------
    counts
        Raw counts of cells x genes.

    Returns
    -------
    One number a gene, 0 for those that do not vary.
    """
    n_cells, n_genes = counts.shape
    gene, value = counts.indices, counts.data.astype(np.float64)

    def total(weight: np.ndarray) -> np.ndarray:
        return np.bincount(gene, weights=weight, minlength=n_genes)

    mean = total(value) / n_cells
    # In two passes, as the difference of large squares loses digits.
    centred = total((value - mean[gene]) ** 2) + (n_cells - np.bincount(gene, minlength=n_genes)) * mean**2
    variance = centred / max(n_cells - 1, 1)
    varies = variance > 0
    result = np.zeros(n_genes)
    if not varies.any():
        return result
    expected = np.zeros(n_genes)
    expected[varies] = 10 ** local_quadratic_fit(np.log10(mean[varies]), np.log10(variance[varies]), span=LOESS_SPAN)
    ceiling = mean + np.sqrt(expected * n_cells)
    clipped = np.minimum(value, ceiling[gene])
    squares = total(clipped**2) - 2 * mean * total(clipped) + n_cells * mean**2
    result[varies] = squares[varies] / ((n_cells - 1) * expected[varies])
    return result


def local_quadratic_fit(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], *, span: float
) -> Float[np.ndarray, " n"]:
    """Smooth ``y`` over ``x`` by quadratic fits to the nearest points (loess :cite:p:`cleveland1979`).

    Parameters
    ----------
    x, y
        Points.
    span
        Share of the points that each fit sees, weighted by the cube of one minus the cubed relative distance.

    Returns
    -------
    The smooth value at each ``x``.
    """
    n_near = min(max(int(span * len(x)), 3), len(x))
    places = _places(x)
    smooth = np.empty(len(places))
    for i, place in enumerate(places):
        distance = np.abs(x - place)
        near = np.argpartition(distance, n_near - 1)[:n_near]
        reach = max(distance[near].max(), np.finfo(float).tiny)
        weight = np.sqrt((1 - np.minimum(distance[near] / reach, 1) ** 3) ** 3)
        powers = np.vander((x[near] - place) / reach, 3, increasing=True)
        smooth[i] = np.linalg.lstsq(powers * weight[:, None], y[near] * weight, rcond=None)[0][0]
    fitted: np.ndarray = np.interp(x, places, smooth)
    return fitted


def _places(x: np.ndarray) -> np.ndarray:
    """Choose among the values of ``x`` those to fit at: all where they are few."""
    distinct = np.unique(x)
    if len(distinct) <= 2 * N_FITS:
        return distinct
    even = np.searchsorted(distinct, np.linspace(distinct[0], distinct[-1], N_FITS))
    ranked = np.linspace(0, len(distinct) - 1, N_FITS).round().astype(int)
    places: np.ndarray = distinct[np.union1d(np.minimum(even, len(distinct) - 1), ranked)]
    return places
