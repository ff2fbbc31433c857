import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import SGDClassifier
from sklearn.preprocessing import StandardScaler

from selfcell.baselines.celltypist_style import PENALTY, Scaling, top_genes


def test_scaling_is_standardization_cut_off_at_ten_but_for_a_constant_a_gene(rng):
    dense = (rng.gamma(0.1, size=(300, 30)) * (rng.random((300, 30)) < 0.2)).astype(np.float32)
    dense[:, 4] = 0
    dense[7, 5] = 50
    expected = np.minimum(StandardScaler().fit_transform(dense.astype(np.float64)), 10)
    scaled = Scaling.of(sp.csr_matrix(dense)).apply(sp.csr_matrix(dense)).toarray()
    assert expected.max() == 10
    np.testing.assert_allclose(scaled - scaled[0], expected - expected[0], atol=1e-4)


def test_new_cells_are_cut_off_and_scaled_by_the_cells_it_was_learned_from(rng):
    seen = sp.csr_matrix(rng.random((50, 6)), dtype=np.float32)
    scaling = Scaling.of(seen)
    assert (scaling.apply(seen * 1_000).toarray() <= (scaling.ceiling / scaling.deviation) * (1 + 1e-6)).all()


def test_every_type_chooses_its_genes_by_absolute_weight():
    weight = np.array([[0.1, -5.0, 0.2, 3.0, 0.0], [9.0, 0.0, 0.1, 0.2, -8.0]])
    assert top_genes(weight, n_genes=2).tolist() == [0, 1, 3, 4]
    assert top_genes(weight, n_genes=9).tolist() == [0, 1, 2, 3, 4]


def test_both_kinds_of_scaling_come_to_the_same_predictions(cells):
    dense = np.log1p(cells.counts.toarray())
    code = np.unique(cells.obs["cell_type"].to_numpy().astype(str), return_inverse=True)[1]
    centred = np.minimum(StandardScaler().fit_transform(dense), 10)
    sparse = Scaling.of(sp.csr_matrix(dense)).apply(sp.csr_matrix(dense))
    model = SGDClassifier(loss="log_loss", alpha=PENALTY, random_state=0)
    theirs = model.fit(centred[:200], code[:200]).predict(centred[200:])
    ours = model.fit(sparse[:200], code[:200]).predict(sparse[200:])
    assert (theirs == ours).mean() > 0.95
