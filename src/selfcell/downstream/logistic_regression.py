"""A logistic regression on cells: the probe of cell types, and baselines."""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Int
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from selfcell.downstream.type_classifier import ClassWeights, class_weight


def fit_logistic_regression(
    train: np.ndarray | sp.csr_matrix,
    label_code: Int[np.ndarray, " n_train"],
    test: np.ndarray | sp.csr_matrix,
    *,
    class_weights: ClassWeights,
    inverse_penalty: float,
) -> np.ndarray:
    """Predict by a multinomial logistic regression.

    Parameters
    ----------
    train, test
        Cells x features; dense ones are standardized, sparse ones scaled to unit variance and not centred.
    label_code
        Class of each training cell.
    class_weights
        How much a class weighs.
    inverse_penalty
        scikit-learn's ``C``: the smaller, the stronger the L2 penalty.
    """
    if len(np.unique(label_code)) == 1:
        return np.full(test.shape[0], label_code[0])
    scaler = StandardScaler(with_mean=not sp.issparse(train))
    regression = LogisticRegression(C=inverse_penalty, max_iter=3_000, tol=1e-3)
    model = make_pipeline(scaler, regression)
    weight = class_weight(label_code, n_classes=int(label_code.max()) + 1, kind=class_weights)
    model.fit(train, label_code, logisticregression__sample_weight=weight[label_code])
    predicted: np.ndarray = model.predict(test)
    return predicted
