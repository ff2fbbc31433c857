"""Ridge regression of many targets, solved in closed form, with a penalty chosen on held-out training cells."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from jaxtyping import Float, Int
from sklearn.model_selection import GroupKFold, KFold
from sklearn.utils.extmath import randomized_svd

from selfcell.core.errors import InputError

PENALTIES = (1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
"""What the penalty is chosen from, per training cell: scikit-learn's ``alpha`` is so many times the training cells."""
N_FOLDS = 5
LARGEST_SYSTEM = 4_000
"""Unknowns up to which systems are solved exactly; see :func:`fit_ridge`."""
N_DIRECTIONS = 1_000
"""Principal directions that stand for the inputs beyond that."""

_CELLS_AT_ONCE = 4_096

Matrix: TypeAlias = np.ndarray | sp.csr_matrix


@dataclass(frozen=True)
class Ridge:
    """A fitted regression."""

    weight: Float[np.ndarray, "n_inputs n_targets"]
    """Of the inputs as they come, not standardized."""
    intercept: Float[np.ndarray, " n_targets"]
    penalty: float
    """The one of :data:`PENALTIES` that was chosen, per training cell."""

    def predict(self, inputs: Matrix) -> Float[np.ndarray, "n_cells n_targets"]:
        """Predict the targets of some cells, in float32."""
        return np.asarray(inputs @ self.weight + self.intercept, dtype=np.float32)


def fit_ridge(
    inputs: Matrix,
    targets: Float[np.ndarray, "n_cells n_targets"],
    *,
    group_code: Int[np.ndarray, " n_cells"] | None = None,
    penalties: tuple[float, ...] = PENALTIES,
) -> Ridge:
    r"""Fit a ridge regression on standardized inputs.

    .. math:: \min_{W, b} \sum_c \|y_c - b - W z_c\|^2 + \lambda n \|W\|^2

    for :math:`n` cells with inputs :math:`z_c` of mean 0 and variance 1; constant inputs count for nothing. The penalty
    :math:`\lambda` is the same for all targets: the one with the smallest squared error when each of five parts of the
    cells in turn is predicted from the others, parts of whole groups (donors) where these are known.

    Sparse inputs stay sparse. The smaller of cells and inputs is what the effort depends on: with fewer cells than
    inputs the problem is turned onto its principal directions, all of them, which changes nothing. Where both exceed
    :data:`LARGEST_SYSTEM` the first :data:`N_DIRECTIONS` directions, found by a randomized decomposition, stand for the
    inputs, which then is no longer exact.

    Parameters
    ----------
    inputs
        Cells x inputs, dense or sparse rows.
    targets
        What to predict.
    group_code
        The group of each cell, from 0.
    penalties
        What to choose from; a single one is taken as it is.

    Raises
    ------
    InputError
        If there are fewer than two cells.
    """
    if inputs.shape[0] < 2:
        raise InputError(f"A ridge regression needs at least 2 cells to learn from, but there are {inputs.shape[0]}.")
    problem = _Problem.of(inputs, targets)
    everything = problem.sums(np.arange(len(targets)))
    chosen = penalties[0]
    if len(penalties) > 1:
        errors = sum(problem.errors_on(part, everything, penalties) for part in _parts(len(targets), group_code))
        chosen = penalties[int(np.argmin(errors))]
    weight = problem.weight_of_inputs(everything.solve(chosen))
    return Ridge(
        weight.astype(np.float32),
        (problem.center - problem.standard.mean @ weight).astype(np.float32),
        penalty=float(chosen),
    )


