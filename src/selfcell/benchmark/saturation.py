"""From which size on more labels, or more cells to pre-train on, gain less than would matter."""

from collections.abc import Sequence

import numpy as np

MARGIN = 0.01
"""A difference in a score that is taken not to matter."""


def enough_from(
    sizes: Sequence[int | float], most_gained: Sequence[float], *, margin: float = MARGIN
) -> int | float | None:
    """Give the smallest size from which on, up to the largest, what is gained is surely below a margin.

    Saturation is claimed by the upper ends of intervals, not by curves that look flat: where seeds and donors leave
    room for a gain that matters, there is no claim.

    Parameters
    ----------
    sizes
        Cells with labels, or to pre-train on.
    most_gained
        At each size, the upper end of the 95 % interval of what is gained: by pre-training, or by the largest corpus
        over this one.
    margin
        What would matter.

    Returns
    -------
    The size, or None where there is none.
    """
    enough = None
    for place in np.argsort(sizes, kind="stable")[::-1]:
        if not most_gained[place] < margin:
            break
        enough = sizes[place]
    return enough
