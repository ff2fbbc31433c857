"""Read gene sets by name, from GMT files and from tables of factors and targets; write them as GMT."""

import csv
import gzip
import io
import logging
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from selfcell.core.atomic import write_text
from selfcell.core.errors import InputError, did_you_mean
from selfcell.data.package_index import fetch, read_member
from selfcell.data.program_sources import PROGRAM_SOURCES, ProgramSource

logger = logging.getLogger(__name__)

STORED_COLUMNS = ("program", "regulator", "gene")
"""Header of the ``programs.csv`` in a run folder."""


@dataclass(frozen=True)
class GeneSet:
    """A named set of genes, as its source names them."""

    name: str
    genes: tuple[str, ...]
    """Symbols or ids, each once, in the order of the source."""
    regulator: str | None = None
    """The transcription factor whose targets they are, where the source has a column for it."""


@dataclass(frozen=True)
class GeneSetCollection:
    """The gene sets of one source."""

    source: str
    """The named source, or the path of the file."""
    sets: tuple[GeneSet, ...]
    notes: tuple[str, ...] = ()
    """What was left out or merged in reading, in sentences."""
    names_factors: bool = True
    """Whether sets can be the targets of a factor; False where the source is known to be something else."""

    def __len__(self) -> int:
        return len(self.sets)


def read_programs(source: str | Path) -> GeneSetCollection:
    """Read gene sets, as their source names the genes.

    Parameters
    ----------
    source
        One of :data:`selfcell.data.program_sources.PROGRAM_SOURCES`, fetched on first use, or the path of
        a file; see :func:`read_file`.

    Raises
    ------
    InputError
        If there is no such name and no such file, or it cannot be read or fetched.
    """
    if isinstance(source, str) and source in PROGRAM_SOURCES:
        return _read_named(PROGRAM_SOURCES[source])
    path = Path(source)
    if not path.is_file():
        what = (
            "is a folder" if path.is_dir() else "is neither a named source of gene programmes nor a file that is there"
        )
        raise InputError(
            f"{str(source)!r} {what}. Name a GMT file or a table of source,target, or one of the sources. "
            f"{did_you_mean(str(source), list(PROGRAM_SOURCES))}"
        )
    return read_file(path)


def read_file(path: Path) -> GeneSetCollection:
    """Read a GMT file, a table of factors and targets, or the ``programs.csv`` of a run; suffix and header tell which.

    Parameters
    ----------
    path
        Named ``.gmt``, ``.csv`` (commas) or ``.tsv`` (tabs); ``.gz`` may follow.

    Raises
    ------
    InputError
        If the file is named otherwise, is not text, or is not what its name says; with the line.
    """
    suffixes = {suffix.lower() for suffix in path.suffixes}
    if not suffixes & {".gmt", ".csv", ".tsv"}:
        raise InputError(
            f"{path} is named neither .gmt, .csv nor .tsv (.gz may follow), so its format is unknown. GMT has a set a "
            "line: name, description, genes, separated by tabs. A table has columns source and target. Rename the file."
        )
    try:
        content = path.read_bytes()
        # Gzip files begin so, whatever they are named.
        text = decode(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content, where=str(path))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path} is a damaged gzip file ({error}). Fetch or make it again.") from error
    if ".gmt" in suffixes:
        return parse_gmt(text, str(path))
    if text.startswith(f"{','.join(STORED_COLUMNS)}\n"):
        return _parse_stored(text, str(path))
    return parse_table(text, str(path), separator="," if ".csv" in suffixes else "\t")


