"""From targets to what is learned and scored, and back: a transform and, for many targets, a few directions of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import scipy.sparse as sp
import scipy.special
from jaxtyping import Float
from sklearn.decomposition import PCA

from selfcell.core.errors import InputError
from selfcell.data.target_transforms import TRANSFORMS, Log1p, TargetTransform
from selfcell.data.targets import TargetKind, Targets

TransformName = Literal["auto", "log1p", "clr", "counts", "tfidf", "binary", "unchanged"]
Matrix: TypeAlias = np.ndarray | sp.csr_matrix
Link = Literal["identity", "log1p_of_exp", "sigmoid"]
"""From a linear prediction to values: none, ``log(1 + exp(x))`` of a log mean of counts, the probability of a logit."""

USUAL: dict[TargetKind, TransformName] = {"protein_counts": "log1p", "chromatin_counts": "tfidf", "values": "unchanged"}
"""What ``auto`` stands for, by kind of targets."""
MOST_DIRECT = 2_000
"""Targets up to which each is predicted by itself, where no rank is asked for."""
USUAL_RANK = 50
"""Directions in which more than these are predicted."""
_ENTRIES_AT_ONCE = 2**25


@dataclass(frozen=True)
class TargetPrediction:
    """Predicted values of cells, as a product of two small matrices where there are many targets."""

    left: Float[np.ndarray, "n_cells n_directions"]
    right: Float[np.ndarray, "n_directions n_targets"] | None
    """None where each direction is a target."""
    offset: Float[np.ndarray, " n_targets"]
    link: Link = "identity"

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and targets."""
        return len(self.left), len(self.offset)

    def rows(self, rows: slice) -> Float[np.ndarray, "n_cells n_targets"]:
        """Give the values of some cells, dense, in float32."""
        left = self.left[rows]
        linear = (left if self.right is None else left @ self.right) + self.offset
        if self.link == "sigmoid":
            return np.asarray(scipy.special.expit(linear), dtype=np.float32)
        if self.link == "log1p_of_exp":
            return np.asarray(np.logaddexp(0.0, linear), dtype=np.float32)
        return np.asarray(linear, dtype=np.float32)

    def dense(self) -> Float[np.ndarray, "n_cells n_targets"]:
        """Give all values."""
        return self.rows(slice(None))

    def blocks(self) -> Iterator[slice]:
        """Cut the cells so that the values of a block take some hundred megabytes."""
        n_cells, n_targets = self.shape
        at_once = max(1, _ENTRIES_AT_ONCE // max(n_targets, 1))
        return (slice(start, start + at_once) for start in range(0, n_cells, at_once))


@dataclass(frozen=True)
class TargetSpace:
    """A transform fitted on training cells and, for many targets, the principal components of what it gives."""

    transform: TargetTransform
    name: TransformName
    """The transform's."""
    center: Float[np.ndarray, " n_targets"]
    """Mean of each transformed target over training cells."""
    components: Float[np.ndarray, "n_directions n_targets"] | None
    """Orthonormal directions; None where each target is its own."""

    @classmethod
    def fit(cls, train: Targets, transform: TransformName, *, rank: int | None) -> "TargetSpace":
        """Fit on the targets of training cells alone.

        Parameters
        ----------
        train
            Their targets.
        transform
            A transform by name; ``auto`` takes the usual one of the kind of targets.
        rank
            Principal components to predict; 0 for the targets themselves, None for these up to :data:`MOST_DIRECT`
            targets and else :data:`USUAL_RANK` components.

        Raises
        ------
        InputError
            If the transform is not for such targets, or there are too few cells.
        """
        name = usual_transform(transform, train.kind)
        fitted = TRANSFORMS[name].fit(train)
        values = _scored(train, name, fitted)
        center = np.asarray(values.mean(axis=0, dtype=np.float64), dtype=np.float32).ravel()
        if rank is None:
            rank = min(USUAL_RANK, len(train) - 1) if values.shape[1] > MOST_DIRECT else 0
        directions = principal_directions(values, rank) if rank and rank < values.shape[1] else None
        return cls(fitted, name, center, directions)

    @property
    def n_directions(self) -> int:
        """How many numbers are predicted of a cell."""
        return len(self.center) if self.components is None else len(self.components)

    def values(self, targets: Targets) -> Matrix:
        """Give what is scored: transformed targets; of counts that a likelihood is fitted to, ``log1p``."""
        return _scored(targets, self.name, self.transform)

    def coordinates(self, values: Matrix) -> Float[np.ndarray, "n_cells n_directions"]:
        """Give transformed targets about their mean, in the directions of the space."""
        if self.components is None:
            dense = values if isinstance(values, np.ndarray) else values.toarray()
            return np.asarray(dense - self.center, dtype=np.float32)
        return np.asarray(values @ self.components.T - self.components @ self.center, dtype=np.float32)

    def prediction(self, coordinates: Float[np.ndarray, "n_cells n_directions"]) -> TargetPrediction:
        """Give the values that coordinates stand for."""
        return TargetPrediction(coordinates, self.components, self.center)


def usual_transform(name: TransformName, kind: TargetKind) -> TransformName:
    """Give the transform that a name stands for, with targets of a kind."""
    return USUAL[kind] if name == "auto" else name


def _scored(targets: Targets, name: TransformName, fitted: TargetTransform) -> Matrix:
    return (Log1p() if name == "counts" else fitted).transform(targets.matrix)


def principal_directions(values: Matrix, rank: int) -> Float[np.ndarray, "rank n_targets"]:
    """Give the first principal components of cells x targets, dense or sparse; no dense copy is made of sparse ones.

    Raises
    ------
    InputError
        If there are not more cells and targets than components.
    """
    if rank >= min(values.shape):
        raise InputError(
            f"{rank} directions of {values.shape[1]:,} targets need more than {rank} cells to learn from, but there "
            f"are {values.shape[0]:,}. Lower the setting rank."
        )
    pca = PCA(rank, svd_solver="arpack", random_state=0).fit(values)
    return np.asarray(pca.components_, dtype=np.float32)
