import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from selfcell.data.highly_variable import (
    LOESS_SPAN,
    highly_variable_genes,
    local_quadratic_fit,
    standardized_variance,
)
from selfcell.data.simulate import simulate_cells


@pytest.fixture
def counts():
    return sp.csr_matrix(simulate_cells(n_cells=400, n_genes=120, n_types=3, n_donors=2, seed=1).X, dtype=np.float32)


def loess(x, y, span):
    """Written out: at every point, the q nearest, tricube weights, a weighted quadratic."""
    q = int(span * len(x))
    smooth = []
    for place in x:
        distance = np.abs(x - place)
        near = np.argsort(distance, kind="stable")[:q]
        weight = (1 - (distance[near] / distance[near].max()) ** 3) ** 3
        design = np.column_stack([np.ones(q), x[near] - place, (x[near] - place) ** 2])
        normal = design.T @ (weight[:, None] * design)
        smooth.append(np.linalg.solve(normal, design.T @ (weight * y[near]))[0])
    return np.array(smooth)


def test_the_variance_agrees_with_the_formula_written_out(counts):
    dense = counts.toarray().astype(np.float64)
    mean, variance = dense.mean(axis=0), dense.var(axis=0, ddof=1)
    expected = np.sqrt(10 ** loess(np.log10(mean), np.log10(variance), LOESS_SPAN))
    standardized = np.minimum((dense - mean) / expected, np.sqrt(len(dense)))
    reference = (standardized**2).sum(axis=0) / (len(dense) - 1)
    np.testing.assert_allclose(standardized_variance(counts), reference, rtol=1e-6)


def test_values_above_the_square_root_of_the_cells_are_cut_off(counts):
    loud = counts.tolil()
    loud[0, 5] = 1e6
    cut = standardized_variance(sp.csr_matrix(loud))
    assert cut[5] < 3


def test_with_many_genes_lines_between_fits_stay_near_the_fits(rng):
    x = rng.normal(size=3_000)
    y = np.sin(x) + 0.1 * rng.normal(size=3_000)
    np.testing.assert_allclose(local_quadratic_fit(x, y, span=0.3), loess(x, y, 0.3), atol=2e-3)


def test_a_gene_that_marks_a_type_varies_more_than_genes_of_its_mean(rng):
    mean = rng.uniform(0.5, 5, size=200)
    dense = rng.poisson(mean, size=(500, 200)).astype(np.float32)
    dense[:, 17] = rng.poisson(np.where(np.arange(500) < 100, 5 * mean[17], 0.0))
    assert 17 in highly_variable_genes(sp.csr_matrix(dense), n_genes=1)


def test_all_genes_that_vary_where_fewer_than_asked_for(counts):
    still = counts.tolil()
    still[:, 3] = 0
    still[:, 9] = 4
    chosen = highly_variable_genes(sp.csr_matrix(still), n_genes=1_000)
    assert chosen.tolist() == [gene for gene in range(120) if gene not in {3, 9}]


@given(
    hnp.arrays(np.int64, st.tuples(st.integers(1, 8), st.integers(1, 12)), elements=st.integers(0, 6)),
    st.integers(1, 12),
)
def test_any_counts_give_finite_variances_and_ascending_positions(dense, n_genes):
    matrix = sp.csr_matrix(dense, dtype=np.float32)
    variance = standardized_variance(matrix)
    assert np.isfinite(variance).all() and (variance >= 0).all()
    assert ((variance > 0) == (dense.var(axis=0) > 0)).all()
    chosen = highly_variable_genes(matrix, n_genes=n_genes)
    assert (np.diff(chosen) > 0).all() and len(chosen) == min(n_genes, (dense.var(axis=0) > 0).sum())
