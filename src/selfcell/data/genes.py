"""Gene names: which column holds which, and how the genes of some cells match those of an encoder."""

import collections
import logging
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp

from selfcell.core.errors import InputError, did_you_mean

logger = logging.getLogger(__name__)

WARN_OVERLAP = 0.8
REFUSE_OVERLAP = 0.5
WARN_COUNTS = 0.1

_ENSEMBL = re.compile(r"^(ENS(?P<species>[A-Z]{0,6})G\d{11})(\.\d+(_PAR_Y)?)?$")
_SPECIES = {"": "human", "MUS": "mouse", "RNO": "rat", "DAR": "zebrafish", "MMU": "macaque", "SSC": "pig"}
ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl_ids", "ensembl", "feature_id")
SYMBOL_COLUMNS = ("feature_name", "gene_symbols", "gene_symbol", "gene_name", "gene_names", "symbol", "symbols")


@dataclass(frozen=True)
class GeneNames:
    """What genes are called, in the order of the columns.

    ``ids`` are Ensembl ids without version where they are known, else the names; ``symbols`` are empty where unknown.
    """

    ids: tuple[str, ...]
    symbols: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def names(self) -> tuple[str, ...]:
        """What to show people: the symbol where it is known, else the id."""
        return tuple(symbol or gene_id for gene_id, symbol in zip(self.ids, self.symbols, strict=True))


@dataclass(frozen=True)
class GeneTable(GeneNames):
    """The genes of some cells or of an encoder, each of them once."""

    def to_frame(self) -> pd.DataFrame:
        """Columns ``id`` and ``symbol``, as in a run's ``genes.csv``."""
        return pd.DataFrame({"id": self.ids, "symbol": self.symbols})

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> "GeneTable":
        """Read back what :meth:`to_frame` gave."""
        filled = frame.fillna("").astype(str)
        return cls(tuple(filled["id"]), tuple(filled["symbol"]))

    @classmethod
    def from_var(cls, var: pd.DataFrame, *, gene_column: str | None = None) -> "GeneTable":
        """Read gene names from an AnnData's ``var``.

        Parameters
        ----------
        var
            Its index and, where it has them, the usual columns for Ensembl ids and symbols are read.
        gene_column
            The column that names the genes, instead of the index.

        Raises
        ------
        InputError
            If there is no such column, or names are missing or given twice.
        """
        if gene_column is not None and gene_column not in var.columns:
            raise InputError(
                f"There is no column {gene_column!r} in var. {did_you_mean(gene_column, list(var.columns))}"
            )
        names = _as_strings(var[gene_column] if gene_column is not None else var.index)
        where = f"var[{gene_column!r}]" if gene_column is not None else "var_names"
        named_by_ensembl = is_ensembl(names).mean() > 0.5 if len(names) else False
        ids, symbols = names, [""] * len(names)
        if named_by_ensembl:
            symbols = _column(var, SYMBOL_COLUMNS, ensembl=False) or symbols
        else:
            symbols = names
            known = _column(var, ID_COLUMNS, ensembl=True)
            # An id given twice tells the genes apart less well than their names do.
            ids = known if known and len(set(known)) == len(known) else names
        ids = [strip_version(gene_id) for gene_id in ids]
        _check_unique(ids, where=where)
        return cls(tuple(ids), tuple(symbols))


def is_ensembl(names: list[str] | tuple[str, ...]) -> np.ndarray:
    """Tell for each name whether it is an Ensembl gene id; ``ENSA``, a symbol, is not."""
    return np.array([_ENSEMBL.match(name) is not None for name in names], dtype=bool)


def strip_version(name: str) -> str:
    """Drop the version of an Ensembl gene id (``ENSG00000141510.17``); leave every other name as it is."""
    match = _ENSEMBL.match(name)
    return match[1] if match and not (match[3] or "").endswith("_PAR_Y") else name


def guess_species(genes: GeneTable) -> str | None:
    """Guess a species from Ensembl prefixes, else from how symbols are written (``ACTB`` human, ``Actb`` mouse)."""
    prefixes = [match["species"] for name in genes.ids if (match := _ENSEMBL.match(name))]
    if len(prefixes) > len(genes) / 2:
        commonest = max(set(prefixes), key=prefixes.count)
        return _SPECIES.get(commonest, f"species ENS{commonest}")
    letters = [name for name in genes.names if name.isascii() and sum(map(str.isalpha, name)) >= 3]
    if len(letters) < 20:
        return None
    upper = np.mean([name.upper() == name for name in letters])
    title = np.mean([name[0].isupper() and any(map(str.islower, name[1:])) for name in letters])
    if upper > 0.6:
        return "human"
    return "mouse" if title > 0.6 else None


