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


def test_proteins_and_peaks_change_nothing_of_the_genes_and_follow_the_type():
    plain, measured = simulate_cells(seed=3), simulate_cells(seed=3, n_proteins=5, n_peaks=30)
    assert (plain.X != measured.X).nnz == 0 and not plain.obsm
    assert measured.obsm["protein_counts"].shape == (600, 5) and len(measured.uns["protein_names"]) == 5
    assert measured.obsm["atac_counts"].shape == (600, 30) and len(measured.uns["atac_names"]) == 30
    types = measured.obs["cell_type"].cat.codes.to_numpy()
    for key in ("protein_counts", "atac_counts"):
        values = np.log1p(np.asarray(measured.obsm[key].todense() if key == "atac_counts" else measured.obsm[key]))
        means = np.stack([values[types == code].mean(axis=0) for code in range(4)])
        assert means.std(axis=0).max() > 0.2
