import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.neighbors import NearestNeighbors

from selfcell.downstream.lisi import clisi, ilisi, lisi


def neighbors_of(embedding, n_neighbors):
    distances, indices = NearestNeighbors(n_neighbors=n_neighbors).fit(embedding).kneighbors(embedding)
    return indices, distances


def lisi_by_hand(indices, distances, code):
    """Find the weights of the wanted entropy with a general root finder."""
    wanted = np.log(indices.shape[1] // 3)
    result = []
    for cell in range(len(indices)):
        others = indices[cell] != cell
        far, near = distances[cell, others], code[indices[cell, others]]

        def weights(log_rate, far=far):
            weight = np.exp(-np.exp(log_rate) * (far - far.min()))
            return weight / weight.sum()

        def excess(log_rate, weights=weights):
            share = weights(log_rate)
            return -(share[share > 0] * np.log(share[share > 0])).sum() - wanted

        share = weights(brentq(excess, -20, 20, xtol=1e-12))
        result.append(1 / sum(share[near == one].sum() ** 2 for one in np.unique(near)))
    return np.array(result)


@given(st.integers(2, 4), st.sampled_from([6, 15, 30]), st.floats(1e-3, 1e4), st.integers(0, 10_000))
def test_the_index_is_its_written_out_definition(n_codes, n_neighbors, scale, seed):
    rng = np.random.default_rng(seed)
    indices, distances = neighbors_of(scale * rng.normal(size=(40, 3)), n_neighbors)
    code = rng.integers(n_codes, size=40)
    assert lisi(indices, distances, code) == pytest.approx(lisi_by_hand(indices, distances, code), rel=1e-3)


def test_the_index_runs_from_one_code_to_all_codes():
    rng = np.random.default_rng(0)
    code = np.arange(1200) % 3
    indices, distances = neighbors_of(rng.normal(size=(1200, 2)), 90)
    # Thirty neighbors that count cannot show three codes quite evenly.
    assert np.median(lisi(indices, distances, code)) == pytest.approx(1 / (1 / 3 + 2 / 3 / 30), abs=0.1)
    indices, distances = neighbors_of(rng.normal(size=(1200, 2)) + 100 * code[:, None], 90)
    assert lisi(indices, distances, code) == pytest.approx(np.ones(1200))


def test_the_cell_itself_does_not_count():
    indices, distances = neighbors_of(np.arange(10.0)[:, None], 4)
    code = np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    assert lisi(indices, distances, code)[0] == pytest.approx(1)


def test_equal_cells_weigh_alike():
    indices, distances = neighbors_of(np.zeros((9, 1)), 9)
    assert lisi(indices, distances, np.array([0] * 4 + [1] * 5))[0] == pytest.approx(1 / ((3 / 8) ** 2 + (5 / 8) ** 2))


def test_blocks_of_cells_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    indices, distances = neighbors_of(rng.normal(size=(100, 3)), 12)
    code = rng.integers(3, size=100)
    whole = lisi(indices, distances, code)
    monkeypatch.setattr("selfcell.downstream.lisi._CELLS_AT_ONCE", 7)
    assert (lisi(indices, distances, code) == whole).all()


def test_scaled_indices_are_one_where_they_are_best():
    assert ilisi(np.array([1.0, 1.0, 2.0]), n_batches=4) == 0
    assert ilisi(np.full(3, 4.0), n_batches=4) == 1
    assert clisi(np.ones(3), n_labels=4) == 1
    assert clisi(np.full(3, 4.0), n_labels=4) == 0
