"""Exponential and logarithm in single precision against numpy in double."""

import numba
import numpy as np
import pytest

from selfcell.network.elementary_kernels import exp_below, log1p_of, log_of, logistic_of, softplus_of

UNITS = 4 * np.finfo(np.float32).eps


@numba.njit(error_model="numpy")
def over_all(values, minus, spread, out):
    for place in range(len(values)):
        out[0, place] = exp_below(minus[place])
        out[1, place] = log1p_of(values[place])
        out[2, place] = log_of(values[place])
        out[3, place], out[4, place] = softplus_of(spread[place])
        out[5, place], _, out[6, place] = logistic_of(spread[place])


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(0)
    values = (10.0 ** rng.uniform(-35, 35, 200_000)).astype(np.float32)
    values[:5] = [1.0, 0.5, 2.0, np.float32(1 - 6e-8), np.float32(1 + 1.2e-7)]
    minus = -rng.uniform(0, 86, 200_000).astype(np.float32)
    minus[0] = 0
    spread = rng.uniform(-86, 86, 200_000).astype(np.float32)
    spread[:2] = [0.0, -0.0]
    out = np.empty((7, 200_000), dtype=np.float32)
    over_all(values, minus, spread, out)
    return values.astype(np.float64), minus.astype(np.float64), spread.astype(np.float64), out


def test_they_agree_to_a_few_units_in_the_last_place(found):
    values, minus, spread, out = found
    logistic = 1 / (1 + np.exp(-spread))
    expected = [
        np.exp(minus),
        np.log1p(values),
        np.log(values),
        np.logaddexp(0, spread),
        logistic,
        np.log1p(np.exp(-np.abs(spread))),
        1 / (1 + np.exp(spread)),
    ]
    for one, other in zip(out, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=UNITS, atol=0)


def test_far_below_the_exponential_is_the_smallest():
    assert exp_below(np.float32(-1e30)) == exp_below(np.float32(-87)) < 2e-38
