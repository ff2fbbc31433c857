import numba
import numpy as np
import scipy.special

from selfcell.network.elementary_kernels import log1p_of
from selfcell.network.kernels import bits_of, of_bits
from selfcell.network.normal_kernels import normal_of


@numba.njit(error_model="numpy")
def log1p_all(values, out):
    for place in range(len(values)):
        out[place] = log1p_of(values[place])


@numba.njit(error_model="numpy")
def normal_all(bits, out):
    for place in range(len(bits)):
        out[place] = normal_of(bits[place])


@numba.njit
def there_and_back(value):
    return of_bits(bits_of(value))


def test_the_logarithm_is_numpys_from_zero_to_the_largest_counts():
    values = np.concatenate([[0.0], np.logspace(-30, 12, 100_001), np.linspace(0, 3, 100_001)]).astype(np.float32)
    found = np.empty_like(values)
    log1p_all(values, found)
    np.testing.assert_allclose(found, np.log1p(values.astype(np.float64)), rtol=2e-7, atol=0)


def test_a_normal_draw_is_the_inverse_of_its_distribution():
    rng = np.random.default_rng(0)
    edges = np.array([0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1], dtype=np.uint32)
    bits = np.concatenate([edges, rng.integers(0, 2**32, 200_000, dtype=np.uint32), np.arange(5000, dtype=np.uint32)])
    found = np.empty(len(bits), dtype=np.float32)
    normal_all(bits, found)
    tail = ((bits & 0x7FFFFFFF) + 0.5) * 2.0**-32
    below_zero = bits >> 31 == 1
    np.testing.assert_allclose(found, np.where(below_zero, 1, -1) * scipy.special.ndtri(tail), rtol=0, atol=2e-6)
    assert np.abs(found).max() < 6.34


def test_the_bits_of_a_number_are_those_it_is_made_of():
    for value in (0.0, -1.5, 3e38):
        assert there_and_back(np.float32(value)) == np.float32(value)
