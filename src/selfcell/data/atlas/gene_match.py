"""Which gene of a vocabulary each gene of an input is."""

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from selfcell.core.errors import InputError
from selfcell.data.atlas.count_blocks import LARGEST_COUNT
from selfcell.data.atlas.gene_aliases import GeneAliases
from selfcell.data.atlas.input_genes import InputGenes
from selfcell.data.genes import REFUSE_OVERLAP, WARN_OVERLAP, GeneTable, guess_species, is_ensembl

logger = logging.getLogger(__name__)

_SHOWN = 20


@dataclass(frozen=True)
class GeneMatch:
    """How the genes of an input match a vocabulary."""

    column_of_input: np.ndarray
    """For each column of the input the position in the vocabulary, or -1 where it is dropped; int64."""
    report: dict[str, Any]
    """For JSON: ``n_genes`` of the input; of them ``n_matched``, and how: ``n_by_id``, ``n_by_symbol``, ``n_by_table``
    (symbol to id or back, by the pinned table), ``n_by_alias``; ``n_ambiguous`` that were left out since their name may
    mean several genes; ``n_summed`` that were added to another column; the first names of ``unmatched``; and
    ``share_of_genes`` and ``share_of_vocabulary`` that were found."""

    def apply(self, counts: sp.csr_matrix, n_genes: int) -> sp.csr_matrix:
        """Put counts into the order of a vocabulary of ``n_genes``; what falls on one gene is summed.

        Returns
        -------
        Cells x genes of the vocabulary; uint32, genes ascending within a cell.

        Raises
        ------
        InputError
            If a sum is more than can be stored.
        """
        columns = self.column_of_input.astype(np.int32)[counts.indices]
        kept = columns >= 0
        indptr = np.concatenate([[0], np.cumsum(kept)])[counts.indptr]
        shape = (counts.shape[0], n_genes)
        data = counts.data[kept].astype(np.uint64 if self.report["n_summed"] else np.uint32, copy=False)
        matched = sp.csr_matrix((data, columns[kept], indptr), shape=shape)
        if not matched.has_sorted_indices:
            # To columns and back is a counting sort, several times faster than sorting each row.
            matched = matched.tocsc().tocsr()
        if not self.report["n_summed"]:
            return matched
        matched.sum_duplicates()
        if matched.nnz and matched.data.max() > LARGEST_COUNT:
            raise InputError(f"Columns of one gene add up to more than {LARGEST_COUNT:,} in a cell. Drop one of them.")
        return sp.csr_matrix((matched.data.astype(np.uint32), matched.indices, matched.indptr), shape=shape)


def match_to_vocabulary(
    genes: InputGenes,
    vocabulary: GeneTable,
    *,
    aliases: GeneAliases | None = None,
    origin: str = "the input",
    allow_low_overlap: bool = False,
) -> GeneMatch:
    """Match the genes of an input to a vocabulary.

    By id where both have Ensembl ids; else by symbol; else by what the table of aliases says. A name that may mean
    several genes matches none, and an alias gives way to a column of the same input that names the gene as such.

    Parameters
    ----------
    genes
        Of the input.
    vocabulary
        Of the atlas.
    aliases
        The pinned table, or what :func:`learn_aliases` made of it.
    origin
        The input's name, for messages.
    allow_low_overlap
        Go on, with a warning, where under half of the genes match.

    Raises
    ------
    InputError
        If under half of the input's genes, or of the vocabulary's where these are fewer, match.
    """
    targets = _Targets.of(vocabulary, aliases)
    known = is_ensembl(genes.ids)
    found = [
        targets.find(gene_id, symbol, has_id=bool(has_id))
        for gene_id, symbol, has_id in zip(genes.ids, genes.symbols, known, strict=True)
    ]
    direct = {column for column, how in found if how in {"id", "symbol"}}
    found = [(-1, "ambiguous") if how == "alias" and column in direct else (column, how) for column, how in found]
    columns = np.array([column for column, _ in found], dtype=np.int64)
    hows = Counter(how for _, how in found)
    n_matched, n_targets = int((columns >= 0).sum()), len(np.unique(columns[columns >= 0]))
    unmatched = (name for name, column in zip(genes.names, columns, strict=True) if column < 0)
    report = {
        "n_genes": len(genes),
        "n_matched": n_matched,
        **{f"n_by_{how}": hows[how] for how in ("id", "symbol", "table", "alias")},
        "n_ambiguous": hows["ambiguous"],
        "n_summed": n_matched - n_targets,
        "share_of_genes": n_matched / max(1, len(genes)),
        "share_of_vocabulary": n_targets / max(1, len(vocabulary)),
        "unmatched": [name for name, _ in zip(unmatched, range(_SHOWN), strict=False)],
    }
    _judge(report, genes, vocabulary, origin=origin, allow_low_overlap=allow_low_overlap)
    return GeneMatch(columns, report)


