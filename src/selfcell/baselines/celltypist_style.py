"""A baseline of cell types after CellTypist: two passes of logistic regression, one type against the rest."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from sklearn.linear_model import SGDClassifier

from selfcell.baselines.base import Problem
from selfcell.core.seeds import derive_seed
from selfcell.downstream.cell_type import CellTypeTask

TOP_GENES = 300
"""Genes that each type chooses, as in CellTypist."""

CEILING = 10.0
"""Standard deviations above a gene's mean at which its expression is cut off, as in CellTypist."""

PENALTY = 1e-4
"""CellTypist's.

On validation donors of ``liu_covid_pbmc``, with two donors and all, 0.01 was better by 0.002 of macro F1 and 0.01 of
accuracy, in a sixth of the time; but with a hundred cells descent ends too early with it, and often far off.
"""

MAX_PASSES = 1_000
"""Passes over the cells at most, as in CellTypist; it stops before where the loss no longer falls."""


def predict_by_celltypist_style(problem: Problem[CellTypeTask]) -> np.ndarray:
    """Predict as CellTypist does when it trains a model of its own :cite:p:`dominguez2022`, by scikit-learn.

    On the ``log1p`` expression of all genes, cut off at ten standard deviations above the mean and scaled to unit
    variance, a logistic regression is trained by stochastic gradient descent, one type against all others. The 300
    genes that weigh most for each type are kept, and it is trained anew on these.

    Where it departs from the package (1.7, which cannot train its other kind of logistic regression with scikit-learn
    1.8 or newer): expression is not centred, which at the optimum changes nothing but the constant, so it stays sparse;
    where there are 300 genes or fewer all are kept, rather than refused. As in the package classes
    are not weighted, and the prediction is the type of the largest decision value.
    """
    expression, label_code = problem.compared.expression, problem.task.label_code
    labelled, test = problem.split.train, problem.split.test
    if len(np.unique(label_code[labelled])) == 1:
        return np.full(len(test), label_code[labelled[0]])
    scaling = Scaling.of(expression[labelled])
    seen, code = scaling.apply(expression[labelled]), label_code[labelled]
    kept = top_genes(_fit(seen, code, problem.seed, "choose").coef_, n_genes=TOP_GENES)
    model = _fit(seen[:, kept], code, problem.seed, "predict")
    predicted: np.ndarray = model.predict(scaling.apply(expression[test])[:, kept])
    return predicted


def _fit(expression: sp.csr_matrix, label_code: np.ndarray, seed: int, stage: str) -> SGDClassifier:
    random_state = derive_seed(seed, f"CellTypist, {stage}") % 2**32
    model = SGDClassifier(loss="log_loss", alpha=PENALTY, max_iter=MAX_PASSES, random_state=random_state)
    return model.fit(expression, label_code)


def top_genes(weight: Float[np.ndarray, "n_types n_genes"], *, n_genes: int) -> Int[np.ndarray, " n_kept"]:
    """Choose the genes that are among the first by absolute weight for any type.

    Parameters
    ----------
    weight
        Of each gene for each type; one row where there are two types.
    n_genes
        Genes that each type chooses.
    """
    n_genes = min(n_genes, weight.shape[1])
    chosen: np.ndarray = np.unique(np.argsort(-np.abs(weight), axis=1, kind="stable")[:, :n_genes])
    return chosen


class Scaling(NamedTuple):
    """How expression is cut off and scaled, learned from some cells."""

    ceiling: Float[np.ndarray, " n_genes"]
    """The expression above which it is cut off: ten standard deviations above the mean."""
    deviation: Float[np.ndarray, " n_genes"]
    """Standard deviation; 1 for genes that do not vary."""

    @classmethod
    def of(cls, expression: sp.csr_matrix) -> "Scaling":
        """Learn it from the ``log1p`` expression of cells x genes."""
        n_cells, n_genes = expression.shape
        gene, value = expression.indices, expression.data.astype(np.float64)
        mean = np.bincount(gene, weights=value, minlength=n_genes) / n_cells
        n_zero = n_cells - np.bincount(gene, minlength=n_genes)
        squares = np.bincount(gene, weights=(value - mean[gene]) ** 2, minlength=n_genes) + n_zero * mean**2
        deviation = np.sqrt(squares / n_cells)
        deviation = np.where(deviation > 0, deviation, 1.0)
        return cls((mean + CEILING * deviation).astype(np.float32), deviation.astype(np.float32))

    def apply(self, expression: sp.csr_matrix) -> sp.csr_matrix:
        """Cut off and scale, without centring, so that zeros stay zeros."""
        scaled = expression.copy()
        gene = expression.indices
        scaled.data = np.minimum(expression.data, self.ceiling[gene]) / self.deviation[gene]
        return scaled
