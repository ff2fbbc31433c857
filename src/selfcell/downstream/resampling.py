"""Draws of test units: cells of one donor are not independent, so intervals come from drawing whole donors anew."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from selfcell.core.seeds import numpy_rng

N_DRAWS = 500
N_BLOCKS = 50
"""Blocks of test cells that stand for donors, where no donor is named."""


def draw_units(n_units: int, *, n_draws: int) -> Float[np.ndarray, "n_draws n_units"]:
    """Give how often each unit is in each draw of as many units, with replacement.

    The draws are the same every time: that pairs all methods, and makes an interval a function of the results.
    """
    rng = np.random.default_rng(0)
    return rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=n_draws).astype(float)


@dataclass(frozen=True)
class TestUnits:
    """The donors of the test cells, and draws of them."""

    __test__ = False  # pytest takes the name for a test

    code: Int[np.ndarray, " n_test"]
    """Unit of each test cell, from 0."""
    names: tuple[str, ...]
    draws: Float[np.ndarray, "n_draws n_units"]
    """How often each unit is in each draw."""

    @classmethod
    def of(cls, names: np.ndarray, *, n_draws: int = N_DRAWS) -> "TestUnits":
        """Make them of the name of each test cell's unit."""
        distinct, code = np.unique(names.astype(str), return_inverse=True)
        return cls(code.astype(np.int64), tuple(map(str, distinct)), draw_units(len(distinct), n_draws=n_draws))

    @classmethod
    def of_cells(cls, n_cells: int, *, n_draws: int = N_DRAWS) -> "TestUnits":
        """Make random blocks of cells stand for donors."""
        blocks = numpy_rng(0, "blocks").permutation(n_cells) % N_BLOCKS
        return cls.of(np.array([f"block {block}" for block in blocks], dtype=object), n_draws=n_draws)
