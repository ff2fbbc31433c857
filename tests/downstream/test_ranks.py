import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from selfcell.downstream.ranks import rank_rows

SHAPES = npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)
ANY = st.floats(width=32, allow_nan=False)
TIED = st.sampled_from([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, 1e-45, -1e-45])


@given(npst.arrays(np.float32, SHAPES, elements=ANY | TIED))
def test_ranks_are_those_of_scipy(values):
    np.testing.assert_array_equal(rank_rows(values), scipy.stats.rankdata(values, axis=1))
    np.testing.assert_array_equal(rank_rows(values.astype(np.float64)), scipy.stats.rankdata(values, axis=1))


@pytest.mark.parametrize("value", [1 + 1e-12, 1e300, np.nan])
def test_numbers_that_single_precision_does_not_hold_are_not_rounded(value):
    values = np.array([[1.0, value, 0.5], [3.0, 2.0, 1.0]])
    np.testing.assert_array_equal(rank_rows(values), scipy.stats.rankdata(values, axis=1))
