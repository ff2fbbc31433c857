"""What the reader of each format hands over: matrices that may hold the counts, genes, and columns of the cells."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd

from selfcell.core.errors import InputError, did_you_mean
from selfcell.data.atlas.count_blocks import CountBlocks
from selfcell.data.atlas.table_columns import TableColumns


@dataclass(frozen=True)
class Candidate:
    """A matrix that may hold the counts."""

    address: str
    """The place as a user would type it, such as ``layers['counts']``."""
    open: Callable[[], CountBlocks]
    var: Callable[[], pd.DataFrame]
    """Gives the genes of its columns, as an AnnData has them."""


@dataclass(frozen=True)
class InputParts:
    """An open file."""

    candidates: dict[str, Candidate]
    """By the name to ask for them by, in no order of preference."""
    cells: TableColumns
    close: Callable[[], None]
    usual: tuple[str, ...] = field(default=("counts", "X", "raw.X"))
    """Names of the candidates that are looked at unasked, in this order."""

    def choose(self, layer: str | None) -> list[Candidate]:
        """Give the candidates to look at, in the order of preference.

        Raises
        ------
        InputError
            If the layer asked for is not there, or there is no matrix at all.
        """
        if layer is not None:
            if layer not in self.candidates:
                raise InputError(f"There is no layer {layer!r}. {did_you_mean(layer, list(self.candidates))}")
            return [self.candidates[layer]]
        usual = [self.candidates[key] for key in self.usual if key in self.candidates]
        if not usual:
            raise InputError("The file holds no matrix: X, raw.X and layers['counts'] are all missing.")
        return usual
