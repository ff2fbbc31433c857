"""Exponential and logarithm in single precision, written so that loops over them become vector instructions.

Those of the C library are called once a number, which takes about ten times as long. The error is a few units in the
last place. They are compiled without leave to reorder sums: in some lines a rounded number less what it was rounded
from is the point.
"""

from typing import Any, no_type_check

import numba
import numpy as np

from selfcell.network.kernels import bits_of, of_bits

_KEEPS_ORDER: Any = {"contract", "nsz", "arcp"}
ELEMENTARY: Any = {"nogil": True, "forceinline": True, "error_model": "numpy", "fastmath": _KEEPS_ORDER}

_PER_LOG_2 = np.float32(1.4426950408889634)
LOG_2 = np.float32(0.6931471805599453)
# Log of two in two parts, the first of few digits: its multiples are exact.
_LOG_2_HIGH, _LOG_2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_SMALLEST_EXPONENT = np.float32(-87.0)
_ROUNDER = np.float32(12582912.0)
_ROOT_HALF = np.float32(0.70710678)


@no_type_check
@numba.njit(**ELEMENTARY)
def exp_below(x):
    """Give the exponential of a number from 0 downwards; below -87 that of -87."""
    x = max(x, _SMALLEST_EXPONENT)
    rounded = x * _PER_LOG_2 + _ROUNDER
    n = rounded - _ROUNDER
    r = x - n * _LOG_2_HIGH - n * _LOG_2_LOW
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1)
    power = of_bits(np.uint32((np.int32(n) + np.int32(127)) << np.int32(23)))
    return p * power


@no_type_check
@numba.njit(**ELEMENTARY)
def halves_of(x):
    """Split ``1 + x``, x from 0 upwards, as ``2^k (1 + f)`` with f near 0; give k and ``z = f / (2 + f)``.

    Its logarithm is ``k log 2 + 2 z + tail_of(z)``.
    """
    k = np.int32((np.int32(bits_of(x + np.float32(1))) - np.int32(bits_of(_ROOT_HALF))) >> np.int32(23))
    scale = of_bits(np.uint32((np.int32(127) - k) << np.int32(23)))
    # Not (1 + x) scale - 1, which would lose the digits of a small x.
    f = x * scale + (scale - np.float32(1))
    return np.float32(k), f / (f + np.float32(2))


@no_type_check
@numba.njit(**ELEMENTARY)
def tail_of(z):
    """Give ``2 artanh(z) - 2 z`` for z up to 0.172 in size: the series from its second term on."""
    square = z * z
    p = np.float32(2 / 9) + square * np.float32(2 / 11)
    p = np.float32(2 / 7) + square * p
    p = np.float32(2 / 5) + square * p
    p = np.float32(2 / 3) + square * p
    return z * square * p


@no_type_check
@numba.njit(**ELEMENTARY)
def log1p_of(x):
    """Give the logarithm of ``1 + x``, x from 0 upwards."""
    k, z = halves_of(x)
    return k * LOG_2 + (z + z + tail_of(z))


@no_type_check
@numba.njit(**ELEMENTARY)
def log_of(x):
    """Give the logarithm of a normal number above 0."""
    k = np.int32((np.int32(bits_of(x)) - np.int32(bits_of(_ROOT_HALF))) >> np.int32(23))
    f = of_bits(np.uint32(np.int32(bits_of(x)) - (k << np.int32(23)))) - np.float32(1)
    z = f / (f + np.float32(2))
    return np.float32(k) * LOG_2 + (z + z + tail_of(z))


@no_type_check
@numba.njit(**ELEMENTARY)
def logistic_of(x):
    """Give ``log(1 + e^-|x|)``, and the logistic function of x and of -x, each to all its digits."""
    decay = exp_below(-abs(x))
    large = np.float32(1) / (np.float32(1) + decay)
    small = decay * large
    positive = x >= 0
    return log1p_of(decay), large if positive else small, small if positive else large


@no_type_check
@numba.njit(**ELEMENTARY)
def softplus_of(x):
    """Give ``log(1 + e^x)`` and its derivative."""
    beyond, share, _ = logistic_of(x)
    return max(x, np.float32(0)) + beyond, share
