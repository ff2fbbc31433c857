"""A random order of any number of things that takes no memory: the thing at each place is computed."""

import numpy as np

_ROUNDS = 6


def permuted(places: np.ndarray, n: int, *, seed: int) -> np.ndarray:
    """Give what stands at some places of a permutation of ``0 ... n - 1`` that depends on the seed alone.

    A Feistel cipher over the next power of four; what falls outside is enciphered again until it falls inside, which
    keeps it a permutation :cite:p:`black2002`.

    Parameters
    ----------
    places
        Places, each between 0 and ``n - 1``.
    n
        How many things there are.
    seed
        Which permutation.
    """
    half_bits = np.uint64(max(1, (max(1, n - 1).bit_length() + 1) // 2))
    found = _encipher(places.astype(np.uint64), half_bits, seed)
    outside = np.flatnonzero(found >= n)
    while outside.size:
        found[outside] = _encipher(found[outside], half_bits, seed)
        outside = outside[found[outside] >= n]
    return found.astype(np.int64)


def uniform(places: np.ndarray, *, seed: int) -> np.ndarray:
    """Give a number between 0 and 1 for each place that depends on the place and the seed alone."""
    keyed = places.astype(np.uint64) + _mix(np.array([seed], dtype=np.uint64))
    return (_mix(keyed) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _encipher(places: np.ndarray, half_bits: np.uint64, seed: int) -> np.ndarray:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    keys = _mix(np.arange(_ROUNDS, dtype=np.uint64) + _mix(np.array([seed], dtype=np.uint64)))
    left, right = places >> half_bits, places & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    enciphered: np.ndarray = (left << half_bits) | right
    return enciphered


def _mix(values: np.ndarray) -> np.ndarray:
    """Scatter 64-bit integers; the finalizer of splitmix64 :cite:p:`steele2014`."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scattered: np.ndarray = values ^ (values >> np.uint64(31))
    return scattered
