import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from selfcell.downstream.hiding import hide_entries, hide_molecules

WAYS = [hide_entries, hide_molecules]


def simulated(n_cells=20, n_genes=30, seed=0):
    return sp.csr_matrix(np.random.default_rng(seed).poisson(1.5, size=(n_cells, n_genes)).astype(np.float32))


@pytest.mark.parametrize("hide", WAYS)
@given(fraction=st.floats(0.01, 0.99), seed=st.integers(0, 1000))
def test_visible_and_hidden_counts_add_up_to_all(hide, fraction, seed):
    counts = simulated(seed=seed)
    hidden = hide(counts, np.arange(20), fraction=fraction, seed=seed)
    assert abs(hidden.visible + hidden.counts - counts).max() == 0
    assert (hidden.counts.data > 0).all() and (hidden.visible.data > 0).all()
    assert (hidden.visible.sum(axis=1) > 0).all()
    assert hidden.scored[hidden.counts.nonzero()].all()


def test_hidden_entries_are_hidden_whole_and_zeros_as_often_as_others():
    counts = simulated(n_cells=400)
    hidden = hide_entries(counts, np.arange(400), fraction=0.3, seed=0)
    assert hidden.visible.toarray()[hidden.scored].sum() == 0
    zero = counts.toarray() == 0
    assert hidden.scored[zero].mean() == pytest.approx(0.3, abs=0.02)
    assert hidden.scored[~zero].mean() == pytest.approx(0.3, abs=0.02)


def test_hidden_molecules_are_the_share_asked_for():
    counts = simulated(n_cells=400)
    hidden = hide_molecules(counts, np.arange(400), fraction=0.3, seed=0)
    assert hidden.counts.sum() / counts.sum() == pytest.approx(0.3, abs=0.02)
    assert hidden.scored.all()


def test_which_entries_are_hidden_does_not_depend_on_what_was_counted():
    counts, other = simulated(seed=0), simulated(seed=1)
    one = hide_entries(counts, np.arange(20), fraction=0.3, seed=0)
    assert (one.scored == hide_entries(other, np.arange(20), fraction=0.3, seed=0).scored).all()
    assert (one.scored != hide_entries(counts, np.arange(20), fraction=0.3, seed=1).scored).any()


@pytest.mark.parametrize("hide", WAYS)
def test_what_is_hidden_of_a_cell_does_not_depend_on_the_cells_beside_it(hide):
    counts = simulated()
    whole = hide(counts, np.arange(20), fraction=0.3, seed=0)
    part = hide(counts[7:9], np.array([7, 8]), fraction=0.3, seed=0)
    assert (part.scored == whole.scored[7:9]).all()
    assert abs(part.counts - whole.counts[7:9]).max() == 0


def test_hidden_entries_are_measured_by_what_is_visible():
    counts = simulated()
    hidden = hide_entries(counts, np.arange(20), fraction=0.3, seed=0)
    visible = np.where(hidden.scored, 0, counts.toarray()).astype(np.float64)
    expected = np.log1p(counts.toarray() / visible.sum(axis=1, keepdims=True) * 10_000)
    np.testing.assert_allclose(hidden.expression.toarray()[hidden.scored], expected[hidden.scored], rtol=1e-6)
    np.testing.assert_allclose(hidden.library_size, visible.sum(axis=1))


def test_hidden_molecules_are_measured_by_their_own_sum():
    hidden = hide_molecules(simulated(), np.arange(20), fraction=0.3, seed=0)
    counts = hidden.counts.toarray().astype(np.float64)
    expected = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 10_000)
    np.testing.assert_allclose(hidden.expression.toarray(), expected, rtol=1e-6)


@pytest.mark.parametrize("hide", WAYS)
def test_a_cell_of_which_nothing_would_be_left_is_shown_whole_and_not_scored(hide):
    counts = sp.csr_matrix(np.array([[0, 3, 0], [5, 5, 5]], dtype=np.float32))
    lost = [seed for seed in range(200) if not hide(counts, np.arange(2), fraction=0.9, seed=seed).scored[0].any()]
    assert lost
    for seed in lost:
        hidden = hide(counts, np.arange(2), fraction=0.9, seed=seed)
        assert hidden.visible[0].sum() == 3 and hidden.counts[0].nnz == 0
