"""Cells of the CELLxGENE Census that a query chooses: an input of a build, as a file is."""

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from selfcell.core.errors import InputError, did_you_mean
from selfcell.data.atlas.census_access import STABLE, build_day, opened_census, published_day, speaking_of_census
from selfcell.data.atlas.census_query import no_cells_message, read_filtered, refuse_bad_grammar, refuse_unknown

logger = logging.getLogger(__name__)

HUMAN = "homo_sapiens"
JOIN_COLUMN = "soma_joinid"
"""Column with the number of a cell or gene, which holds for one version of the census."""
PRIMARY_COLUMN = "is_primary_data"
"""Column of obs that tells, in files of CELLxGENE too, whether a cell is not in another data set as well."""
_COUNTING_BYTES = 2**26


@dataclass(frozen=True)
class CensusCells:
    """The cells of one version of the census for which a query holds.

    Made by :func:`find_census_cells`.
    """

    version: str
    """The day that it was made, such as ``2025-01-30``."""
    organism: str
    query: str
    n_cells: int
    sha256_cells: str
    """Checksum of the numbers of the cells."""
    uri: str | None = field(default=None, compare=False)
    """Of a copy to read instead of the published one."""

    def __str__(self) -> str:
        return f"census:{self.version}/{self.organism}?{self.query}"

    @property
    def stem(self) -> str:
        """What a file of them would be called."""
        return f"census-{self.version}"

    def fingerprint(self) -> dict[str, Any]:
        """Give what tells whether these are the same cells, for JSON."""
        return {
            "census": self.version,
            "organism": self.organism,
            "query": self.query,
            "n_cells": self.n_cells,
            "sha256_cells": self.sha256_cells,
        }

    @contextlib.contextmanager
    def experiment(self, *, memory_bytes: int) -> Iterator[Any]:
        """Open the organism's part of the census, a SOMA experiment that is read within so much memory.

        Raises
        ------
        InputError
            If it cannot be reached.
        """
        with contextlib.ExitStack() as stack:
            with self.reading():
                census = stack.enter_context(opened_census(self.version, self.uri, memory_bytes=memory_bytes))
                experiment = census["census_data"][self.organism]
            yield experiment

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what fails while it is read into words."""
        with speaking_of_census(str(self)):
            yield


def find_census_cells(
    query: str,
    *,
    version: str | None = None,
    organism: str = HUMAN,
    uri: str | None = None,
    primary_only: bool = False,
) -> CensusCells:
    """Find the cells for which a query holds: they are counted, and nothing else is read of them.

    Parameters
    ----------
    query
        A value filter over the obs columns of the census, such as ``"tissue_general == 'blood'"``.
    version
        A day, such as ``2025-01-30``; ``stable``, the latest that is kept for years; or ``latest``. Left out:
        ``stable``, or that of ``uri``.
    organism
        Such as ``homo_sapiens`` or ``mus_musculus``.
    uri
        Of a copy of the census: a folder, or what else TileDB reads.
    primary_only
        Whether to leave out cells that are not primary data; they are not read at all then.

    Raises
    ------
    InputError
        If what reads the census is not installed, the census cannot be reached, there is no such version or organism,
        or the query cannot be understood or holds for no cell.
    """
    if uri is not None and version is not None:
        raise InputError("A copy of the census has one version. Leave out --census-version, or --census-uri.")
    refuse_bad_grammar(query)
    with contextlib.ExitStack() as stack:
        stack.enter_context(speaking_of_census(f"The census ({uri or version or STABLE})"))
        day = published_day(version or STABLE) if uri is None else None
        census = stack.enter_context(opened_census(day, uri, memory_bytes=_COUNTING_BYTES))
        day = day or build_day(census)
        organism = _known_organism(census, organism)
        obs = census["census_data"][organism].obs
        refuse_unknown(query, list(obs.schema.names))
        wanted = f"({query}) and {PRIMARY_COLUMN} == True" if primary_only else query
        n_cells, n_copies, checksum = _counted(obs, wanted)
        if not n_cells:
            raise InputError(no_cells_message(obs, wanted, census=f"the census of {day}, {organism}"))
    logger.info("Census of %s, %s: %s cells.", day, organism, f"{n_cells:,}")
    _warn_of_copies(n_copies, n_cells)
    return CensusCells(day, organism, wanted, n_cells, checksum, uri)


def _known_organism(census: Any, given: str) -> str:
    known = sorted(census["census_data"].keys())
    name = given.strip().lower().replace(" ", "_")
    if name not in known:
        raise InputError(f"The census has no organism {given!r}. {did_you_mean(name, known)}")
    return name


def _counted(obs: Any, query: str) -> tuple[int, int, str]:
    """Give the number of cells, how many of them are not primary data, and a checksum of their numbers."""
    columns = [JOIN_COLUMN, *([PRIMARY_COLUMN] if PRIMARY_COLUMN in obs.schema.names else [])]
    n_cells = n_copies = 0
    digest = hashlib.sha256()
    for table in read_filtered(obs, query, columns):
        numbers = table[JOIN_COLUMN].to_numpy()
        n_cells += len(numbers)
        digest.update(numbers.astype("<i8").tobytes())
        if PRIMARY_COLUMN in columns:
            n_copies += int((~table[PRIMARY_COLUMN].to_numpy().astype(bool)).sum())
    return n_cells, n_copies, digest.hexdigest()


def _warn_of_copies(n_copies: int, n_cells: int) -> None:
    if n_copies:
        logger.warning(
            "%s of %s cells are not primary data (%s is False): the census has them in another data set too, and where "
            "that one is chosen as well, they count twice. Leave them out: --primary-only.",
            f"{n_copies:,}",
            f"{n_cells:,}",
            PRIMARY_COLUMN,
        )
