"""The options of a build."""

import os
import re
from typing import Any, Literal

from pydantic import Field

from selfcell.core.config import Settings
from selfcell.core.errors import InputError
from selfcell.core.words import counted
from selfcell.data.atlas.index import Codec

PROCESS_BYTES = 400 * 2**20
"""What a Python process takes with all libraries loaded, before it holds any cell."""
_LEAST_BYTES = 50 * 2**20
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


class AtlasSettings(Settings):
    """What an atlas is to be like. An append goes by those of the build."""

    genes: str = "intersection"
    """intersection or union of the genes of all inputs; or a file with one gene a line, a run folder, or an atlas."""
    gene_aliases: bool = False
    """Also match genes by former symbols, from a pinned table that is fetched once."""
    allow_low_overlap: bool = False
    """Go on with inputs of which under half of the genes match."""
    layer: str | None = None
    """Layer with the raw counts, or X or raw.X."""
    gene_column: str | None = None
    """Column of var that names the genes."""
    obs: tuple[str, ...] | None = None
    """Columns of obs to keep; none given: all."""
    rename: dict[str, str] = Field(default_factory=dict)
    """Columns of obs to name otherwise: old name to new name."""
    source_key: str | None = None
    """Column of obs to add, with the name of the file that each cell is from."""
    strict: bool = False
    """Refuse inputs that lack a column of obs, or have it with values of another kind."""
    duplicates: Literal["report", "drop"] = "report"
    """What becomes of a cell that stands there a second time, name and counts alike."""
    primary_only: bool = False
    """Leave out cells whose is_primary_data is False: they are in another data set too."""
    codec: Codec = "none"
    """How shards are compressed: none reads fastest from a fast disk; lz4, zstd."""
    shard_cells: int = Field(default=65_536, ge=1)
    """Cells in a shard, about. Fewer where a shard would not fit in memory."""
    seed: int = Field(default=0, ge=0)
    """Seed of the random order of the cells."""


def describe_differences(wanted: dict[str, Any], known: dict[str, Any]) -> str | None:
    """Name the first option that differs, or None."""
    for name in [*wanted, *known]:
        if wanted.get(name) != known.get(name):
            return f"{name} is {wanted.get(name)!r}, but was {known.get(name)!r}"
    return None


def parse_memory(text: str | int) -> int:
    """Read a size, such as ``2GB``, ``1.5 GiB`` or a number of bytes.

    Raises
    ------
    InputError
        If it is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", str(text).upper())
    if match is None or match[2] not in _UNITS:
        raise InputError(f"--memory takes a size such as 2GB, but got {text!r}.")
    return int(float(match[1]) * _UNITS[match[2]])


def memory_for_cells(memory: int, *, workers: int) -> int:
    """Give the bytes that each worker may hold of cells, what Python itself takes left out.

    Raises
    ------
    InputError
        If there is too little memory for that many workers.
    """
    n_processes = 1 if workers == 1 else workers + 1
    left = (memory - n_processes * PROCESS_BYTES) // workers
    if left < _LEAST_BYTES:
        least = n_processes * PROCESS_BYTES + workers * _LEAST_BYTES
        raise InputError(
            f"{counted(workers, 'worker')} need{'s' * (workers == 1)} at least {-(-least // 10**6):,} MB, but --memory "
            f"gives {memory // 10**6:,} MB. Give more memory{' or fewer workers' * (workers > 1)}."
        )
    return left


def n_processors() -> int:
    """Give how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
