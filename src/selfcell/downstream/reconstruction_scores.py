"""How good expected expression is, over a whole test set, a few cells at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int, Num

from selfcell.data.counts import log_normalize
from selfcell.data.measured import of_genes
from selfcell.data.source import Cells
from selfcell.downstream.base import TaskScores
from selfcell.downstream.count_distribution import CountDistribution
from selfcell.downstream.count_scores import CountTotals
from selfcell.downstream.hiding import Hidden
from selfcell.downstream.regression_scores import RegressionTotals
from selfcell.downstream.resampling import TestUnits

ENTRIES_AT_ONCE = 2**22
"""Cells x genes of a block, of which some dense float32 arrays are made."""

HIDDEN = "hidden_"
"""What the names of scores of hidden counts begin with."""


class Forecast(NamedTuple):
    """What is expected of a block of cells."""

    expression: Float[np.ndarray, "n_cells n_genes"]
    """``log1p`` of counts per 10,000, float32."""
    distribution: Callable[[Float[np.ndarray, " n_cells"]], CountDistribution] | None = None
    """That of counts, given the depth of each cell that they are drawn at; None where a method expects expression
    alone."""


Forecaster: TypeAlias = Callable[[sp.csr_matrix], Forecast]
"""From the counts of some cells, as many as are visible, to what is expected of them: all that a method is."""


@dataclass(frozen=True)
class Reconstruction:
    """What a method expects of some cells, made a block of cells at a time: cells x genes never stand in memory."""

    counts: sp.csr_matrix
    """Of the cells, in the encoder's order of genes."""
    forecast: Forecaster
    measured: Bool[np.ndarray, " n_genes"] | None = None
    """The genes that are to be reconstructed; all if None."""

    @classmethod
    def of(cls, cells: Cells, rows: Int[np.ndarray, " n_rows"], forecast: Forecaster) -> "Reconstruction":
        """Reconstruct some cells: of the genes that are measured in all cells, of which alone anything is shown.

        What was not measured is zero, which would be an error of whoever expects what is there, and a gift to whoever
        learned it to be zero.
        """
        return cls(of_genes(cells.counts[rows], cells.measured), forecast, cells.measured)

    def blocks(self, cells_at_once: int | None = None) -> Iterator[slice]:
        """Cut the cells into blocks; as many at once as there is room for, if left out."""
        n_cells, n_genes = self.counts.shape
        size = cells_at_once or max(1, ENTRIES_AT_ONCE // n_genes)
        return (slice(start, min(start + size, n_cells)) for start in range(0, n_cells, size))


Hiding: TypeAlias = Callable[[sp.csr_matrix, Int[np.ndarray, " n_cells"]], Hidden]
"""Hides something of some cells, given their counts and their numbers."""


class UnitMean:
    """The mean of some numbers, from their sums by unit.

    Parameters
    ----------
    n_units
        Units: test donors.
    """

    def __init__(self, n_units: int) -> None:
        self._sums = np.zeros((2, n_units))

    def add(self, total: Num[np.ndarray, " n_cells"], n: Num[np.ndarray, " n_cells"], unit_code: np.ndarray) -> None:
        """Add the sum of each cell's numbers, and how many they are."""
        for sums, of_cells in zip(self._sums, (total, n), strict=True):
            sums += np.bincount(unit_code, of_cells, minlength=len(sums))

    def mean(self, weight: Float[np.ndarray, "n_draws n_units"]) -> Float[np.ndarray, " n_draws"]:
        """Give the mean where each unit counts as often as ``weight`` says; NaN where there is nothing."""
        total, n = self._sums @ weight.T
        with np.errstate(invalid="ignore"):
            return np.asarray(total / n)


class ReconstructionTotals:
    """Sums over test cells, from which all scores are computed.

    Parameters
    ----------
    n_genes
        Genes.
    n_units
        Test donors.
    """

    def __init__(self, *, n_genes: int, n_units: int) -> None:
        self.n_units = n_units
        self._whole = RegressionTotals(n_features=n_genes, n_units=n_units, ranks=False)
        self._hidden = RegressionTotals(n_features=n_genes, n_units=n_units, ranks=False)
        self._nonzero = UnitMean(n_units)
        self._counts = CountTotals(n_genes=n_genes, n_units=n_units)
        self._hides = self._has_distribution = False

    def add_whole(
        self,
        counts: sp.csr_matrix,
        forecast: Forecast,
        unit_code: Int[np.ndarray, " n_cells"],
        *,
        measured: Bool[np.ndarray, " n_genes"] | None = None,
    ) -> None:
        """Add cells of which nothing was hidden."""
        mask = None if measured is None else np.broadcast_to(measured, counts.shape)
        self._whole.add(log_normalize(counts), _expression(forecast), unit_code, mask=mask)

    def add_hidden(self, hidden: Hidden, forecast: Forecast, unit_code: Int[np.ndarray, " n_cells"]) -> None:
        """Add cells of which something was hidden."""
        self._hides, self._has_distribution = True, forecast.distribution is not None
        truth, expected, scored = hidden.expression, _expression(forecast), hidden.scored
        mask = None if scored.all() else scored
        self._hidden.add(truth, expected, unit_code, mask=mask)
        cell = np.repeat(np.arange(truth.shape[0]), np.diff(truth.indptr))
        error = (truth.data - expected[cell, truth.indices]) ** 2
        of_cells = np.bincount(cell, error, minlength=len(scored))
        self._nonzero.add(of_cells, np.diff(truth.indptr), unit_code)
        if forecast.distribution is not None:
            self._counts.add(hidden.counts, forecast.distribution(hidden.library_size), unit_code, mask=mask)

    def scores(self, weight: Float[np.ndarray, "n_draws n_units"]) -> dict[str, np.ndarray]:
        """Compute every score for each draw of units; see :func:`score_reconstruction`."""
        scores = _named(self._whole.scores(weight), prefix="")
        if self._hides:
            scores |= _named(self._hidden.scores(weight), prefix=HIDDEN)
            scores[f"{HIDDEN}nonzero_mse"] = self._nonzero.mean(weight)
        if self._has_distribution:
            scores |= _named(self._counts.scores(weight), prefix=HIDDEN)
        return scores


def score_reconstruction(
    answer: Reconstruction,
    cells: Int[np.ndarray, " n_cells"],
    units: TestUnits,
    *,
    hide: Hiding | None = None,
    cells_at_once: int | None = None,
) -> TaskScores:
    """Score what a method expects of cells that it sees whole and, where ``hide`` is given, of what is hidden from it.

    Expression is ``log1p`` of counts per 10,000, over all genes and cells together, not averaged over minibatches as
    in the paper. What is expected below 0 counts as 0. ``mse``, ``explained_variance_weighted`` and ``_uniform``,
    ``pearson_per_cell``, ``_per_gene`` and ``_flattened`` are those of
    :class:`selfcell.downstream.regression_scores.RegressionTotals`. Under the same names after ``hidden_`` stand the
    scores of what was hidden. ``hidden_nonzero_mse`` is over the hidden entries that are not zero: it rewards whoever
    expects much everywhere, so do not read it alone. Methods that have a distribution of counts get
    ``hidden_log_likelihood_per_cell`` and ``_per_entry`` and ``hidden_zero_calibration_error`` besides, those of
    :class:`selfcell.downstream.count_scores.CountTotals`.

    Parameters
    ----------
    answer
        The method, with the counts of the cells.
    cells
        A number of each cell, by which it is drawn what is hidden.
    units
        Test donors, and draws of them.
    hide
        Hides something of a block of cells.
    cells_at_once
        Cells of a block. It changes no score.
    """
    totals = ReconstructionTotals(n_genes=answer.counts.shape[1], n_units=len(units.names))
    for block in answer.blocks(cells_at_once):
        counts, unit_code = answer.counts[block], units.code[block]
        totals.add_whole(counts, answer.forecast(counts), unit_code, measured=answer.measured)
        if hide is not None:
            hidden = hide(counts, cells[block])
            if answer.measured is not None:
                hidden = hidden._replace(scored=hidden.scored & answer.measured)
            totals.add_hidden(hidden, answer.forecast(hidden.visible), unit_code)
    overall = totals.scores(np.ones((1, len(units.names))))
    return TaskScores({name: float(score[0]) for name, score in overall.items()}, totals.scores(units.draws))


def _expression(forecast: Forecast) -> Float[np.ndarray, "n_cells n_genes"]:
    return np.asarray(np.maximum(forecast.expression, 0))


def _named(scores: dict[str, np.ndarray], *, prefix: str) -> dict[str, np.ndarray]:
    """Call features genes, and leave out what was not computed."""
    return {
        prefix + name.replace("_per_feature", "_per_gene"): score
        for name, score in scores.items()
        if not name.startswith("spearman")
    }
