import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from selfcell.core.errors import InputError
from selfcell.downstream.neighbors import (
    Neighbors,
    class_shares,
    count_votes,
    find_neighbors,
    mean_of_neighbors,
    vote_of_neighbors,
)


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


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_votes_agree_with_scikit_learn_where_there_are_no_ties(weights):
    rng = np.random.default_rng(0)
    reference, query, codes = rng.normal(size=(200, 3)), rng.normal(size=(50, 3)), rng.integers(2, size=200)
    expected = KNeighborsClassifier(5, weights=weights).fit(reference, codes).predict(query)
    vote = vote_of_neighbors(reference, codes, query, n_neighbors=5, weights=weights)
    assert (vote.label_code == expected).all()


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 10_000))
def test_shares_are_the_probabilities_of_scikit_learn(weights, k, n_classes, seed):
    rng = np.random.default_rng(seed)
    reference, codes = rng.normal(size=(40, 3)), np.r_[np.arange(n_classes), rng.integers(n_classes, size=40)][:40]
    # Some query cells are reference cells, at distance zero.
    query = np.r_[rng.normal(size=(10, 3)), reference[:5]]
    expected = KNeighborsClassifier(k, weights=weights).fit(reference, codes).predict_proba(query)
    neighbors = find_neighbors(reference, query, n_neighbors=k)
    shares = class_shares(neighbors, codes, n_classes=n_classes, weights=weights)
    np.testing.assert_allclose(shares, expected, rtol=1e-9, atol=1e-12)
    vote = count_votes(neighbors, codes, weights=weights)
    np.testing.assert_allclose(vote.confidence, shares.max(axis=1))
    np.testing.assert_allclose(shares[np.arange(15), vote.label_code], shares.max(axis=1))


def test_cells_at_distance_zero_alone_vote_by_distance():
    reference = np.array([[0.0], [0.0], [0.1], [0.1], [0.1]])
    vote = vote_of_neighbors(reference, np.array([1, 2, 0, 0, 0]), np.array([[0.0]]), weights="distance")
    assert vote.label_code.tolist() == [1] and vote.confidence.tolist() == [0.5]


def test_a_vote_by_distance_bears_the_smallest_distances():
    reference = np.array([[1e-320], [2e-320], [1.0]])
    vote = vote_of_neighbors(reference, np.array([1, 0, 0]), np.array([[0.0]]), weights="distance")
    assert np.isfinite(vote.confidence).all()
    neighbors = Neighbors(np.array([[0, 1]]), np.array([[1e-310, 2e-310]]))
    assert count_votes(neighbors, np.array([1, 0]), weights="distance").confidence == pytest.approx([2 / 3])


def test_the_nearest_cell_counts_and_is_not_dropped():
    reference = np.array([[0.0], [10.0], [11.0]])
    vote = vote_of_neighbors(reference, np.array([1, 0, 0]), np.array([[0.0]]), n_neighbors=1)
    assert vote.label_code.tolist() == [1]


def test_a_tie_goes_to_the_nearer_label():
    reference = np.array([[1.0], [2.0], [3.0], [4.0]])
    vote = vote_of_neighbors(reference, np.array([1, 0, 0, 1]), np.array([[0.0]]), n_neighbors=4)
    assert vote.label_code.tolist() == [1] and vote.confidence.tolist() == [0.5]


def test_a_reference_smaller_than_the_vote_is_used_whole_and_told(caplog):
    with caplog.at_level(logging.WARNING):
        vote = vote_of_neighbors(np.zeros((2, 1)), np.array([3, 3]), np.zeros((1, 1)), n_neighbors=5)
    assert vote.label_code.tolist() == [3] and vote.confidence.tolist() == [1.0]
    assert "The reference has 2 cells, fewer than the 5 neighbors asked for: all of them are taken." in caplog.text


def test_a_query_without_cells_has_no_votes():
    vote = vote_of_neighbors(np.zeros((6, 2)), np.zeros(6, dtype=int), np.zeros((0, 2)))
    assert vote.label_code.shape == vote.confidence.shape == (0,)


@pytest.fixture(scope="module")
def many_cells():
    """Embeddings as of real cells: clusters, and fewer directions than dimensions."""
    rng = np.random.default_rng(0)
    center, code = 3 * rng.normal(size=(8, 6)), rng.integers(8, size=3_300)
    cells = (center[code] + rng.normal(size=(3_300, 6))) @ rng.normal(size=(6, 16))
    return cells[:3_000].astype(np.float32), code[:3_000], cells[3_000:].astype(np.float32)


