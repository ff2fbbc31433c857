"""Sums over cells, by unit and feature, of truth, prediction, their squares and their product."""

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from selfcell.core.errors import InputError
from selfcell.downstream.moments import Moments, moments

# Arrays of this many numbers stay in the processor's cache.
_BLOCK_ENTRIES = 2**16


class FeatureSums:
    """What the moments of each feature are computed from, for any weights of the units.

    Values are summed relative to the first ones seen, in float64, so a large offset costs no digits.

    Parameters
    ----------
    n_features
        Features.
    n_units
        Units: test donors, or 1.
    """

    def __init__(self, *, n_features: int, n_units: int) -> None:
        self.n_features, self.n_units = n_features, n_units
        # Of each unit and feature; a single column until a mask makes it differ between features.
        self._n = np.zeros((n_units, 1))
        self._sums = np.zeros((5, n_units, n_features))
        # What is taken off truth and prediction of each feature before they are summed.
        self._shifts: np.ndarray | None = None

    def add(
        self,
        truth: Float[np.ndarray, "n_cells n_features"],
        predicted: Float[np.ndarray, "n_cells n_features"],
        unit_code: Int[np.ndarray, " n_cells"],
        *,
        mask: Bool[np.ndarray, "n_cells n_features"] | None = None,
    ) -> None:
        """Add a block of cells: float64, a few at a time.

        Raises
        ------
        InputError
            If values that count are NaN or infinite.
        """
        if self._shifts is None:
            self._shifts = np.nan_to_num(np.stack([truth[0], predicted[0]]), posinf=0.0, neginf=0.0)
        truth, predicted = of_mask(mask, truth, predicted)
        _refuse_what_is_no_number(truth, "true")
        _refuse_what_is_no_number(predicted, "predicted")
        if mask is not None and self._n.shape[1] == 1:
            self._n = np.tile(self._n, (1, self.n_features))
        truth, predicted = of_mask(mask, truth - self._shifts[0], predicted - self._shifts[1])
        add_by_unit(self._n, np.ones((len(truth), 1)) if mask is None else mask, unit_code)
        for sums, values in zip(self._sums, (truth, predicted, truth**2, predicted**2, truth * predicted), strict=True):
            add_by_unit(sums, values, unit_code)

    def moments(self, weight: Float[np.ndarray, "n_draws n_units"], features: slice = slice(None)) -> Moments:
        """Compute moments of some features, draws x features, where each unit counts as often as ``weight`` says."""
        n = weight @ (self._n if self._n.shape[1] == 1 else self._n[:, features])
        shift_truth, shift_predicted = self._shift(features)
        return moments(n, weight @ self._sums[:, :, features], shift_truth=shift_truth, shift_predicted=shift_predicted)

    def flattened(self, weight: Float[np.ndarray, "n_draws n_units"]) -> Moments:
        """Compute moments of all entries at once, draws x 1."""
        # The sums of all features about one shift, the mean of theirs.
        common = self._shift().mean(axis=1, keepdims=True)
        off_truth, off_predicted = self._shift() - common
        truth, predicted, truth_squared, predicted_squared, product = self._sums
        n = np.broadcast_to(self._n, truth.shape)
        sums = [
            truth.sum(axis=1) + n @ off_truth,
            predicted.sum(axis=1) + n @ off_predicted,
            truth_squared.sum(axis=1) + 2 * truth @ off_truth + n @ off_truth**2,
            predicted_squared.sum(axis=1) + 2 * predicted @ off_predicted + n @ off_predicted**2,
            product.sum(axis=1) + truth @ off_predicted + predicted @ off_truth + n @ (off_truth * off_predicted),
        ]
        return moments(
            weight @ n.sum(axis=1, keepdims=True),
            weight @ np.stack(sums)[:, :, None],
            shift_truth=common[0],
            shift_predicted=common[1],
        )

    def _shift(self, features: slice = slice(None)) -> np.ndarray:
        return np.zeros((2, self.n_features))[:, features] if self._shifts is None else self._shifts[:, features]


def add_by_unit(
    sums: Float[np.ndarray, "n_units n_columns"],
    values: Float[np.ndarray, "n_cells n_columns"] | Bool[np.ndarray, "n_cells n_columns"],
    unit_code: Int[np.ndarray, " n_cells"],
) -> None:
    """Add the rows of ``values`` to those of ``sums`` that belong to their units."""
    units, position = np.unique(unit_code, return_inverse=True)
    belongs = np.zeros((len(units), len(values)))
    belongs[position, np.arange(len(values))] = 1.0
    sums[units] += belongs @ values


def cell_blocks(n_cells: int, n_features: int) -> Iterator[slice]:
    """Cut cells into blocks, of which some float64 arrays are small."""
    return _blocks(n_cells, max(1, _BLOCK_ENTRIES // max(n_features, 1)))


def feature_blocks(n_features: int, n_rows: int) -> Iterator[slice]:
    """Cut features into blocks, of which some float64 arrays with so many rows are small."""
    return _blocks(n_features, max(1, _BLOCK_ENTRIES // max(n_rows, 1)))


def of_mask(mask: np.ndarray | None, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Put zeros where nothing counts."""
    return arrays if mask is None else tuple(np.where(mask, values, 0.0) for values in arrays)


def densely(matrix: np.ndarray | sp.csr_matrix | sp.csc_matrix) -> Float[np.ndarray, "..."]:
    """Give a block of cells x features as a dense float64 array."""
    return np.asarray(matrix if isinstance(matrix, np.ndarray) else matrix.toarray(), dtype=np.float64)


def _blocks(length: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, length, size))


def _refuse_what_is_no_number(values: np.ndarray, what: str) -> None:
    n_faulty = values.size - int(np.isfinite(values).sum())
    if n_faulty:
        raise InputError(
            f"{n_faulty:,} {what} values are NaN or infinite, so predictions cannot be scored. Drop these cells or "
            "features; if the model predicted them, train it anew with a smaller learning rate."
        )
