"""Cell types of the Cell Ontology, and which is a kind of which, from a frozen table: nothing is fetched."""

import csv
import difflib
import functools
import graphlib
import gzip
import importlib.resources
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from selfcell.core.errors import InputError

logger = logging.getLogger(__name__)

_ID = re.compile(r"CL[:_](\d{7})", re.IGNORECASE)
_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class OntologyTerm:
    """A cell type, or an id that was one."""

    id: str
    label: str
    parents: tuple[str, ...] = ()
    """Ids one step up."""
    synonyms: tuple[str, ...] = ()
    """Other names: exact synonyms and former labels."""
    is_obsolete: bool = False
    replaced_by: str | None = None
    """Of an obsolete id the one to take instead, if there is one."""


class CellOntology:
    """Cell types and the kinds of each :cite:p:`diehl2016`.

    A cell type may be a kind of several others. :func:`load_cell_ontology` gives the real one.

    Parameters
    ----------
    terms
        Cell types and obsolete ids.
    version
        Date of the release.

    Raises
    ------
    InputError
        If a parent or replacement is not among the cell types, or one is its own ancestor.
    """

    def __init__(self, terms: Iterable[OntologyTerm], *, version: str) -> None:
        listed = tuple(terms)
        self.version = version
        self._types = {term.id: term for term in listed if not term.is_obsolete}
        self._obsolete = {term.id: term for term in listed if term.is_obsolete}
        self._check_references()
        self._hops = self._climb()
        self._ids = _index_names(listed)

    def __len__(self) -> int:
        return len(self._types)

    def __iter__(self) -> Iterator[str]:
        """Go through the ids of all cell types, obsolete ones left out."""
        return iter(self._types)

    def label(self, cell_type: str) -> str:
        """Give the label of an id."""
        return self._types[self._known(cell_type)].label

    def parents(self, cell_type: str) -> tuple[str, ...]:
        """Give the ids one step up."""
        return self._types[self._known(cell_type)].parents

    def hops_to_ancestors(self, cell_type: str) -> Mapping[str, int]:
        """Give the fewest steps up to each ancestor; to the cell type itself they are 0."""
        return self._hops[self._known(cell_type)]

    def ancestors(self, cell_type: str) -> frozenset[str]:
        """Give all that the cell type is a kind of, without itself."""
        return frozenset(self._hops[self._known(cell_type)]) - {cell_type}

    def descendants(self, cell_type: str) -> frozenset[str]:
        """Give all kinds of the cell type, without itself."""
        return self._below[self._known(cell_type)]

    def is_a(self, child: str, ancestor: str) -> bool:
        """Say whether one id is a kind of another; each is a kind of itself."""
        return self._known(ancestor) in self._hops[self._known(child)]

    def id_of(self, label: str) -> str:
        """Give the id of a label, whatever its case; see :meth:`resolve`."""
        return self.resolve([label])[0]

    def knows(self, name: str) -> bool:
        """Say whether :meth:`resolve` finds a cell type for the name."""
        return self._find(name) is not None

    def resolve(self, names: Iterable[str]) -> list[str]:
        """Give the id of each name.

        A name is an id (``CL:0000084``, also ``CL_0000084``), a label, or a synonym or former label that stands for one
        cell type alone; case and repeated spaces do not matter. An obsolete id is replaced, and a log line says so.

        Parameters
        ----------
        names
            Ids and labels, mixed as they come.

        Raises
        ------
        InputError
            If a name stands for no cell type; all such names are listed, with the nearest ones there are.
        """
        listed = [str(name) for name in names]
        found = {name: self._find(name) for name in dict.fromkeys(listed)}
        unknown = [name for name, cell_type in found.items() if cell_type is None]
        if unknown:
            raise InputError(self._why_unknown(unknown, n_names=len(found)))
        ids = {name: cell_type for name, cell_type in found.items() if cell_type is not None}
        replaced = [f"{name} by {new} ({self.label(new)})" for name, new in ids.items() if self._names_obsolete(name)]
        if replaced:
            logger.info("Obsolete in the Cell Ontology and replaced: %s.", "; ".join(replaced))
        return [ids[name] for name in listed]

    @functools.cached_property
    def _below(self) -> dict[str, frozenset[str]]:
        below: dict[str, set[str]] = {cell_type: set() for cell_type in self._types}
        for cell_type, hops in self._hops.items():
            for ancestor in hops.keys() - {cell_type}:
                below[ancestor].add(cell_type)
        return {cell_type: frozenset(kinds) for cell_type, kinds in below.items()}

    def _check_references(self) -> None:
        for term in (*self._types.values(), *self._obsolete.values()):
            for other in (*term.parents, *([term.replaced_by] if term.replaced_by else [])):
                if other not in self._types:
                    raise InputError(f"{term.id} names {other}, which is not a cell type of this ontology.")

    def _climb(self) -> dict[str, dict[str, int]]:
        order = graphlib.TopologicalSorter({term.id: term.parents for term in self._types.values()})
        hops: dict[str, dict[str, int]] = {}
        try:
            for cell_type in order.static_order():
                reached = hops[cell_type] = {cell_type: 0}
                for parent in self._types[cell_type].parents:
                    for ancestor, steps in hops[parent].items():
                        reached[ancestor] = min(steps + 1, reached.get(ancestor, steps + 1))
        except graphlib.CycleError as error:
            raise InputError(f"A cell type is its own ancestor: {', '.join(error.args[1])}.") from error
        return hops

    def _known(self, cell_type: str) -> str:
        if cell_type not in self._types:
            raise InputError(self._why_unknown([cell_type], n_names=1, wants_ids=True))
        return cell_type

    def _term_id(self, name: str) -> str | None:
        """Find the id that a name stands for, be it obsolete."""
        written = _ID.fullmatch(name.strip())
        found = (f"CL:{written[1]}",) if written else self._ids.get(_name(name), ())
        is_known = len(found) == 1 and (found[0] in self._types or found[0] in self._obsolete)
        return found[0] if is_known else None

    def _find(self, name: str) -> str | None:
        term_id = self._term_id(name)
        return self._obsolete[term_id].replaced_by if term_id in self._obsolete else term_id

    def _names_obsolete(self, name: str) -> bool:
        return self._term_id(name) in self._obsolete

    def _why_unknown(self, names: list[str], *, n_names: int, wants_ids: bool = False) -> str:
        listed = "; ".join(self._describe_unknown(name) for name in names[:_SHOWN])
        more = f"; and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
        which = f"{len(names):,} of {n_names:,} names" if n_names > 1 else "A name"
        verb = "is" if len(names) == 1 else "are"
        mend = "Give an id (CL:0000084); resolve gives those of labels and of obsolete ids."
        if not wants_ids:
            mend = "Give ids (CL:0000084) or labels of the ontology, and leave out cells without a type."
        return f"{which} {verb} not in the Cell Ontology of {self.version}: {listed}{more}. {mend}"

    def _describe_unknown(self, name: str) -> str:
        term_id = self._term_id(name)
        if term_id is not None and term_id in self._obsolete:
            new = self._obsolete[term_id].replaced_by
            return f"{name!r} (obsolete, replaced by {new or 'nothing'})"
        if term_id is not None:
            return f"{name!r} (did you mean {term_id!r}?)"
        if _ID.fullmatch(name.strip()):
            return f"{name!r} (an id of another release?)"
        if shared := [term_id for term_id in self._ids.get(_name(name), ()) if term_id in self._types]:
            return f"{name!r} (the name of {' and '.join(f'{self.label(each)!r}, {each}' for each in shared)})"
        near = difflib.get_close_matches(_name(name), self._ids, n=1, cutoff=0.7)
        hint = self._find(near[0]) if near else None
        return f"{name!r} (did you mean {self.label(hint)!r}, {hint}?)" if hint is not None else repr(name)


