"""Draws from the standard normal that compiled loops make of random bits, many at once.

Loops that use them are compiled without ``fastmath``, whose sums in another order would undo how they keep precision.
"""

from typing import no_type_check

import numba
import numpy as np

from selfcell.network.elementary_kernels import log_of
from selfcell.network.kernels import bits_of, of_bits


@no_type_check
@numba.njit(inline="always")
def normal_of(bits):
    """Turn a random uint32 into a draw from the standard normal, to 2e-6, up to 6.34 on either side.

    The inverse of the distribution by Wichura's rational functions (AS 241); the highest bit is the sign.
    """
    sign = np.uint32(bits & np.uint32(0x80000000))
    # The share of the distribution beyond the draw, from 2^-33 to a half.
    tail = (np.float32(np.uint32(bits & np.uint32(0x7FFFFFFF))) + np.float32(0.5)) * np.float32(2.0**-32)
    q = np.float32(0.5) - tail
    r = np.float32(0.180625) - q * q
    top = ((np.float32(59.109374720) * r + np.float32(159.29113202)) * r + np.float32(50.434271938)) * r
    low = ((np.float32(67.187563600) * r + np.float32(78.757757664)) * r + np.float32(17.895169469)) * r
    middle = q * (top + np.float32(3.3871327179)) / (low + np.float32(1))
    outer = _outer(np.float32(np.sqrt(-log_of(tail))))
    return of_bits(bits_of(middle if q <= np.float32(0.425) else outer) | sign)


@no_type_check
@numba.njit(inline="always")
def _outer(s):
    t, u = s - np.float32(1.6), s - np.float32(5)
    near = ((np.float32(0.17023821103) * t + np.float32(1.3067284816)) * t + np.float32(2.7568153900)) * t
    near_low = (np.float32(0.12021132975) * t + np.float32(0.73700164250)) * t + np.float32(1)
    far = ((np.float32(0.017337203997) * u + np.float32(0.42868294337)) * u + np.float32(3.0812263860)) * u
    far_low = (np.float32(0.012258202635) * u + np.float32(0.24197894225)) * u + np.float32(1)
    is_near = s <= np.float32(5)
    top = near + np.float32(1.4234372777) if is_near else far + np.float32(6.6579051150)
    return top / (near_low if is_near else far_low)
