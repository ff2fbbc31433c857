"""Gene programmes: named sets of genes, and the targets of transcription factors, on the genes of an encoder."""

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from selfcell.core.atomic import atomic_path
from selfcell.core.errors import InputError
from selfcell.core.reading import read_table
from selfcell.data.genes import GeneTable, guess_species, is_ensembl
from selfcell.data.program_files import GeneSetCollection, read_programs
from selfcell.data.program_names import NameMatch, as_gene_table, factor_names, find_factor, match_names
from selfcell.data.program_report import Fate, ProgramReport, SetFate
from selfcell.data.program_sources import PROGRAM_SOURCES

logger = logging.getLogger(__name__)

# Under this share of names found, on either side, names are written otherwise rather than genes left out.
_FEW_FOUND = 0.05


@dataclass(frozen=True)
class GenePrograms:
    """Gene programmes on the genes of an encoder."""

    names: tuple[str, ...]
    genes: tuple[np.ndarray, ...]
    """Of each programme the positions of its genes among the encoder's, sorted, each once (int64)."""
    n_genes: int
    """Genes of the encoder."""
    regulators: np.ndarray | None = None
    """Of each programme the position of its transcription factor among the encoder's genes (int64); None where the
    programmes are not targets of factors. The factor itself is never among ``genes``."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> np.ndarray:
        """Number of genes of each programme (int64)."""
        return np.array([len(genes) for genes in self.genes], dtype=np.int64)

    def fingerprint(self) -> str:
        """SHA-256 over names, genes and factors."""
        digest = hashlib.sha256("\n".join(self.names).encode())
        for part in (*self.genes, self.sizes, np.array([]) if self.regulators is None else self.regulators):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class _Candidate:
    """Gene sets that would be one programme."""

    name: str
    sets: tuple[int, ...]
    """Positions of the sets in their collection: one, or of a factor all that it has."""
    regulator: int | None = None
    fate: Fate | None = None
    """Why it is no programme, where that is known before its genes are looked at."""


def load_programs(
    source: str | Path,
    genes: GeneTable,
    *,
    min_genes: int,
    max_genes: int | None,
    min_coverage: float,
    as_regulons: bool = False,
) -> tuple[GenePrograms, ProgramReport]:
    """Read gene sets and map them onto the genes of an encoder: :func:`read_programs`, then :func:`map_programs`.

    Parameters
    ----------
    source
        A name that ``selfcell programs`` lists, or the path of a GMT file or of a table of source,target.
    genes
        The encoder's.
    min_genes, max_genes, min_coverage, as_regulons
        As in :func:`map_programs`.

    Raises
    ------
    InputError
        If the source cannot be read, or no programme is left.
    """
    collection = read_programs(source)
    programs, report = map_programs(
        collection,
        genes,
        min_genes=min_genes,
        max_genes=max_genes,
        min_coverage=min_coverage,
        as_regulons=as_regulons,
    )
    logger.info("%s", report.describe())
    return programs, report


def map_programs(
    sets: GeneSetCollection,
    genes: GeneTable,
    *,
    min_genes: int,
    max_genes: int | None,
    min_coverage: float,
    as_regulons: bool = False,
) -> tuple[GenePrograms, ProgramReport]:
    """Map gene sets onto the genes of an encoder, and leave out those of a wrong size.

    Names are looked up among the encoder's ids (versions of Ensembl ids aside) and among its symbols, and whichever
    finds more of the source's names is used for all of them. A symbol is looked up as it is written; failing that, in
    upper case (``C1ORF112`` for ``C1orf112``), where one gene alone is written so and source and encoder do not look
    like two species: the names of mouse genes differ from the human ones by case alone, and they are other genes. A
    symbol that stands for two genes of the encoder stands for none.

    Sets that come to have the very same genes are all kept.

    Parameters
    ----------
    sets
        What to map.
    genes
        The encoder's.
    min_genes, max_genes
        Limits, included, of the number of a programme's genes among the encoder's; None is no limit.
    min_coverage
        Least share of the names in a set that must be found, between 0 and 1.
    as_regulons
        Make one programme of each factor, the union of all of its sets, without the factor itself. The factor is the
        set's regulator where the source has one, else the set's name or what stands in it before the first ``_``
        or ``(`` (``E2F1_Q3``), if that is a gene. Sets of microRNAs and those named by a motif are dropped.

    Returns
    -------
    The programmes, and what became of each set.

    Raises
    ------
    InputError
        If no programme is left, with the likely cause.
    """
    if as_regulons and not sets.names_factors:
        with_factors = ", ".join(name for name, info in PROGRAM_SOURCES.items() if info.names_factors)
        raise InputError(
            f"{sets.source} is no source of transcription factors and their targets. Sources that are: {with_factors}; "
            "or give a table of source,target."
        )
    names = match_names(sets, genes)
    judge = _judge(sets, names, min_genes=min_genes, max_genes=max_genes, min_coverage=min_coverage)
    candidates = _regulons(sets, genes, names) if as_regulons else _one_by_one(sets)
    judged = [(candidate, *judge(candidate)) for candidate in candidates]
    kept = [(candidate, found) for candidate, found, fate in judged if fate is Fate.kept]
    programs = GenePrograms(
        names=tuple(candidate.name for candidate, _ in kept),
        genes=tuple(found for _, found in kept),
        n_genes=len(genes),
        regulators=np.array([candidate.regulator for candidate, _ in kept], dtype=np.int64) if as_regulons else None,
    )
    report = ProgramReport(
        source=sets.source,
        sets=_fates(sets, names, [(candidate, fate) for candidate, _, fate in judged]),
        sizes=programs.sizes,
        n_genes=len(genes),
        n_genes_covered=len(np.unique(np.concatenate(programs.genes))) if kept else 0,
        n_same_genes=len(kept) - len({found.tobytes() for _, found in kept}),
        matched_by=names.matched_by,
        as_regulons=as_regulons,
        notes=sets.notes,
    )
    if not kept:
        limits = f"min_genes={min_genes}, max_genes={max_genes}, min_coverage={min_coverage:g}"
        raise InputError(_why_none(sets, genes, names, report, limits=limits))
    return programs, report


def write_programs(path: Path, programs: GenePrograms, genes: GeneTable) -> None:
    """Write programmes as a table of ``program``, ``regulator`` and ``gene``, by the encoder's ids, atomically."""
    sizes, ids = programs.sizes, np.array(genes.ids, dtype=object)
    regulators = [""] * len(programs) if programs.regulators is None else list(ids[programs.regulators])
    frame = pd.DataFrame(
        {
            "program": np.repeat(np.array(programs.names, dtype=object), sizes),
            "regulator": np.repeat(np.array(regulators, dtype=object), sizes),
            "gene": ids[np.concatenate(programs.genes)] if len(programs) else [],
        }
    )
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False)