@functools.cache
def load_cell_ontology() -> CellOntology:
    """Read the Cell Ontology that the package carries, once; ``version`` is its date.

    It is under CC BY 4.0; what it was made from, and how, is in ``data/ontology/README.md`` of the package.
    """
    packed = importlib.resources.files("selfcell.data").joinpath("ontology/cell_ontology.csv.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    version = re.search(r"\d{4}-\d\d-\d\d", lines[0])
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return CellOntology((_read_term(row) for row in rows), version=version[0] if version else "")


def _read_term(row: dict[str, str]) -> OntologyTerm:
    replaced_by = row["replaced_by"]
    return OntologyTerm(
        id=row["id"],
        label=row["label"],
        parents=tuple(row["parents"].split()),
        synonyms=tuple(filter(None, row["synonyms"].split("|"))),
        is_obsolete=bool(replaced_by),
        replaced_by=replaced_by if replaced_by not in {"", "none"} else None,
    )


def _index_names(terms: tuple[OntologyTerm, ...]) -> dict[str, tuple[str, ...]]:
    """Give the ids that each name stands for: by labels before synonyms, and by names of obsolete ids last."""
    labels = [(term.label, term.id) for term in terms if not term.is_obsolete]
    synonyms = [(name, term.id) for term in terms if not term.is_obsolete for name in term.synonyms]
    former = [(name, term.id) for term in terms if term.is_obsolete for name in (term.label, *term.synonyms)]
    return _ids_by_name(former) | _ids_by_name(synonyms) | _ids_by_name(labels)


def _ids_by_name(pairs: list[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    ids: dict[str, set[str]] = {}
    for name, term_id in pairs:
        if name:
            ids.setdefault(_name(name), set()).add(term_id)
    return {name: tuple(sorted(found)) for name, found in ids.items()}


def _name(name: str) -> str:
    return " ".join(name.casefold().split())
