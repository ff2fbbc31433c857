"""What a mean and a count give to the loss of a count, and its derivatives; for compiled loops.

The gamma functions of the counts come from a table for each gene, which grows as far as the gene's counts do.
"""

import math
from typing import Any, no_type_check

import numba
import numpy as np

from selfcell.network.elementary_kernels import ELEMENTARY, LOG_2, halves_of, log1p_of, log_of, softplus_of, tail_of
from selfcell.network.kernels import FAST

LOOP: Any = {"nogil": True, "fastmath": FAST, "cache": True, "error_model": "numpy"}
TABLED = 1024
_EXPONENTIAL_BELOW = np.float32(-15.0)
_SERIES_FROM = 32.0


@no_type_check
@numba.njit(**ELEMENTARY)
def mean_of(output, depth):
    """Give a mean, its logarithm, and the derivative of that by the output.

    Far below zero softplus is exp to all digits, and its logarithm the output itself.
    """
    value, share = softplus_of(output)
    if output < _EXPONENTIAL_BELOW:
        return depth * value, output + log_of(depth), np.float32(1)
    return depth * value, log_of(value) + log_of(depth), share / value


@no_type_check
@numba.njit(**ELEMENTARY)
def over_of(mean, inverse):
    r"""Give :math:`\log(1 + r)`, it less :math:`r / (1 + r)`, and :math:`1 / (1 + r)`, r being mean over theta."""
    r = mean * inverse
    k, z = halves_of(r)
    tail, rest = tail_of(z), np.float32(1) / (np.float32(1) + r)
    over = k * LOG_2 + (z + z + tail)
    # Without k both are series in z whose first terms cancel on paper.
    less = np.float32(2) * z * z / (np.float32(1) + z) + tail if k == 0 else over - r * rest
    return over, less, rest


@no_type_check
@numba.njit(**LOOP)
def log_factorial(count, log_factorials):
    """Give the logarithm of a factorial, of which ``log_factorials`` has the first."""
    whole = int(count)
    return log_factorials[whole] if whole == count and whole < len(log_factorials) else math.lgamma(count + 1.0)


@no_type_check
@numba.njit(**LOOP)
def _digamma(x):
    total = 0.0
    while x < _SERIES_FROM:
        total -= 1 / x
        x += 1
    square = 1 / (x * x)
    return total + math.log(x) - 0.5 / x - square * (1 / 12 - square * (1 / 120 - square / 252))


@no_type_check
@numba.njit(**LOOP)
def extend_table(table, filled, count, theta):
    r"""Have a gene's table reach a count x, in as far as it is long, and give how far it reaches.

    It has :math:`\log \Gamma(x + \theta) - \log \Gamma(\theta) - x \log \theta = \sum_{j < x} \log(1 + j / \theta)`,
    and by how much that falls as :math:`\log \theta` grows, :math:`\sum_{j < x} j / (\theta + j)`.
    """
    while filled < min(count, table.shape[1] - 1):
        table[0, filled + 1] = table[0, filled] + math.log1p(filled / theta)
        table[1, filled + 1] = table[1, filled] + filled / (theta + filled)
        filled += 1
    return filled


@no_type_check
@numba.njit(**LOOP)
def of_count(table, filled, count, theta, log_factorials):
    """Give what a count adds to the loss whatever its mean, and the derivative of that by log theta."""
    whole = int(count)
    constant = log_factorial(count, log_factorials)
    if whole == count and whole <= filled:
        return constant - table[0, whole], table[1, whole]
    rising = math.lgamma(count + theta) - math.lgamma(theta) - count * math.log(theta)
    return constant - rising, count - theta * (_digamma(count + theta) - _digamma(theta))


@no_type_check
@numba.njit(**ELEMENTARY)
def of_mean_and_count(output, count, depth, theta, log_theta):
    """Give the loss of a count less that of :func:`of_count`, and its derivatives by the output and log theta.

    Theta is in double precision: of what is large for large counts nearly all is taken away again.
    """
    mean, log_mean, by_output = mean_of(output, depth)
    r = mean / theta
    over, less, rest = over_of(mean, np.float32(1 / theta))
    per_count = log1p_of(np.float32(1 / r)) - log_theta if r > 1 else np.float64(over - log_mean)
    step = by_output * (mean - count) * rest
    return theta * over + count * per_count, step, theta * less - count * (r / (1 + r))