def learn_aliases(inputs: Sequence[InputGenes], aliases: GeneAliases | None = None) -> GeneAliases:
    """Add to a table of aliases what the inputs themselves say: the Ensembl ids that they give beside symbols.

    A symbol with one id in all inputs stands for it, whatever the table says.
    """
    ids: dict[str, set[str]] = defaultdict(set)
    symbols: dict[str, str] = {}
    for genes in inputs:
        for gene_id, symbol, known in zip(genes.ids, genes.symbols, is_ensembl(genes.ids), strict=True):
            if known and symbol:
                ids[symbol].add(gene_id)
                symbols.setdefault(gene_id, symbol)
    once = {symbol: next(iter(those)) for symbol, those in ids.items() if len(those) == 1}
    table = aliases if aliases is not None else GeneAliases.of([])
    return replace(
        table,
        symbol_of_id=symbols | table.symbol_of_id,
        id_of_symbol=table.id_of_symbol | once,
        ambiguous=frozenset((table.ambiguous | {symbol for symbol in ids if symbol not in once}) - once.keys()),
    )


@dataclass(frozen=True)
class _Targets:
    """The genes of a vocabulary, by all that they may be found by."""

    by_id: dict[str, int]
    by_symbol: dict[str, int]
    """Symbols of one gene alone."""
    by_table: dict[str, tuple[int, str]]
    """Ensembl id, as the table of aliases has it, of genes that the vocabulary names by symbol; and what says so."""
    has_id: np.ndarray
    aliases: GeneAliases
    ambiguous: frozenset[str]

    @classmethod
    def of(cls, vocabulary: GeneTable, aliases: GeneAliases | None) -> "_Targets":
        aliases = aliases if aliases is not None else GeneAliases.of([])
        has_id, times = is_ensembl(vocabulary.ids), Counter(vocabulary.symbols)
        by_table: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for place in np.flatnonzero(~has_id):
            if found := aliases.find(vocabulary.symbols[place] or vocabulary.ids[place]):
                by_table[found[0]].append((int(place), found[1]))
        return cls(
            by_id={gene_id: place for place, gene_id in enumerate(vocabulary.ids)},
            by_symbol={symbol: place for place, symbol in enumerate(vocabulary.symbols) if times[symbol] == 1},
            by_table={gene_id: places[0] for gene_id, places in by_table.items() if len(places) == 1},
            has_id=has_id,
            aliases=aliases,
            ambiguous=aliases.ambiguous | {symbol for symbol, n_times in times.items() if symbol and n_times > 1},
        )

    def find(self, gene_id: str, symbol: str, *, has_id: bool) -> tuple[int, str]:
        """Give the position of a gene, or -1, and how it was found."""
        if not gene_id:
            return -1, "none"
        if gene_id in self.by_id:
            return self.by_id[gene_id], "id" if has_id else "symbol"
        place = self.by_symbol.get(symbol, -1) if symbol else -1
        # Two ids beside one symbol are two genes.
        if place >= 0 and not (has_id and self.has_id[place]):
            return place, "symbol"
        said = (gene_id, "table") if has_id else self.aliases.find(symbol or gene_id)
        if said is None:
            return -1, "ambiguous" if (symbol or gene_id) in self.ambiguous else "none"
        if said[0] in self.by_id:
            return self.by_id[said[0]], said[1]
        place, said_there = self.by_table.get(said[0], (-1, "none"))
        return place, "alias" if "alias" in {said[1], said_there} and place >= 0 else said_there


def _judge(
    report: dict[str, Any], genes: InputGenes, vocabulary: GeneTable, *, origin: str, allow_low_overlap: bool
) -> None:
    facts = (
        f"{report['n_matched']:,} of the {len(genes):,} genes of {origin} ({report['share_of_genes']:.0%}) are in the "
        f"atlas and cover {report['share_of_vocabulary']:.0%} of its {len(vocabulary):,}"
    )
    # A short list may be found whole in an input of many genes.
    share = max(report["share_of_genes"], report["share_of_vocabulary"])
    if share < REFUSE_OVERLAP and not allow_low_overlap:
        raise InputError(
            f"Only {facts}. {_likely_cause(genes, vocabulary)} "
            "To go on all the same: allow_low_overlap=True (--allow-low-overlap)."
        )
    logger.log(logging.WARNING if share < WARN_OVERLAP else logging.INFO, "%s.", facts)


def _likely_cause(genes: InputGenes, vocabulary: GeneTable) -> str:
    species = guess_species(GeneTable(genes.ids, genes.symbols)), guess_species(vocabulary)
    if all(species) and species[0] != species[1]:
        return f"It looks like {species[0]}, the atlas like {species[1]}: map its genes to orthologs, or leave it out."
    by_ensembl = [bool(is_ensembl(ids).mean() > 0.5) if ids else False for ids in (genes.ids, vocabulary.ids)]
    if by_ensembl[0] != by_ensembl[1]:
        theirs, ours = ("Ensembl ids", "symbols") if by_ensembl[0] else ("symbols", "Ensembl ids")
        return (
            f"It names its genes by {theirs}, the atlas by {ours}: name the column of var with the {ours}: "
            "gene_column=... (--gene-column NAME), or let the table of gene names be fetched."
        )
    return (
        f"Its genes begin {', '.join(genes.names[:3])}, the atlas's {', '.join(vocabulary.names[:3])}: if another "
        "column of var has the right names, pass gene_column=... (--gene-column NAME)."
    )