@dataclass(frozen=True)
class _Standardized:
    """Inputs with the mean and standard deviation of each; those that are constant come out as zeros."""

    inputs: Matrix
    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, inputs: Matrix) -> "_Standardized":
        n_cells, n_inputs = inputs.shape
        total, squares = np.zeros(n_inputs), np.zeros(n_inputs)
        for start in range(0, n_cells, _CELLS_AT_ONCE):
            block = inputs[start : start + _CELLS_AT_ONCE]
            total += np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
        mean = total / n_cells
        for start in range(0, n_cells, _CELLS_AT_ONCE):
            block = _dense(inputs[start : start + _CELLS_AT_ONCE])
            squares += ((block - mean) ** 2).sum(axis=0)
        spread = np.sqrt(squares / n_cells)
        # What is left of a constant after rounding is no spread.
        return cls(inputs, mean, np.where(spread > 1e-6 * np.maximum(np.abs(mean), 1e-12), spread, np.inf))

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Give some cells, dense, in float64."""
        return np.asarray((_dense(self.inputs[rows]) - self.mean) / self.spread)


@dataclass(frozen=True)
class _Sums:
    """What a regression on some cells is solved from."""

    n_cells: int
    inputs: np.ndarray
    targets: np.ndarray
    gram: np.ndarray
    """Products of inputs with inputs."""
    product: np.ndarray
    """Products of inputs with targets."""

    def without(self, part: "_Sums") -> "_Sums":
        """Take some of the cells away."""
        return _Sums(
            self.n_cells - part.n_cells,
            self.inputs - part.inputs,
            self.targets - part.targets,
            self.gram - part.gram,
            self.product - part.product,
        )

    def solve(self, penalty: float) -> np.ndarray:
        """Give the weights, for inputs and targets about the means of these cells."""
        system = self.gram - np.outer(self.inputs, self.inputs / self.n_cells)
        system[np.diag_indices_from(system)] += penalty * self.n_cells
        product = self.product - np.outer(self.inputs, self.targets / self.n_cells)
        return np.asarray(scipy.linalg.solve(system, product, assume_a="pos", overwrite_a=True))


@dataclass(frozen=True)
class _Problem:
    """Inputs, standardized and perhaps turned onto a few directions, and targets about their mean."""

    standard: _Standardized
    directions: np.ndarray | None
    """Orthonormal directions of the inputs, as columns, that stand for them; None for the inputs themselves."""
    targets: np.ndarray
    center: np.ndarray

    @classmethod
    def of(cls, inputs: Matrix, targets: np.ndarray) -> "_Problem":
        standard, center = _Standardized.of(inputs), targets.mean(axis=0, dtype=np.float64)
        return cls(standard, _directions(standard), targets - center, center)

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Give the inputs of some cells."""
        inputs = self.standard.rows(rows)
        return inputs if self.directions is None else inputs @ self.directions

    def sums(self, rows: np.ndarray) -> _Sums:
        """Sum over some cells."""
        n_inputs, n_targets = self._n_inputs, self.targets.shape[1]
        sums = _Sums(
            len(rows),
            np.zeros(n_inputs),
            np.zeros(n_targets),
            np.zeros((n_inputs, n_inputs)),
            np.zeros((n_inputs, n_targets)),
        )
        for block in _blocks(rows):
            inputs, targets = self.rows(block), self.targets[block]
            for total, added in (
                (sums.inputs, inputs.sum(axis=0)),
                (sums.targets, targets.sum(axis=0)),
                (sums.gram, inputs.T @ inputs),
                (sums.product, inputs.T @ targets),
            ):
                total += added
        return sums

    def errors_on(self, part: np.ndarray, everything: _Sums, penalties: tuple[float, ...]) -> np.ndarray:
        """Give the squared error on some cells, predicted from all others, for each penalty."""
        others = everything.without(self.sums(part))
        weights = [others.solve(penalty) for penalty in penalties]
        errors = np.zeros(len(penalties))
        for block in _blocks(part):
            inputs = self.rows(block) - others.inputs / others.n_cells
            truth = self.targets[block] - others.targets / others.n_cells
            errors += [((inputs @ weight - truth) ** 2).sum() for weight in weights]
        return errors

    def weight_of_inputs(self, weight: np.ndarray) -> np.ndarray:
        """Turn weights of what was solved for into weights of the inputs as they come."""
        turned = weight if self.directions is None else self.directions @ weight
        return np.asarray(turned / self.standard.spread[:, None])

    @property
    def _n_inputs(self) -> int:
        return int((self.standard.inputs if self.directions is None else self.directions).shape[1])


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return np.array_split(rows, max(1, -(-len(rows) // _CELLS_AT_ONCE)))


def _dense(block: Matrix) -> np.ndarray:
    return np.asarray(block if isinstance(block, np.ndarray) else block.toarray(), dtype=np.float64)


def _directions(standard: _Standardized) -> np.ndarray | None:
    """Give orthonormal directions of the inputs, as columns, that stand for them; None for the inputs themselves."""
    n_cells, n_inputs = standard.inputs.shape
    if n_inputs <= min(n_cells, LARGEST_SYSTEM):
        return None
    if n_cells <= LARGEST_SYSTEM:
        # Directions of all cells, from their products, a few inputs at a time through memory.
        products = np.zeros((n_cells, n_cells))
        columns = standard.inputs if isinstance(standard.inputs, np.ndarray) else standard.inputs.tocsc()
        blocks = [slice(start, start + _CELLS_AT_ONCE) for start in range(0, n_inputs, _CELLS_AT_ONCE)]
        for block in blocks:
            scaled = (_dense(columns[:, block]) - standard.mean[block]) / standard.spread[block]
            products += scaled @ scaled.T
        squares, left = scipy.linalg.eigh(products, overwrite_a=True)
        kept = squares > squares[-1] * 1e-10
        back = left[:, kept] / np.sqrt(squares[kept])
        return np.concatenate(
            [((_dense(columns[:, block]) - standard.mean[block]) / standard.spread[block]).T @ back for block in blocks]
        )
    scaled = sp.csr_matrix(standard.inputs) @ sp.diags(1 / standard.spread)
    right: np.ndarray = randomized_svd(scaled, N_DIRECTIONS, n_iter=4, random_state=0)[2]
    return right.T


def _parts(n_cells: int, group_code: np.ndarray | None) -> Iterator[np.ndarray]:
    """Give the cells of each part to hold out."""
    n_groups = 0 if group_code is None else len(np.unique(group_code))
    cells = np.zeros((n_cells, 1))
    if n_groups > 1:
        yield from (part for _, part in GroupKFold(min(N_FOLDS, n_groups)).split(cells, groups=group_code))
    else:
        folds = KFold(min(N_FOLDS, n_cells), shuffle=True, random_state=0)
        yield from (part for _, part in folds.split(cells))
