"""A logistic regression on cells: the probe of cell types, and baselines."""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from selfcell.downstream.type_classifier import ClassWeights, class_weight

PROBE_INVERSE_PENALTY = 0.1
"""Of a regression on an embedding. The best of 1, 0.1, 0.01, 0.003 and 0.001 on validation donors of
``liu_covid_pbmc``, with two labelled and all."""


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
    model = _fitted(train, label_code, class_weights=class_weights, inverse_penalty=inverse_penalty)
    predicted: np.ndarray = model.predict(test)
    return predicted


def log_probability_by_probe(
    train: Float[np.ndarray, "n_train n_latent"],
    label_code: Int[np.ndarray, " n_train"],
    test: Float[np.ndarray, "n_test n_latent"],
    *,
    n_classes: int,
    class_weights: ClassWeights,
) -> Float[np.ndarray, "n_test n_classes"]:
    """Give the logarithm of the probability of each class by the probe; of one without training cells a very small one.

    Parameters
    ----------
    train, test
        Embeddings.
    label_code
        Class of each training cell.
    n_classes
        Classes, of which some may have no training cell.
    class_weights
        How much a class weighs.
    """
    classes = np.unique(label_code)
    found = np.full((len(test), n_classes), np.log(np.finfo(np.float32).tiny))
    if len(classes) == 1:
        found[:, classes[0]] = 0.0
        return found
    model = _fitted(train, label_code, class_weights=class_weights, inverse_penalty=PROBE_INVERSE_PENALTY)
    with np.errstate(divide="ignore"):
        found[:, classes] = np.maximum(model.predict_log_proba(test), found[:, classes])
    return found


def _fitted(
    train: np.ndarray | sp.csr_matrix, label_code: np.ndarray, *, class_weights: ClassWeights, inverse_penalty: float
) -> Pipeline:
    scaler = StandardScaler(with_mean=not sp.issparse(train))
    regression = LogisticRegression(C=inverse_penalty, max_iter=3_000, tol=1e-3)
    model = make_pipeline(scaler, regression)
    weight = class_weight(label_code, n_classes=int(label_code.max()) + 1, kind=class_weights)
    model.fit(train, label_code, logisticregression__sample_weight=weight[label_code])
    return model
