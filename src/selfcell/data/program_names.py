"""Which gene of an encoder a name in a gene set stands for, and which factor a set is of."""

import collections
import re
from dataclasses import dataclass

import numpy as np

from selfcell.data.genes import GeneTable, guess_species, strip_version
from selfcell.data.program_files import GeneSet, GeneSetCollection
from selfcell.data.program_report import Fate

_MICRO_RNA = re.compile(r"(^|_)(MIR\d|LET_?7)", re.IGNORECASE)
_MOTIF = re.compile(r"[ACGTRYSWKMBDHVN]{6,}")


@dataclass(frozen=True)
class NameMatch:
    """Which gene of the encoder each name of a source stands for."""

    position: dict[str, int]
    """Name to the position of the gene; names without a gene are not in it."""
    matched_by: str
    """``ids`` or ``symbols``."""

    def find(self, names: set[str], *, but: int | None) -> tuple[np.ndarray, float]:
        """Give the genes found, sorted, and the share of the names that were found, both without gene ``but``."""
        places = [place for name in names if (place := self.position.get(name, -1)) != but]
        found = np.array(sorted({place for place in places if place >= 0}), dtype=np.int64)
        return found, sum(place >= 0 for place in places) / max(len(places), 1)


def match_names(sets: GeneSetCollection, genes: GeneTable) -> NameMatch:
    """Look the names of a source up among the encoder's ids and symbols, by the rules of ``map_programs``."""
    names = {gene for gene_set in sets.sets for gene in gene_set.genes}
    candidates = names | {name for gene_set in sets.sets for name in factor_names(gene_set)}
    by_id = {gene_id: place for place, gene_id in enumerate(genes.ids)}
    ids = {name: by_id[strip_version(name)] for name in candidates if strip_version(name) in by_id}
    by_symbol = _once(genes.symbols)
    symbols = {name: by_symbol[name] for name in candidates if name in by_symbol}
    species = {guess_species(as_gene_table(names)), guess_species(genes)}
    if len(species - {None}) < 2:
        upper = _once(tuple(symbol.upper() for symbol in genes.symbols))
        known = set(genes.symbols)
        others = (name for name in candidates - symbols.keys() if name not in known)
        if None in species:
            # Of a few names no species can be told, and Actb may be the gene of a mouse.
            others = (name for name in others if name.isupper() or name != name.capitalize())
        symbols |= {name: upper[name.upper()] for name in others if name.upper() in upper}
    if len(names & ids.keys()) > len(names & symbols.keys()):
        return NameMatch(ids, "ids")
    return NameMatch(symbols, "symbols")


def _once(symbols: tuple[str, ...]) -> dict[str, int]:
    """Give the position of each symbol that stands for one gene alone."""
    times = collections.Counter(symbols)
    return {symbol: place for place, symbol in enumerate(symbols) if symbol and times[symbol] == 1}


def as_gene_table(names: set[str]) -> GeneTable:
    """Give the names of a source as genes, for guessing what kind of names they are."""
    return GeneTable(tuple(sorted(names)), ("",) * len(names))


def find_factor(gene_set: GeneSet, names: NameMatch) -> tuple[Fate | None, int | None]:
    """Find the gene of a set's factor; or say why there is none."""
    if gene_set.regulator is None and _MICRO_RNA.search(gene_set.name):
        return Fate.micro_rna, None
    candidates = factor_names(gene_set)
    found = next((names.position[name] for name in candidates if name in names.position), None)
    if found is not None:
        return None, found
    if gene_set.regulator is None and (gene_set.name.endswith("_UNKNOWN") or _MOTIF.fullmatch(candidates[-1])):
        return Fate.motif, None
    return Fate.factor_absent, None


def factor_names(gene_set: GeneSet) -> tuple[str, ...]:
    """Give the names that a set's factor may go by, to be tried in this order."""
    if gene_set.regulator is not None:
        return (gene_set.regulator,)
    return gene_set.name, re.split(r"[_(]", gene_set.name, maxsplit=1)[0]
