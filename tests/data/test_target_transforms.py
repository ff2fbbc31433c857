"""Transforms against written-out dense formulas in float64."""

import numpy as np
import pytest
import scipy.sparse as sp

from selfcell.core.errors import InputError
from selfcell.data.target_transforms import TRANSFORMS
from selfcell.data.targets import Targets


def targets(matrix, kind):
    return Targets(matrix, tuple(map(str, range(matrix.shape[1]))), kind, "obsm['t']")


@pytest.fixture
def counts(rng):
    """Counts of 20 cells x 8 targets; the last target is unseen in the first 12 cells, and the last cell is empty."""
    drawn = rng.poisson(1.5, size=(20, 8)).astype(np.float32)
    drawn[:12, 7], drawn[12:, 7] = 0, 3
    drawn[19] = 0
    return drawn


def clr(counts):
    wide = counts.astype(float)
    return np.log1p(wide / np.exp(np.log1p(wide).mean(axis=1, keepdims=True)))


def tfidf(counts):
    wide, train = counts.astype(float), counts[:12].astype(float)
    total = wide.sum(axis=1, keepdims=True)
    share = np.divide(wide, total, out=np.zeros_like(wide), where=total > 0)
    idf = 12 / np.where(train.sum(axis=0) == 0, 1, train.sum(axis=0))
    return np.log1p(share * idf * 1e4)


FORMULAS = {
    "unchanged": ("values", lambda x: x),
    "counts": ("protein_counts", lambda x: x),
    "log1p": ("protein_counts", lambda x: np.log1p(x.astype(float))),
    "clr": ("protein_counts", clr),
    "tfidf": ("chromatin_counts", tfidf),
    "binary": ("chromatin_counts", lambda x: x > 0),
}


def test_every_transform_has_a_formula_here():
    assert FORMULAS.keys() == TRANSFORMS.keys()


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_a_transform_is_its_formula(name, form, counts):
    kind, formula = FORMULAS[name]
    fitted = TRANSFORMS[name].fit(targets(form(counts[:12]), kind))
    given = form(counts)
    found = fitted.transform(given)
    assert type(found) is type(given) and found.dtype == np.float32
    np.testing.assert_allclose(sp.csr_matrix(found).toarray(), formula(counts), rtol=1e-5, atol=1e-6)
    assert (sp.csr_matrix(given).toarray() == counts).all()
    (found if isinstance(found, np.ndarray) else found.data)[:] = 7
    assert (sp.csr_matrix(given).toarray() == counts).all()


def test_only_training_cells_set_the_weights(counts):
    of_all, of_train = (
        TRANSFORMS["tfidf"].fit(targets(sp.csr_matrix(rows), "chromatin_counts")) for rows in (counts, counts[:12])
    )
    assert not np.allclose(of_all.inverse_document_frequency, of_train.inverse_document_frequency)
    assert of_train.inverse_document_frequency[7] == of_train.inverse_document_frequency.max() == 12


@pytest.mark.parametrize(
    ("name", "kind"), [("clr", "chromatin_counts"), ("tfidf", "protein_counts"), ("log1p", "values")]
)
def test_a_transform_is_refused_for_what_it_is_not_for(name, kind, counts):
    with pytest.raises(InputError, match=rf"is for .*_counts, but obsm\['t'\] has {kind}\. Choose another transform"):
        TRANSFORMS[name].fit(targets(counts, kind))