def decode(content: bytes, *, where: str) -> str:
    """Give the text of a file in UTF-8, with or without a byte-order mark.

    Raises
    ------
    InputError
        If it is not text, or empty.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not text in UTF-8 (byte {error.start:,}). Save it as UTF-8.") from error
    if not text.strip():
        raise InputError(f"{where} is empty.")
    return text


def parse_gmt(text: str, source: str) -> GeneSetCollection:
    r"""Read GMT: a set a line, with its name, a description and its genes.

    Blank lines, ``\r\n``, trailing tabs and genes given twice are no matter. Sets of one name are merged, and
    sets without genes left out; both are noted.

    Parameters
    ----------
    text
        Of the file.
    source
        What to call it in messages.

    Raises
    ------
    InputError
        If a line has no tab, or no set has genes.
    """
    genes_of: dict[str, dict[str, None]] = {}
    differing: dict[str, None] = {}
    without_genes: list[str] = []
    for number, line in _lines(text):
        name, *rest = (field.strip() for field in line.split("\t"))
        if not name or not rest:
            raise InputError(
                f"{source}, line {number}: GMT has a set a line, as name, description and genes separated by tabs, "
                f"but this one is {line[:60]!r}. Mend the line, or name a table of source,target .csv or .tsv."
            )
        genes = dict.fromkeys(gene for gene in rest[1:] if gene)
        if not genes:
            without_genes.append(name)
            continue
        if name in genes_of and genes_of[name].keys() != genes.keys():
            differing[name] = None
        genes_of.setdefault(name, {}).update(genes)
    if not genes_of:
        raise InputError(
            f"{source} has no set with genes. GMT has a set a line: name, description, genes, separated by tabs."
        )
    notes = _notes(
        (len(differing), "names stand for several sets, which are merged", differing),
        (len(without_genes), "sets have no genes and are left out", without_genes),
    )
    return GeneSetCollection(source, tuple(GeneSet(name, tuple(genes)) for name, genes in genes_of.items()), notes)


def parse_table(text: str, source: str, *, separator: str) -> GeneSetCollection:
    """Read a table of factors and targets: columns ``source`` and ``target``, and ``weight`` if it has one.

    Each factor is a set, with itself as the regulator. The sign of the weight, which tells activation from repression,
    is not used: a repressed gene is a target too. Rows of weight 0 or without one of the names are left out, and that
    is noted. Other columns are ignored.

    Parameters
    ----------
    text
        Of the file; the first line names the columns.
    source
        What to call it in messages.
    separator
        Between the columns.

    Raises
    ------
    InputError
        If a column is missing, a weight is no number, or no row is left.
    """
    targets_of: dict[str, dict[str, None]] = {}
    nameless: list[str] = []
    weightless: list[str] = []
    has_negative = False
    for number, factor, target, weight in _rows(text, source, separator=separator):
        has_negative |= weight < 0
        if not factor or not target:
            nameless.append(f"line {number}")
        elif weight == 0:
            weightless.append(f"{factor},{target}")
        else:
            targets_of.setdefault(factor, {})[target] = None
    notes = _notes(
        (len(nameless), "rows lack a name and are left out", nameless),
        (len(weightless), "rows have weight 0 and are left out", weightless),
    )
    if has_negative:
        notes += ("The sign of the weights is not used: repressed genes are targets too.",)
    if not targets_of:
        raise InputError(f"{source} has no row with a source and a target. {' '.join(notes)}".rstrip())
    sets = tuple(GeneSet(factor, tuple(targets), factor) for factor, targets in targets_of.items())
    return GeneSetCollection(source, sets, notes)


def _parse_stored(text: str, source: str) -> GeneSetCollection:
    """Read what a run stored, so that another can use the same programmes."""
    genes_of: dict[tuple[str, str], list[str]] = {}
    try:
        rows = list(csv.reader(io.StringIO(text)))
    except csv.Error as error:
        raise InputError(f"{source} cannot be read as a table: {error}. It is damaged: copy it again.") from error
    for number, row in enumerate(rows, start=1):
        if len(row) != len(STORED_COLUMNS):
            raise InputError(
                f"{source}, line {number}: a row has {', '.join(STORED_COLUMNS)}, but this one {len(row):,} values."
            )
        if number > 1:
            program, regulator, gene = row
            genes_of.setdefault((program, regulator), []).append(gene)
    sets = tuple(GeneSet(name, tuple(genes), regulator or None) for (name, regulator), genes in genes_of.items())
    return GeneSetCollection(source, sets)


def write_gmt(path: Path, sets: Iterable[GeneSet]) -> None:
    """Write gene sets as GMT, atomically; the description is ``na``."""
    write_text(path, "".join("\t".join((gene_set.name, "na", *gene_set.genes)) + "\n" for gene_set in sets))


def _read_named(info: ProgramSource) -> GeneSetCollection:
    archive = fetch(info.file)
    text = "\n".join(decode(read_member(archive, member), where=member) for member in info.members)
    if info.columns:
        read = parse_table("\t".join(info.columns) + "\n" + text, info.name, separator="\t")
    else:
        read = parse_gmt(text, info.name)
    return GeneSetCollection(info.name, read.sets, read.notes, info.names_factors)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _rows(text: str, source: str, *, separator: str) -> Iterator[tuple[int, str, str, float]]:
    """Give of each row the line it ends on, the factor, the target and the weight."""
    body = text.lstrip("\r\n")
    n_before = text[: len(text) - len(body)].count("\n")
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=separator)
    try:
        columns = [name.strip().lower() for name in next(reader)]
        _check_columns(columns, f"{source}, line {n_before + 1}", separator=separator)
        places = [columns.index(name) if name in columns else len(columns) for name in ("source", "target", "weight")]
        for row in reader:
            number = reader.line_num + n_before
            factor, target, weight = (row[place].strip() if place < len(row) else "" for place in places)
            if any(row):
                yield number, factor, target, _weight(weight, f"{source}, line {number}")
    except csv.Error as error:
        where = f"{source}, line {reader.line_num + n_before}"
        raise InputError(f"{where} cannot be read as a table: {error}. Look for an unclosed quote.") from error


def _check_columns(columns: list[str], where: str, *, separator: str) -> None:
    missing = [column for column in ("source", "target") if column not in columns]
    if missing:
        between = "commas" if separator == "," else "tabs"
        raise InputError(
            f"{where}: a table of factors and targets begins with a line that names its columns, source and "
            f"target (and weight, if there are weights), but there is no column {' and no column '.join(missing)}. "
            f"{did_you_mean(missing[0], columns)} The columns of this file must be separated by {between}."
        )


def _weight(given: str, where: str) -> float:
    """Read a weight; one that is not given keeps the row."""
    try:
        return float(given) if given else 1.0
    except ValueError as error:
        raise InputError(f"{where}: the weight must be a number, but is {given!r}. Mend or drop the row.") from error


def _notes(*counted: tuple[int, str, Iterable[str]]) -> tuple[str, ...]:
    notes = tuple(
        f"{count:,} {what}, for example {next(iter(examples))}." for count, what, examples in counted if count
    )
    for note in notes:
        logger.warning("%s", note)
    return notes
