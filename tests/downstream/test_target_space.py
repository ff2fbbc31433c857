import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA

from selfcell.core.errors import InputError
from selfcell.data.target_transforms import TRANSFORMS
from selfcell.data.targets import Targets
from selfcell.downstream import target_space
from selfcell.downstream.target_space import TargetPrediction, TargetSpace, usual_transform


def peaks(*, sparse, n_cells=40, n_peaks=25):
    counts = np.random.default_rng(0).poisson(0.5, size=(n_cells, n_peaks)).astype(np.float32)
    names = tuple(f"peak{place}" for place in range(n_peaks))
    return Targets(sp.csr_matrix(counts) if sparse else counts, names, "chromatin_counts", "obsm['atac_counts']")


def dense(values):
    return values.toarray() if sp.issparse(values) else values


@pytest.mark.parametrize("rank", [0, 6])
@pytest.mark.parametrize("transform", ["tfidf", "binary", "counts"])
def test_sparse_and_dense_targets_have_the_same_space(rank, transform):
    spaces = [TargetSpace.fit(peaks(sparse=sparse), transform, rank=rank) for sparse in (True, False)]
    found = []
    for space, sparse in zip(spaces, (True, False), strict=True):
        values = space.values(peaks(sparse=sparse))
        assert sp.issparse(values) == sparse
        found.append(space.prediction(space.coordinates(values)).dense())
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


def test_without_directions_values_come_back_as_they_were():
    space = TargetSpace.fit(peaks(sparse=True), "tfidf", rank=0)
    values = space.values(peaks(sparse=True))
    np.testing.assert_allclose(space.prediction(space.coordinates(values)).dense(), values.toarray(), atol=1e-5)


def test_directions_are_principal_components_of_the_training_cells():
    train = peaks(sparse=True)
    space = TargetSpace.fit(train, "tfidf", rank=5)
    values = space.values(train).toarray().astype(np.float64)
    pca = PCA(5, svd_solver="full").fit(values)
    expected = pca.inverse_transform(pca.transform(values))
    np.testing.assert_allclose(space.prediction(space.coordinates(values)).dense(), expected, atol=1e-4)
    np.testing.assert_allclose(space.components @ space.components.T, np.eye(5), atol=1e-5)


def test_errors_in_directions_are_errors_of_targets_but_for_a_constant(rng):
    train = peaks(sparse=True)
    space = TargetSpace.fit(train, "tfidf", rank=5)
    values = space.values(train).toarray()
    truth = space.coordinates(values)
    differences = []
    for _ in range(2):
        guess = rng.normal(size=truth.shape).astype(np.float32)
        of_targets = ((space.prediction(guess).dense() - values) ** 2).sum()
        differences.append(of_targets - ((guess - truth) ** 2).sum())
    assert differences[0] == pytest.approx(differences[1], rel=1e-3)


def test_many_targets_are_predicted_in_directions_and_few_by_themselves(monkeypatch):
    assert TargetSpace.fit(peaks(sparse=True), "auto", rank=None).components is None
    monkeypatch.setattr(target_space, "MOST_DIRECT", 20)
    monkeypatch.setattr(target_space, "USUAL_RANK", 7)
    assert TargetSpace.fit(peaks(sparse=True), "auto", rank=None).n_directions == 7
    few = peaks(sparse=True).subset(np.arange(4))
    assert TargetSpace.fit(few, "auto", rank=None).n_directions == 3


def test_more_directions_than_cells_are_refused():
    with pytest.raises(InputError, match=r"20 directions of 25 targets need more than 20 cells .* there are 10"):
        TargetSpace.fit(peaks(sparse=True).subset(np.arange(10)), "tfidf", rank=20)


def test_a_transform_that_is_not_for_such_targets_is_refused():
    with pytest.raises(InputError, match="CenteredLogRatio is for protein_counts, but"):
        TargetSpace.fit(peaks(sparse=True), "clr", rank=0)


def test_the_usual_transform_depends_on_the_kind_of_targets():
    assert usual_transform("auto", "protein_counts") == "log1p"
    assert usual_transform("auto", "chromatin_counts") == "tfidf"
    assert usual_transform("auto", "values") == "unchanged"
    assert usual_transform("clr", "protein_counts") == "clr"
    assert set(TRANSFORMS) == {"log1p", "clr", "counts", "tfidf", "binary", "unchanged"}


def test_links_turn_linear_predictions_into_values():
    left, offset = np.array([[0.5, -2.0]], dtype=np.float32), np.array([1.0, 0.0], dtype=np.float32)
    linear = left + offset
    by_link = {link: TargetPrediction(left, None, offset, link).dense() for link in ("log1p_of_exp", "sigmoid")}
    np.testing.assert_allclose(by_link["log1p_of_exp"], np.log1p(np.exp(linear)), rtol=1e-6)
    np.testing.assert_allclose(by_link["sigmoid"], 1 / (1 + np.exp(-linear)), rtol=1e-6)


def test_blocks_of_cells_are_the_whole(monkeypatch):
    monkeypatch.setattr(target_space, "_ENTRIES_AT_ONCE", 12)
    prediction = TargetPrediction(np.ones((7, 2), np.float32), np.ones((2, 5), np.float32), np.arange(5.0))
    parts = [prediction.rows(block) for block in prediction.blocks()]
    assert len(parts) == 4 and (np.concatenate(parts) == prediction.dense()).all()