def read_stored_programs(path: Path, genes: GeneTable) -> GenePrograms:
    """Read back what :func:`write_programs` wrote, exactly.

    Raises
    ------
    InputError
        If there is no such file, it is not such a table, or it names genes that the encoder does not have.
    """
    if not path.exists():
        raise InputError(f"There is no file {str(path)!r}: gene programmes are not stored there.")
    frame = read_table(path, dtype=str, keep_default_na=False)
    if list(frame.columns) != ["program", "regulator", "gene"]:
        raise InputError(f"{path} must have the columns program, regulator and gene, but has {', '.join(frame)}.")
    index = pd.Index(genes.ids)
    unknown = sorted((set(frame["gene"]) | set(frame["regulator"]) - {""}) - set(genes.ids))
    if unknown:
        raise InputError(
            f"{path} names {len(unknown):,} genes that are not among the {len(genes):,} of the encoder, for example "
            f"{unknown[0]!r}. It is of another run."
        )
    parts = list(frame.groupby(["program", "regulator"], sort=False))
    regulators = [str(regulator) for (_, regulator), _ in parts]
    return GenePrograms(
        names=tuple(str(name) for (name, _), _ in parts),
        genes=tuple(np.unique(index.get_indexer(part["gene"])).astype(np.int64) for _, part in parts),
        n_genes=len(genes),
        regulators=index.get_indexer(regulators).astype(np.int64) if any(regulators) else None,
    )


def _one_by_one(sets: GeneSetCollection) -> Iterator[_Candidate]:
    for place, gene_set in enumerate(sets.sets):
        yield _Candidate(gene_set.name, (place,))


