"""The genes of an input file, as they are named there."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from selfcell.core.errors import InputError, did_you_mean
from selfcell.data.genes import ID_COLUMNS, SYMBOL_COLUMNS, GeneNames, is_ensembl, strip_version


@dataclass(frozen=True)
class InputGenes(GeneNames):
    """The genes of an input file; some may stand there more than once."""

    def subset(self, columns: np.ndarray) -> "InputGenes":
        """Give those of some columns."""
        return InputGenes(tuple(self.ids[place] for place in columns), tuple(self.symbols[place] for place in columns))

    @classmethod
    def from_var(cls, var: pd.DataFrame, *, gene_column: str | None = None) -> "InputGenes":
        """Read them from an AnnData's ``var``, each gene for itself: some may be named by id and others by symbol.

        Parameters
        ----------
        var
            Its index and, where it has them, the usual columns for Ensembl ids and symbols are read.
        gene_column
            The column that names the genes, instead of the index.

        Raises
        ------
        InputError
            If there is no such column.
        """
        if gene_column is not None and gene_column not in var.columns:
            raise InputError(
                f"There is no column {gene_column!r} in var. {did_you_mean(gene_column, list(map(str, var.columns)))}"
            )
        names = _strings(var.index if gene_column is None else var[gene_column])
        lowered = {str(column).lower(): _strings(var[column]) for column in var.columns}
        beside_ids = [lowered[column] for column in ID_COLUMNS if column in lowered]
        beside_symbols = [lowered[column] for column in SYMBOL_COLUMNS if column in lowered]
        ids, symbols = list(names), list(names)
        for column in [names, *beside_ids][::-1]:
            ids = [new if known else old for known, new, old in zip(is_ensembl(column), column, ids, strict=True)]
        for place in np.flatnonzero(is_ensembl(names)):
            others = (column[place] for column in beside_symbols)
            symbols[place] = next((symbol for symbol in others if symbol and not is_ensembl([symbol])[0]), "")
        return cls(tuple(map(strip_version, ids)), tuple(symbols))


def _strings(values: pd.Series | pd.Index) -> list[str]:
    return ["" if pd.isna(value) else str(value) for value in values]
