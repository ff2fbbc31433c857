import numpy as np
from sklearn.linear_model import LogisticRegression

from selfcell.data.counts import log_normalize
from selfcell.data.simulate import simulate_cells, simulate_counts


def test_types_can_be_told_apart_unless_they_are_the_same():
    def accuracy(type_effect):
        adata = simulate_cells(type_effect=type_effect)
        expression, types = log_normalize(adata.X), adata.obs["cell_type"].to_numpy()
        probe = LogisticRegression(max_iter=2000, C=0.01).fit(expression[:400], types[:400])
        return probe.score(expression[400:], types[400:])

    assert accuracy(1.0) > 0.9
    assert accuracy(0.0) < 0.45


def test_the_same_seed_gives_the_same_cells():
    assert (simulate_cells(seed=4).X != simulate_cells(seed=4).X).nnz == 0


def test_counts_have_the_density_asked_for():
    counts = simulate_counts(n_cells=50, n_genes=200, density=0.1, seed=0)
    assert counts.nnz == 1000 and (counts.data == np.rint(counts.data)).all() and counts.data.min() >= 1