def _regulons(sets: GeneSetCollection, genes: GeneTable, names: NameMatch) -> Iterator[_Candidate]:
    """Put the sets of one factor together; factors in the order of their first set."""
    sets_of: dict[int, list[int]] = {}
    for place, gene_set in enumerate(sets.sets):
        fate, regulator = find_factor(gene_set, names)
        if fate is not None:
            yield _Candidate(gene_set.name, (place,), fate=fate)
        elif regulator is not None:
            sets_of.setdefault(regulator, []).append(place)
    for regulator, places in sets_of.items():
        yield _Candidate(genes.names[regulator], tuple(places), regulator)


def _judge(
    sets: GeneSetCollection, names: NameMatch, *, min_genes: int, max_genes: int | None, min_coverage: float
) -> Callable[[_Candidate], tuple[np.ndarray, Fate]]:
    def judge(candidate: _Candidate) -> tuple[np.ndarray, Fate]:
        listed = {gene for place in candidate.sets for gene in sets.sets[place].genes}
        found, coverage = names.find(listed, but=candidate.regulator)
        if candidate.fate is not None:
            return found, candidate.fate
        is_own_target = candidate.regulator in {names.position.get(gene, -1) for gene in listed}
        if not len(found) and is_own_target:
            return found, Fate.only_itself
        if len(found) < min_genes:
            return found, Fate.too_few
        if max_genes is not None and len(found) > max_genes:
            return found, Fate.too_many
        return found, Fate.kept if coverage >= min_coverage else Fate.low_coverage

    return judge


def _fates(sets: GeneSetCollection, names: NameMatch, judged: list[tuple[_Candidate, Fate]]) -> tuple[SetFate, ...]:
    fates = {}
    for candidate, fate in judged:
        for place in candidate.sets:
            gene_set = sets.sets[place]
            n_found = len(names.find(set(gene_set.genes), but=candidate.regulator)[0])
            program = candidate.name if fate is Fate.kept else ""
            fates[place] = SetFate(gene_set.name, program, len(gene_set.genes), n_found, fate)
    return tuple(fates[place] for place in range(len(sets)))


def _why_none(
    sets: GeneSetCollection, genes: GeneTable, names: NameMatch, report: ProgramReport, *, limits: str
) -> str:
    text = (
        f"None of the {len(sets):,} gene sets of {sets.source} makes a programme on these {len(genes):,} genes: "
        f"{report.describe_dropped()}."
    )
    if report.as_regulons:
        without = (Fate.motif, Fate.micro_rna)
        factors = {
            factor_names(gene_set)[-1]: find_factor(gene_set, names)[1]
            for gene_set, entry in zip(sets.sets, report.sets, strict=True)
            if entry.fate not in without
        }
        present = [factor for factor, place in factors.items() if place is not None]
        examples = ", ".join((present or list(factors))[:3])
        text += (
            f" It names {len(factors):,} factors, {len(present):,} of them among the genes (for example {examples})."
        )
    listed = {gene for gene_set in sets.sets for gene in gene_set.genes}
    n_found = len(listed & names.position.keys())
    if n_found < _FEW_FOUND * min(len(listed), len(genes)):
        return f"{text} {_why_few_names(listed, genes, n_found)}"
    return (
        f"{text} The set with most has {max(entry.n_found for entry in report.sets):,} of the genes; the limits are "
        f"{limits}. Loosen them, take more genes, or another source."
    )


def _why_few_names(listed: set[str], genes: GeneTable, n_found: int) -> str:
    text = f"Only {n_found:,} of the {len(listed):,} genes that the sets name are among these genes."
    table = as_gene_table(listed)
    source_species, species = guess_species(table), guess_species(genes)
    if source_species and species and source_species != species:
        return f"{text} The sets look like {source_species}, the cells like {species}: take sets of that species."
    by_ensembl = is_ensembl(table.ids).mean() > 0.5
    if by_ensembl != (is_ensembl(genes.ids).mean() > 0.5):
        theirs, ours = ("Ensembl ids", "symbols") if by_ensembl else ("symbols", "Ensembl ids")
        return (
            f"{text} The sets name them by {theirs}, the cells by {ours}: if a column of var has the {theirs}, name it "
            "(gene_column, --gene-column)."
        )
    return (
        f"{text} The sets' genes begin {', '.join(table.names[:3])}, the cells' {', '.join(genes.names[:3])}: if "
        "another column of var has the right names, name it (gene_column, --gene-column)."
    )
