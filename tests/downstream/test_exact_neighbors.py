import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfcell.downstream import exact_neighbors as searched
from selfcell.downstream.exact_neighbors import exact_neighbors


def by_hand(reference, query, k):
    """All squared distances in double precision, sorted by distance and then by index."""
    squared = ((query[:, None].astype(float) - reference[None].astype(float)) ** 2).sum(axis=2)
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return order, np.sqrt(np.take_along_axis(squared, order, axis=1))


@given(
    st.integers(1, 90),
    st.integers(1, 12),
    st.integers(1, 5),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e6, 1e25]),
    st.integers(0, 10_000),
)
def test_neighbors_are_those_of_a_plain_search_at_any_scale(n_reference, k, n_latent, dtype, scale, seed):
    rng = np.random.default_rng(seed)
    # Numbers on a coarse grid: many distances are equal, and exactly so.
    reference = (rng.integers(-2, 3, size=(n_reference, n_latent)) * scale).astype(dtype)
    query = (rng.integers(-2, 3, size=(7, n_latent)) * scale).astype(dtype)
    k = min(k, n_reference)
    indices, distances = exact_neighbors(reference, query, n_neighbors=k)
    expected, away = by_hand(reference, query, k)
    np.testing.assert_allclose(distances, away, rtol=1e-12)
    assert (indices == expected).all()


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_cells_far_from_zero_and_near_each_other_are_told_apart(offset):
    rng = np.random.default_rng(0)
    reference, query = offset + rng.normal(size=(5_000, 8)), offset + rng.normal(size=(300, 8))
    indices, distances = exact_neighbors(reference, query, n_neighbors=6)
    expected, away = by_hand(reference, query, 6)
    assert (indices == expected).all()
    np.testing.assert_allclose(distances, away)


def test_blocks_and_threads_change_no_bit(monkeypatch):
    rng = np.random.default_rng(0)
    reference, query = (rng.normal(size=(n, 16)).astype(np.float32) for n in (1_000, 200))
    first = exact_neighbors(reference, query, n_neighbors=5)
    monkeypatch.setattr(searched, "QUERIES_AT_ONCE", 37)
    monkeypatch.setattr(searched, "REFERENCES_AT_ONCE", 96)
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    second = exact_neighbors(reference, query, n_neighbors=5)
    assert all((one == other).all() for one, other in zip(first, second, strict=True))


def test_more_equal_cells_than_candidates_come_in_order_of_index():
    reference = np.zeros((500, 3), dtype=np.float32)
    reference[100:110] = 1
    indices, distances = exact_neighbors(reference, np.ones((1, 3), dtype=np.float32), n_neighbors=12)
    assert indices.tolist() == [[*range(100, 110), 0, 1]]
    assert distances[0, :10].tolist() == [0.0] * 10


def test_a_cell_too_far_for_single_precision_is_placed_all_the_same():
    reference = np.array([[0.0], [1.0], [2.0], [3.0]])
    for n_reference in (2, 4):
        indices, _ = exact_neighbors(reference[:n_reference] * 1e-25, np.array([[1e25], [-1e25]]), n_neighbors=1)
        # In double precision all of them are as far away.
        assert indices.tolist() == [[0], [0]]


def test_what_single_precision_cannot_tell_double_precision_does():
    rng = np.random.default_rng(1)
    # One far cell makes single precision coarse; the others are nearer to each other than it can tell.
    reference = np.r_[1e-7 * rng.normal(size=(400, 4)), [[1.0, 1.0, 1.0, 1.0]]]
    query = 1e-7 * rng.normal(size=(50, 4))
    indices, _ = exact_neighbors(reference, query, n_neighbors=5)
    assert (indices == by_hand(reference, query, 5)[0]).all()
