"""Counts hidden from test cells, the same for every method: what imputation is judged on."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from selfcell.core.seeds import numpy_rng
from selfcell.data.counts import TARGET_TOTAL


class Hidden(NamedTuple):
    """Some cells of which something is hidden."""

    visible: sp.csr_matrix
    """The counts that are left: all that a method may see."""
    counts: sp.csr_matrix
    """The hidden counts."""
    library_size: Float[np.ndarray, " n_cells"]
    """What hidden counts are measured by: so many counts of a cell stand for 10,000."""
    scored: Bool[np.ndarray, "n_cells n_genes"]
    """The entries that are to be predicted."""

    @property
    def expression(self) -> sp.csr_matrix:
        """The hidden counts as ``log1p`` of counts per 10,000."""
        expression = self.counts.copy()
        per_cell = np.repeat(TARGET_TOTAL / self.library_size, np.diff(expression.indptr))
        expression.data = np.log1p(expression.data * per_cell).astype(np.float32)
        return expression


def hide_entries(counts: sp.csr_matrix, cells: Int[np.ndarray, " n_cells"], *, fraction: float, seed: int) -> Hidden:
    """Hide whole entries: the counts of a gene in a cell, each with the same probability, zeros too.

    What is left of a cell is normalized by its own sum, of which nothing hidden is a part. The hidden counts are
    measured by that sum too, so that both are in one unit. A cell of which nothing would be left is not hidden from,
    and not scored.

    Parameters
    ----------
    counts
        Cells x genes.
    cells
        A number of each cell, such as its position among all: what is hidden depends on it, the gene and the seed.
    fraction
        Share of the entries to hide, between 0 and 1.
    seed
        Seed.
    """
    n_genes = counts.shape[1]
    drawn = [numpy_rng(seed, "hidden entries", int(cell)).random(n_genes, dtype=np.float32) for cell in cells]
    scored = np.stack(drawn) < fraction if drawn else np.zeros(counts.shape, dtype=bool)
    cell_of_entry = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    seen = np.bincount(cell_of_entry[~scored[cell_of_entry, counts.indices]], minlength=counts.shape[0])
    scored[seen == 0] = False
    is_hidden = scored[cell_of_entry, counts.indices]
    visible, hidden = _with(counts, np.where(is_hidden, 0, counts.data)), _with(counts, counts.data * is_hidden)
    return Hidden(visible, hidden, _library_size(visible), scored)


def hide_molecules(counts: sp.csr_matrix, cells: Int[np.ndarray, " n_cells"], *, fraction: float, seed: int) -> Hidden:
    """Hide single molecules, each with the same probability: molecular cross-validation :cite:p:`batson2019`.

    All genes are to be predicted. Hidden counts are measured by their own sum. Cells of which all or none would be
    hidden are not hidden from, and not scored. Parameters as of :func:`hide_entries`; counts must be whole.
    """
    hidden_counts = np.zeros_like(counts.data)
    for place, cell in enumerate(cells):
        entries = slice(counts.indptr[place], counts.indptr[place + 1])
        rng = numpy_rng(seed, "hidden molecules", int(cell))
        hidden_counts[entries] = rng.binomial(counts.data[entries].astype(np.int64), fraction)
    total, n_hidden = _library_size(counts), _library_size(_with(counts, hidden_counts))
    is_whole = (n_hidden == 0) | (n_hidden == total)
    hidden_counts[np.repeat(is_whole, np.diff(counts.indptr))] = 0
    hidden = _with(counts, hidden_counts)
    scored = np.repeat(~is_whole[:, None], counts.shape[1], axis=1)
    return Hidden(_with(counts, counts.data - hidden_counts), hidden, np.where(is_whole, total, n_hidden), scored)


def _with(counts: sp.csr_matrix, values: np.ndarray) -> sp.csr_matrix:
    """Give a matrix with other values in its entries, without those that are zero."""
    other = sp.csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape, dtype=np.float32, copy=True)
    other.eliminate_zeros()
    return other


def _library_size(counts: sp.csr_matrix) -> Float[np.ndarray, " n_cells"]:
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
