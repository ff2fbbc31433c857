import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from selfcell.core.errors import InputError
from selfcell.downstream.neighbors import mean_of_neighbors, vote_of_neighbors


def vote_by_hand(reference, codes, query, k):
    """Sort by distance; count; among the labels with most votes take the one met first."""
    answers = []
    for cell in query:
        nearest = codes[np.argsort(((reference - cell) ** 2).sum(axis=1))[:k]]
        most = max(np.bincount(nearest))
        answers.append(next(code for code in nearest if (nearest == code).sum() == most))
    return np.array(answers)


@given(st.integers(1, 8), st.integers(1, 5), st.integers(0, 10_000))
def test_votes_agree_with_a_plain_count(k, n_classes, seed):
    rng = np.random.default_rng(seed)
    reference, query = rng.normal(size=(30, 4)), rng.normal(size=(10, 4))
    codes = rng.integers(n_classes, size=30)
    vote = vote_of_neighbors(reference, codes, query, n_neighbors=k)
    assert (vote.label_code == vote_by_hand(reference, codes, query, k)).all()
    assert ((vote.confidence > 0) & (vote.confidence <= 1)).all()


def test_votes_agree_with_scikit_learn_where_there_are_no_ties():
    rng = np.random.default_rng(0)
    reference, query, codes = rng.normal(size=(200, 3)), rng.normal(size=(50, 3)), rng.integers(2, size=200)
    expected = KNeighborsClassifier(5).fit(reference, codes).predict(query)
    assert (vote_of_neighbors(reference, codes, query, n_neighbors=5).label_code == expected).all()


def test_the_nearest_cell_counts_and_is_not_dropped():
    reference = np.array([[0.0], [10.0], [11.0]])
    vote = vote_of_neighbors(reference, np.array([1, 0, 0]), np.array([[0.0]]), n_neighbors=1)
    assert vote.label_code.tolist() == [1]


def test_a_tie_goes_to_the_nearer_label():
    reference = np.array([[1.0], [2.0], [3.0], [4.0]])
    vote = vote_of_neighbors(reference, np.array([1, 0, 0, 1]), np.array([[0.0]]), n_neighbors=4)
    assert vote.label_code.tolist() == [1] and vote.confidence.tolist() == [0.5]


def test_a_reference_smaller_than_the_vote_is_used_whole():
    vote = vote_of_neighbors(np.zeros((2, 1)), np.array([3, 3]), np.zeros((1, 1)), n_neighbors=5)
    assert vote.label_code.tolist() == [3] and vote.confidence.tolist() == [1.0]


def test_an_empty_reference_is_refused():
    with pytest.raises(InputError, match="The reference has no cells"):
        vote_of_neighbors(np.zeros((0, 2)), np.zeros(0, dtype=int), np.zeros((1, 2)))


@pytest.mark.parametrize("by_distance", [False, True])
def test_means_of_neighbors_agree_with_each_cell_written_out(by_distance):
    rng = np.random.default_rng(0)
    reference, query = rng.normal(size=(30, 3)), rng.normal(size=(7, 3))
    query[0] = reference[4]
    values = rng.normal(size=(30, 5))
    found = mean_of_neighbors(reference, values, query, n_neighbors=6, by_distance=by_distance)
    for cell, place in enumerate(query):
        distance = np.sqrt(((reference - place) ** 2).sum(axis=1))
        nearest = np.argsort(distance)[:6]
        weight = np.ones(6)
        if by_distance:
            weight = (distance[nearest] == 0).astype(float) if cell == 0 else 1 / distance[nearest]
        expected = weight @ values[nearest] / weight.sum()
        np.testing.assert_allclose(found[cell], expected, rtol=1e-5)


def test_with_fewer_cells_than_neighbors_all_are_averaged():
    values = np.array([[1.0], [3.0]])
    found = mean_of_neighbors(np.array([[0.0], [5.0]]), values, np.array([[1.0]]), n_neighbors=30)
    assert found.tolist() == [[2.0]]
    with pytest.raises(InputError, match="The reference has no cells"):
        mean_of_neighbors(np.zeros((0, 1)), np.zeros((0, 1)), np.zeros((1, 1)), n_neighbors=2)
