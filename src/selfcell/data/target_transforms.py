"""What a head is trained to give for proteins or chromatin, fitted on the cells of training alone.

A transform keeps dense arrays dense and sparse rows sparse.
"""

import abc
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from selfcell.core.errors import InputError
from selfcell.data.targets import TargetKind, Targets

Matrix: TypeAlias = np.ndarray | sp.csr_matrix


@dataclass(frozen=True)
class TargetTransform(abc.ABC):
    """From what was measured to what is predicted. The fields are all that fitting found."""

    of_kinds: ClassVar[tuple[TargetKind, ...]] = ("protein_counts", "chromatin_counts")
    """Targets that it can be used for."""

    @classmethod
    def fit(cls, train: Targets) -> "TargetTransform":
        """Fit it on the targets of training cells.

        Raises
        ------
        InputError
            If it is not for such targets.
        """
        if train.kind not in cls.of_kinds:
            raise InputError(
                f"{cls.__name__} is for {' and '.join(cls.of_kinds)}, but {train.origin} has {train.kind}. Choose "
                "another transform, or say what the targets are with kind=..."
            )
        return cls._fitted(train.matrix)

    @classmethod
    def _fitted(cls, matrix: Matrix) -> "TargetTransform":  # noqa: ARG003 - most need no fitting
        return cls()

    @abc.abstractmethod
    def transform(self, matrix: Matrix) -> Matrix:
        """Give what a head is to predict of some cells; float32, and never the arrays that came in."""


class Unchanged(TargetTransform):
    """Values as they are."""

    of_kinds = ("protein_counts", "chromatin_counts", "values")

    def transform(self, matrix: Matrix) -> Matrix:
        """Copy the values."""
        return matrix.astype(np.float32)


class Counts(TargetTransform):
    """Counts as they are, for a likelihood of counts, as totalVI models proteins."""

    def transform(self, matrix: Matrix) -> Matrix:
        """Copy the counts."""
        return matrix.astype(np.float32)


class Log1p(TargetTransform):
    r""":math:`\log(1 + x)` of raw counts, as the paper predicts proteins :cite:p:`richter2025`."""

    def transform(self, matrix: Matrix) -> Matrix:
        """Take logarithms."""
        return _log1p(matrix.astype(np.float32))


class CenteredLogRatio(TargetTransform):
    r"""Centered log ratio within each cell, across its proteins.

    :math:`\log(1 + x_{cp} / g_c)` with :math:`g_c = \exp(\frac{1}{P} \sum_p \log(1 + x_{cp}))`, as Seurat's
    ``NormalizeData(normalization.method = "CLR", margin = 2)`` and muon's ``prot.pp.clr(axis=1)`` have it. It is not
    the log ratio of compositional statistics, which is negative below the mean and has no zeros. No other cell is
    looked at, so nothing is fitted.
    """

    of_kinds = ("protein_counts",)

    def transform(self, matrix: Matrix) -> Matrix:
        """Divide each cell's counts by its geometric mean of 1 + count, and take ``log1p``."""
        center = np.exp(np.asarray(_log1p(matrix.astype(np.float64)).mean(axis=1)).ravel())
        return _log1p(_rows_scaled(matrix, 1 / center))


@dataclass(frozen=True)
class TfIdf(TargetTransform):
    r"""Share of the counts, weighted by how rare a peak is: :math:`\log(1 + 10^4 \, \mathrm{tf} \, \mathrm{idf})`.

    Method 1 of Signac's ``RunTFIDF``: the term frequency is the peak's share of the cell's counts, the inverse document
    frequency the number of training cells divided by the counts of the peak in them. Signac fits on the cells at hand;
    here only those of training are looked at. A peak without counts in training is taken to have one, so its weight is
    the largest there is, not infinite. A cell without counts is all zeros.
    """

    inverse_document_frequency: Float[np.ndarray, " n_targets"]
    """Of each peak."""

    of_kinds: ClassVar[tuple[TargetKind, ...]] = ("chromatin_counts",)

    @classmethod
    def _fitted(cls, matrix: Matrix) -> "TfIdf":
        of_peak = np.asarray(matrix.sum(axis=0, dtype=np.float64)).ravel()
        return cls(matrix.shape[0] / np.maximum(of_peak, 1.0))

    def transform(self, matrix: Matrix) -> Matrix:
        """Weigh the counts of some cells."""
        total = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
        share = _rows_scaled(matrix, 1e4 / np.where(total > 0, total, 1.0))
        if isinstance(share, np.ndarray):
            return _log1p((share * self.inverse_document_frequency).astype(np.float32))
        share.data *= self.inverse_document_frequency[share.indices].astype(np.float32)
        return _log1p(share)


class Binary(TargetTransform):
    """Whether a peak is open (1) or not (0) in a cell."""

    of_kinds = ("chromatin_counts",)

    def transform(self, matrix: Matrix) -> Matrix:
        """Tell where there are counts."""
        if isinstance(matrix, np.ndarray):
            return (matrix > 0).astype(np.float32)
        binary = matrix.astype(np.float32)
        binary.data = (binary.data > 0).astype(np.float32)
        return binary


TRANSFORMS: dict[str, type[TargetTransform]] = {
    "unchanged": Unchanged,
    "counts": Counts,
    "log1p": Log1p,
    "clr": CenteredLogRatio,
    "tfidf": TfIdf,
    "binary": Binary,
}
"""Transforms by name."""


def _log1p(matrix: Matrix) -> Matrix:
    """Take ``log1p`` in place of an array that is ours."""
    values = matrix if isinstance(matrix, np.ndarray) else matrix.data
    np.log1p(values, out=values)
    return matrix


def _rows_scaled(matrix: Matrix, scale: np.ndarray) -> Matrix:
    """Multiply the rows of a copy."""
    if isinstance(matrix, np.ndarray):
        return (matrix * scale[:, None]).astype(np.float32)
    scaled = matrix.astype(np.float32)
    scaled.data *= np.repeat(scale, np.diff(scaled.indptr)).astype(np.float32)
    return scaled
