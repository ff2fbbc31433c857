"""Seeds of random numbers that are a function of a seed and a place: :func:`selfcell.network.kernels.mixed`."""

import numpy as np
import torch


def drawn_seed(generator: torch.Generator | None) -> tuple[np.uint32, np.uint32]:
    """Draw a seed of two halves from a generator on the CPU, torch's own if None."""
    low, high = torch.randint(2**32, (2,), generator=generator).tolist()
    return np.uint32(low), np.uint32(high)


def limit_of(share: float) -> np.uint32:
    """Give the number below which a share of all uint32 lies."""
    return np.uint32(min(round(share * 2**32), 2**32 - 1))
