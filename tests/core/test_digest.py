"""Equal values have equal hashes, however they are held."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from selfcell.core.digest import digest_of


def test_the_way_of_holding_does_not_count():
    values = np.array([[1.0, 0.0], [0.0, 2.5]])
    assert digest_of(values) == digest_of(values.astype(np.float32)) == digest_of(np.asfortranarray(values))
    assert digest_of(sp.csr_matrix(values)) == digest_of(sp.coo_matrix(values)) == digest_of(sp.csc_matrix(values))
    names = pd.Series(["a", "b", "a"], index=["x", "y", "z"])
    assert digest_of(names) == digest_of(names.astype("category")) == digest_of(np.array(["a", "b", "a"], dtype=object))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.arange(4), np.arange(5)),
        (np.arange(4), np.arange(4).reshape(2, 2)),
        (np.array(["ab", "c"]), np.array(["a", "bc"])),
        (np.array(["a", None], dtype=object), np.array(["a", "b"], dtype=object)),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
        (sp.csr_matrix(np.eye(2)), sp.csr_matrix(2 * np.eye(2))),
    ],
)
def test_what_differs_has_another_hash(one, other):
    assert digest_of(one) != digest_of(other)