@dataclass(frozen=True)
class Alignment:
    """How the genes of some cells match those of an encoder."""

    column_of_gene: np.ndarray
    """For each gene of the encoder the column of the cells' matrix, or -1 where the cells lack it."""
    share_of_genes: float
    """Share of the encoder's genes that the cells have, between 0 and 1."""
    share_of_counts: float
    """Share of the cells' counts that lie in genes the encoder knows, between 0 and 1."""
    missing: tuple[str, ...]
    """Names of the encoder's genes that the cells lack."""
    n_columns: int
    """Genes of the cells."""

    def apply(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        """Put a matrix into the encoder's order of genes; missing genes are zero."""
        present = self.column_of_gene >= 0
        if present.all() and np.array_equal(self.column_of_gene, np.arange(counts.shape[1])):
            return counts
        selector = sp.csr_matrix(
            (
                np.ones(int(present.sum()), dtype=counts.dtype),
                (self.column_of_gene[present], np.flatnonzero(present)),
            ),
            shape=(counts.shape[1], len(self.column_of_gene)),
        )
        aligned = sp.csr_matrix(counts @ selector)
        aligned.sort_indices()
        return aligned


def align_genes(
    cell_genes: GeneTable, encoder_genes: GeneTable, counts: sp.csr_matrix, *, allow_low_overlap: bool = False
) -> Alignment:
    """Match the genes of some cells to those of an encoder, by id or by symbol, whichever matches more.

    Parameters
    ----------
    cell_genes
        Genes of the columns of ``counts``.
    encoder_genes
        Genes that the encoder was trained on.
    counts
        Cells x genes; used to weigh the overlap by expression.
    allow_low_overlap
        Go on, with a warning, even where under half of the encoder's genes are there.

    Raises
    ------
    InputError
        If under half of the encoder's genes are found, saying what is the likely cause.
    """
    by_id = _match(cell_genes.ids, encoder_genes.ids)
    by_symbol = _match(cell_genes.symbols, encoder_genes.symbols)
    columns = by_id if (by_id >= 0).sum() >= (by_symbol >= 0).sum() else by_symbol
    present = columns >= 0
    total = float(counts.sum())
    in_known = float(counts[:, columns[present]].sum())
    alignment = Alignment(
        column_of_gene=columns,
        share_of_genes=float(present.mean()),
        share_of_counts=in_known / total if total else 0.0,
        missing=tuple(np.array(encoder_genes.names, dtype=object)[~present]),
        n_columns=len(cell_genes),
    )
    _judge(alignment, cell_genes, encoder_genes, allow_low_overlap=allow_low_overlap)
    return alignment


def _match(names: tuple[str, ...], wanted: tuple[str, ...]) -> np.ndarray:
    """Give the column of each wanted name, or -1; a name that stands twice on either side matches nothing."""
    times, times_wanted = collections.Counter(names), collections.Counter(wanted)
    column = {name: position for position, name in enumerate(names) if name and times[name] == 1}
    return np.array([column.get(name, -1) if times_wanted[name] == 1 else -1 for name in wanted], dtype=np.int64)


def _judge(alignment: Alignment, cell_genes: GeneTable, encoder_genes: GeneTable, *, allow_low_overlap: bool) -> None:
    share = alignment.share_of_genes
    n_found, n_wanted = int((alignment.column_of_gene >= 0).sum()), len(encoder_genes)
    facts = (
        f"{n_found:,} of the encoder's {n_wanted:,} genes ({share:.0%}) are in the cells, "
        f"and {alignment.share_of_counts:.0%} of the cells' counts lie in them"
    )
    if share < REFUSE_OVERLAP and not allow_low_overlap:
        raise InputError(
            f"Only {facts}. {_likely_cause(alignment, cell_genes, encoder_genes)} "
            "To go on all the same: allow_low_overlap=True (--allow-low-overlap)."
        )
    if share < WARN_OVERLAP:
        shown = ", ".join(alignment.missing[:8])
        logger.warning("%s; missing genes count as zero. Missing, for example: %s.", facts, shown)
    elif share < 1:
        logger.info("%s.", facts)
    if alignment.share_of_counts < WARN_COUNTS:
        logger.warning(
            "Only %.1f %% of the cells' counts lie in the encoder's genes, as where it was trained on another tissue: "
            "it sees little of what these cells are.",
            100 * alignment.share_of_counts,
        )


def _likely_cause(alignment: Alignment, cell_genes: GeneTable, encoder_genes: GeneTable) -> str:
    n_found = int((alignment.column_of_gene >= 0).sum())
    if n_found > len(cell_genes) / 2:
        return f"The cells have only {len(cell_genes):,} genes, most of them known to the encoder."
    cell_species, encoder_species = guess_species(cell_genes), guess_species(encoder_genes)
    if cell_species and encoder_species and cell_species != encoder_species:
        return (
            f"The cells look like {cell_species}, the encoder was trained on {encoder_species}: map the genes to their "
            "orthologs first, or pre-train on this species."
        )
    cells_ensembl, encoder_ensembl = is_ensembl(cell_genes.ids).mean() > 0.5, is_ensembl(encoder_genes.ids).mean() > 0.5
    if cells_ensembl != encoder_ensembl:
        theirs, ours = ("Ensembl ids", "symbols") if cells_ensembl else ("symbols", "Ensembl ids")
        return (
            f"The cells name their genes by {theirs}, the encoder by {ours}: name the column of var with the "
            f"{ours}: gene_column=... (--gene-column NAME)."
        )
    return (
        f"The cells' genes begin {', '.join(cell_genes.names[:3])}, the encoder's "
        f"{', '.join(encoder_genes.names[:3])}: "
        "if another column of var has the right names, pass gene_column=... (--gene-column NAME)."
    )


def _column(var: pd.DataFrame, candidates: tuple[str, ...], *, ensembl: bool) -> list[str] | None:
    lowered = {str(column).lower(): column for column in var.columns}
    for candidate in candidates:
        if candidate in lowered:
            names = _as_strings(var[lowered[candidate]])
            if (is_ensembl(names).mean() > 0.5) == ensembl:
                return names
    return None


def _as_strings(values: pd.Series | pd.Index) -> list[str]:
    return ["" if pd.isna(value) else str(value) for value in values]


def _check_unique(ids: list[str], *, where: str) -> None:
    if "" in ids:
        raise InputError(f"{ids.count(''):,} genes have no name in {where}. Drop them or name them.")
    counted = pd.Series(ids).value_counts()
    twice = counted[counted > 1]
    if len(twice):
        raise InputError(
            f"{len(twice):,} gene names stand more than once in {where}, for example {twice.index[0]!r} "
            f"({twice.iloc[0]} times). Sum or drop the duplicates, or rename them with adata.var_names_make_unique()."
        )
