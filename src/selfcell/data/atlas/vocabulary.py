"""The genes of an atlas: made from those of its inputs, or read from a list.

How they are matched to each input is in :mod:`selfcell.data.atlas.gene_match`.
"""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from selfcell.core.errors import InputError
from selfcell.data.atlas.gene_aliases import GeneAliases
from selfcell.data.atlas.gene_match import GeneMatch, learn_aliases, match_to_vocabulary
from selfcell.data.atlas.index import is_atlas, read_index
from selfcell.data.atlas.input_genes import InputGenes
from selfcell.data.genes import ID_COLUMNS, SYMBOL_COLUMNS, GeneTable, is_ensembl

__all__ = ["GeneMatch", "InputGenes", "learn_aliases", "make_vocabulary", "match_to_vocabulary", "read_vocabulary"]


def make_vocabulary(
    inputs: Sequence[InputGenes],
    how: Literal["intersection", "union"] = "union",
    *,
    aliases: GeneAliases | None = None,
) -> GeneTable:
    """Make one vocabulary of the genes of all inputs, in the order of first appearance.

    A gene goes by its Ensembl id. One that an input names by symbol alone goes by the id that other inputs give beside
    this symbol, if it is one id; else by the id in the table of aliases; else by the symbol itself.

    Parameters
    ----------
    inputs
        Genes of each input.
    how
        Whether to take the genes of any input or those that all have.
    aliases
        The pinned table, to bring ids and symbols together where no input has both.

    Raises
    ------
    InputError
        If no gene is in all inputs.
    """
    learned = learn_aliases(inputs, aliases)
    symbols: dict[str, str] = {}
    n_inputs_with: Counter[str] = Counter()
    for genes in inputs:
        keys = [
            gene_id if known else (learned.find(gene_id) or (gene_id,))[0]
            for gene_id, known in zip(genes.ids, is_ensembl(genes.ids), strict=True)
        ]
        for key, symbol in zip(keys, genes.symbols, strict=True):
            if key:
                symbols[key] = symbols.get(key) or symbol
        n_inputs_with.update({key for key in keys if key})
    kept = [key for key in symbols if how == "union" or n_inputs_with[key] == len(inputs)]
    if not kept:
        raise InputError(
            f"No gene is in all of the {len(inputs)} inputs; they begin "
            f"{'; '.join(', '.join(genes.names[:3]) for genes in inputs[:3])}. {_mend(inputs)}"
        )
    return GeneTable(tuple(kept), tuple(symbols[key] or learned.symbol_of_id.get(key, "") for key in kept))


def _mend(inputs: Sequence[InputGenes]) -> str:
    by_id = {bool(is_ensembl(genes.ids).mean() > 0.5) for genes in inputs}
    if len(by_id) == 2:
        return (
            "Some name their genes by Ensembl ids and others by symbols: have both brought together by a table that is "
            "fetched once (--gene-aliases), or name the column of var that has names of one kind (--gene-column NAME)."
        )
    return (
        "Name the column of var that has names of one kind (--gene-column NAME), take all genes (--genes union), or "
        "leave out inputs of another species."
    )


def read_vocabulary(path: Path) -> GeneTable:
    """Read a vocabulary: a list, or what was made with one.

    Parameters
    ----------
    path
        A text file with one gene a line; a .csv or .tsv file with a column ``id`` or ``symbol`` or both; the folder of
        a run (its ``genes.csv``); or an atlas.

    Raises
    ------
    InputError
        If there is nothing of these, or genes stand in it more than once.
    """
    if is_atlas(path):
        return read_index(path).gene_table
    if (path / "genes.csv").is_file():
        return GeneTable.from_frame(pd.read_csv(path / "genes.csv", dtype=str, keep_default_na=False))
    if not path.is_file():
        raise InputError(
            f"There are no genes at {path}. Give intersection, union, a file with one gene a line, a .csv with columns "
            "id and symbol, the folder of a run, or an atlas."
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file ({error.reason}). Give one with one gene a line.") from error
    delimiter = "\t" if any("\t" in line for line in lines[:2]) else ","
    rows = [row for row in csv.reader(lines, delimiter=delimiter) if any(row) and not row[0].startswith("#")]
    if not rows:
        raise InputError(f"{path} names no genes. Give one a line.")
    genes = InputGenes.from_var(_as_var(rows, path))
    repeated = [gene_id for gene_id, times in Counter(genes.ids).items() if times > 1]
    if repeated:
        shown = ", ".join(repeated[:5]) + (" ..." if len(repeated) > 5 else "")
        raise InputError(f"{len(repeated):,} genes stand more than once in {path}: {shown}. Leave each in once.")
    return GeneTable(genes.ids, genes.symbols)


def _as_var(rows: list[list[str]], path: Path) -> pd.DataFrame:
    """Make a list, with names of columns or without, into the form of an AnnData's ``var``."""
    head = [name.strip().lower() for name in rows[0]]
    id_at = _first(head, ("id", *ID_COLUMNS))
    symbol_at = _first(head, ("symbol", "gene", "name", *SYMBOL_COLUMNS))
    if id_at is None and symbol_at is None:
        if len(rows[0]) > 1:
            raise InputError(f"{path} has several columns, but none is named id or symbol in its first line.")
        return pd.DataFrame(index=[row[0].strip() for row in rows])
    wide = [[cell.strip() for cell in row] + [""] * (len(head) - len(row)) for row in rows[1:]]
    ids = [row[id_at] if id_at is not None else "" for row in wide]
    symbols = [row[symbol_at] if symbol_at is not None else "" for row in wide]
    names = [gene_id or symbol for gene_id, symbol in zip(ids, symbols, strict=True)]
    return pd.DataFrame({"gene_id": ids, "symbol": symbols}, index=names)


def _first(head: list[str], names: Sequence[str]) -> int | None:
    return next((head.index(name) for name in names if name in head), None)
