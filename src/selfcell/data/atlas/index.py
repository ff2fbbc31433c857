"""What an atlas consists of: the folder, its shards, and ``atlas.json`` that says what is in them.

=============================== ====================================================================================
atlas.json                      format version, genes, shards with checksums, obs columns, sources; written last
shards/000000.zarr, ...         cells in AnnData's own layout (Zarr v3), so ``anndata.read_zarr`` opens each of them
  X/data, X/indices, X/indptr   counts in compressed sparse rows: the narrowest unsigned integers, uint16 genes, int64
  obs, var                      names and columns of the cells; genes, the same in every shard
.build/                         what a build in progress keeps to go on from; gone when it is finished
=============================== ====================================================================================

Only shards that ``atlas.json`` names belong to the atlas, and a shard that it names never changes. So a reader sees the
atlas as it was when it was opened, whatever is being appended.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from selfcell.core.atomic import write_text
from selfcell.core.errors import InputError
from selfcell.core.reading import read_text
from selfcell.data.genes import GeneTable

FORMAT_VERSION = 1
INDEX_NAME = "atlas.json"
SHARD_FOLDER = "shards"

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")

Codec = Literal["none", "lz4", "zstd"]
"""How arrays of a shard are compressed: not at all and each in one chunk, which reads fastest from a fast disk; or in
chunks by Blosc with bit-shuffle."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class CategoryColumn(_Record):
    """An obs column of names. In a shard it is a categorical whose categories are the first of these."""

    kind: Literal["category"] = "category"
    categories: tuple[str, ...]


class ValueColumn(_Record):
    """An obs column of numbers, truth values, or names too many to be categories."""

    kind: Literal["number", "bool", "string"]


ObsColumn = Annotated[CategoryColumn | ValueColumn, Field(discriminator="kind")]


class ShardEntry(_Record):
    """One shard, as ``atlas.json`` knows it."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+\.zarr$")
    n_cells: int = Field(ge=1, lt=2**40)
    n_values: int = Field(ge=0, lt=2**50)
    values_dtype: Literal["uint8", "uint16", "uint32"]
    """Of the counts."""
    sha256: dict[str, str]
    """Checksum of every file, by its path in the shard."""


class SourceEntry(_Record):
    """One input file that cells came from."""

    path: str
    """As it was given."""
    fingerprint: dict[str, Any]
    """What tells whether the file is still the same one."""
    n_cells: int
    """Cells that were taken from it."""
    report: dict[str, Any]
    """Where the counts were, how its genes matched, what became of its obs columns and of cells that were dropped."""


class AtlasIndex(_Record):
    """The content of ``atlas.json``."""

    format: Literal["selfcell-atlas"] = "selfcell-atlas"
    format_version: int = FORMAT_VERSION
    normalization: Literal["none"] = "none"
    """Atlases hold raw counts."""
    codec: Codec = "none"
    shuffle_seed: int
    """The cells of each build or append were put into random order by this seed."""
    genes: dict[Literal["id", "symbol"], tuple[str, ...]]
    obs_columns: dict[str, ObsColumn]
    shards: tuple[ShardEntry, ...]
    sources: tuple[SourceEntry, ...]
    settings: dict[str, Any] = Field(default_factory=dict)
    """The options of the build, for an append to go by."""

    @model_validator(mode="after")
    def _genes_have_both_names(self) -> "AtlasIndex":
        if len(self.genes.get("id", ())) != len(self.genes.get("symbol", ())):
            raise ValueError("genes must have an id and a symbol each")
        return self

    @property
    def n_cells(self) -> int:
        """Cells in all shards."""
        return sum(shard.n_cells for shard in self.shards)

    @property
    def n_values(self) -> int:
        """Non-zero counts in all shards."""
        return sum(shard.n_values for shard in self.shards)

    @property
    def gene_table(self) -> GeneTable:
        """The genes, in the order of the columns."""
        return GeneTable(self.genes["id"], self.genes["symbol"])

    @property
    def gene_dtype(self) -> np.dtype[Any]:
        """Of the gene index in every shard."""
        return gene_index_dtype(len(self.genes["id"]))

    def write(self, atlas: Path) -> None:
        """Write ``atlas.json``, atomically: from here on these shards are the atlas."""
        write_text(atlas / INDEX_NAME, json.dumps(self.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n")


def gene_index_dtype(n_genes: int) -> np.dtype[Any]:
    """Give the narrowest of uint16 and uint32 that can number the genes."""
    return np.dtype("<u2" if n_genes <= 65_536 else "<u4")


def is_url(path: object) -> bool:
    """Tell whether a path is a URL, even one whose slashes :class:`pathlib.Path` has merged."""
    return _URL.match(str(path)) is not None


def is_atlas(path: str | Path) -> bool:
    """Tell whether a folder is an atlas (a finished one)."""
    return (Path(path) / INDEX_NAME).is_file()


def read_index(atlas: str | Path) -> AtlasIndex:
    """Read and check ``atlas.json``.

    Raises
    ------
    InputError
        If it is missing, damaged, or of another format version.
    """
    return parse_index(_index_text(Path(atlas)), place=str(Path(atlas) / INDEX_NAME))


def parse_index(text: str, *, place: str) -> AtlasIndex:
    """Check the text of an ``atlas.json``; ``place`` is for messages."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is damaged ({error}). Copy the atlas again, or build it anew.") from error
    if not isinstance(content, dict) or content.get("format") != "selfcell-atlas":
        raise InputError(f"{place} does not describe an atlas of selfcell.")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{place} has format version {version}, but this selfcell reads version {FORMAT_VERSION}. "
            f"{'Upgrade selfcell' if isinstance(version, int) and version > FORMAT_VERSION else 'Build it anew'}."
        )
    try:
        return AtlasIndex.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{place} is damaged: {where}: {first['msg']}. Copy it again, or build it anew.") from error


def _index_text(atlas: Path) -> str:
    if is_url(atlas):
        raise InputError(
            f"{atlas} is a URL, but a folder is needed here: only `selfcell pretrain`, `embed` and `doctor` read an "
            "atlas from elsewhere."
        )
    path = atlas / INDEX_NAME
    if path.is_file():
        return read_text(path)
    if (atlas / ".build").is_dir():
        raise InputError(f"The atlas in {atlas} is not finished. Give the same `selfcell atlas build` again to go on.")
    raise InputError(
        f"{atlas} is not an atlas: it has no {INDEX_NAME}. Make one: selfcell atlas build INPUT... --out DIR"
    )
