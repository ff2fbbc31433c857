"""One seed, many independent named streams of random numbers.

The stream of a purpose depends on its name and place alone, never on what was drawn before. So adding a consumer of
randomness changes no other, and a run that was interrupted continues with the numbers it would have had.
"""

import zlib

import numpy as np


def derive_seed(seed: int, stream: str, *place: int) -> int:
    """Give the seed of one stream, between 0 and 2**63 - 1.

    Parameters
    ----------
    seed
        The one seed of a run, as the user set it.
    stream
        What the numbers are for, such as ``"masks"``.
    place
        Where in the stream, such as the optimizer step.
    """
    sequence = np.random.SeedSequence([seed, zlib.crc32(stream.encode()), *place])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def numpy_rng(seed: int, stream: str, *place: int) -> np.random.Generator:
    """Give NumPy's generator for one stream; the arguments are those of :func:`derive_seed`."""
    return np.random.default_rng(derive_seed(seed, stream, *place))