@pytest.mark.slow
def test_the_graph_finds_nearly_all_neighbors_and_their_distances(many_cells):
    reference, codes, query = many_cells
    exact = find_neighbors(reference, query, n_neighbors=5)
    near = find_neighbors(reference, query, n_neighbors=5, exact=False)
    recall = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(near.indices, exact.indices, strict=True)])
    assert recall > 0.97
    assert (np.diff(near.distances, axis=1) >= 0).all()
    away = np.linalg.norm(reference[near.indices].astype(float) - query[:, None].astype(float), axis=2)
    np.testing.assert_allclose(near.distances, away)
    again = find_neighbors(reference, query, n_neighbors=5, exact=False)
    assert (near.indices == again.indices).all()
    agree = count_votes(near, codes, weights="uniform").label_code == count_votes(exact, codes, weights="uniform")[0]
    assert agree.mean() > 0.99


@pytest.mark.parametrize("led_to", ["nowhere", "the wrong type"])
def test_cells_that_the_graph_leads_astray_are_searched_exactly(many_cells, monkeypatch, led_to):
    reference, codes, query = many_cells
    exact = find_neighbors(reference, query, n_neighbors=5)
    type_of_query = count_votes(exact, codes, weights="uniform").label_code

    class Graph:
        def __init__(self, *given, **settings):
            pass

        def query(self, cells, *, k, epsilon):
            if led_to == "nowhere":
                return np.full((len(cells), k), -1), None
            wrong = {code: np.flatnonzero(codes == (code + 1) % 8)[:k] for code in range(8)}
            return np.stack([wrong[code] for code in type_of_query]), None

    monkeypatch.setattr("pynndescent.NNDescent", Graph)
    found = find_neighbors(reference, query, n_neighbors=5, exact=False)
    assert (found.indices == exact.indices).all() and (found.distances == exact.distances).all()


def test_few_cells_are_searched_exactly_whatever_is_asked(rng):
    reference, query = rng.normal(size=(60, 4)), rng.normal(size=(5, 4))
    either = [find_neighbors(reference, query, n_neighbors=3, exact=exact) for exact in (True, False)]
    assert (either[0].indices == either[1].indices).all()


def test_many_cells_on_both_sides_go_by_the_graph(monkeypatch, rng):
    reference, asked = rng.normal(size=(100, 4)), []

    def graph(reference, query, *, n_neighbors, seed):
        asked.append((n_neighbors, seed))
        return Neighbors(*np.zeros((2, len(query), n_neighbors)))

    monkeypatch.setattr("selfcell.downstream.neighbors.EXACT_UP_TO", 8.5)
    monkeypatch.setattr("selfcell.downstream.neighbors._neighbors_by_graph", graph)
    find_neighbors(reference, reference[:9], n_neighbors=3)
    assert not asked
    find_neighbors(reference, reference[:10], n_neighbors=3, seed=4)
    assert asked == [(3, 4)]


def test_an_empty_reference_is_refused():
    with pytest.raises(InputError, match="The reference has no cells"):
        vote_of_neighbors(np.zeros((0, 2)), np.zeros(0, dtype=int), np.zeros((1, 2)))


def test_no_neighbors_are_refused():
    with pytest.raises(InputError, match="At least one neighbor must be asked for, not 0"):
        find_neighbors(np.zeros((3, 2)), np.zeros((1, 2)), n_neighbors=0)


def test_numbers_that_are_not_finite_are_refused_with_their_place():
    query = np.zeros((4, 2))
    query[2] = np.nan
    with pytest.raises(InputError, match=r"embedding of the query .* in 1 of 4 cells \(the first is cell 2\)"):
        find_neighbors(np.zeros((3, 2)), query, n_neighbors=1)


def test_labels_that_are_no_classes_are_refused():
    neighbors = Neighbors(np.array([[0, 2]]), np.array([[0.0, 1.0]]))
    with pytest.raises(InputError, match="A reference cell has a negative label"):
        count_votes(neighbors, np.array([0, 0, -1]), weights="uniform")
    with pytest.raises(InputError, match="There are 2 classes, but a reference cell has the label 5"):
        class_shares(neighbors, np.array([0, 5, 1]), n_classes=2, weights="uniform")


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_means_of_neighbors_agree_with_each_cell_written_out(weights):
    rng = np.random.default_rng(0)
    reference, query = rng.normal(size=(30, 3)), rng.normal(size=(7, 3))
    query[0] = reference[4]
    values = rng.normal(size=(30, 5))
    found = mean_of_neighbors(find_neighbors(reference, query, n_neighbors=6), values, weights=weights)
    for cell, place in enumerate(query):
        distance = np.sqrt(((reference - place) ** 2).sum(axis=1))
        nearest = np.argsort(distance)[:6]
        weight = np.ones(6)
        if weights == "distance":
            weight = (distance[nearest] == 0).astype(float) if cell == 0 else 1 / distance[nearest]
        expected = weight @ values[nearest] / weight.sum()
        np.testing.assert_allclose(found[cell], expected, rtol=1e-5)
