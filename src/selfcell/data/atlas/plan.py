"""What a build is going to do, found out before it begins, and kept so that an interrupted one goes on with it."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from selfcell.core.atomic import write_text
from selfcell.core.errors import InputError
from selfcell.data.atlas.gene_aliases import GeneAliases, load_aliases
from selfcell.data.atlas.gene_match import learn_aliases
from selfcell.data.atlas.index import AtlasIndex, gene_index_dtype
from selfcell.data.atlas.inputs import CellInput, open_input
from selfcell.data.atlas.obs import ObsPlan, plan_obs
from selfcell.data.atlas.places import Place, address_of, fingerprint, refuse_changed
from selfcell.data.atlas.scatter import explained
from selfcell.data.atlas.settings import AtlasSettings, describe_differences
from selfcell.data.atlas.vocabulary import GeneMatch, make_vocabulary, match_to_vocabulary, read_vocabulary
from selfcell.data.genes import WARN_OVERLAP, GeneTable

logger = logging.getLogger(__name__)

_SAMPLED_CELLS = 64
_OBS_BYTES = 300
_SHARD_COPIES = 1.6
"""Memory that a shard takes while it is written, against its counts alone."""


class SavedInput(BaseModel):
    """An input, as the plan remembers it."""

    model_config = ConfigDict(frozen=True)

    path: str
    fingerprint: dict[str, Any]
    n_cells: int
    counts_address: str


class SavedPlan(BaseModel):
    """What of a plan is kept on disk: what it was made of, and what cannot be found out again."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["build", "append"]
    settings: dict[str, Any]
    inputs: tuple[SavedInput, ...]
    n_shards: int
    first_shard: int
    values_per_cell: float
    digest: str
    """Checksum of genes, obs columns and how each input's genes match."""

    @property
    def n_cells(self) -> int:
        """Cells of all inputs."""
        return sum(source.n_cells for source in self.inputs)

    @property
    def first_cells(self) -> list[int]:
        """Number of the first cell of each input among all cells."""
        return [int(total) for total in np.cumsum([0, *(source.n_cells for source in self.inputs)])[:-1]]

    def write(self, path: Path) -> None:
        """Write it, atomically."""
        write_text(path, self.model_dump_json(indent=1) + "\n")


@dataclass(frozen=True)
class Plan:
    """A plan with all that its tasks need."""

    saved: SavedPlan
    places: tuple[Place, ...]
    """Of the inputs."""
    genes: GeneTable
    obs: ObsPlan
    matches: tuple[GeneMatch, ...]
    reports: tuple[dict[str, Any], ...]
    """For each input, what is known of it before its cells are read."""


def read_plan(path: Path) -> SavedPlan | None:
    """Read the plan of an interrupted build, if there is one.

    Raises
    ------
    InputError
        If it is damaged.
    """
    if not path.is_file():
        return None
    try:
        return SavedPlan.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise InputError(f"{path} is damaged. Begin anew (--overwrite).") from error


def refuse_other(saved: SavedPlan, kind: str, inputs: Sequence[Place], settings: AtlasSettings) -> None:
    """Refuse to go on with an interrupted build under other options, or from inputs that changed.

    Raises
    ------
    InputError
        With the first option that differs, or the input.
    """
    if saved.kind != kind:
        raise InputError(
            f"An interrupted {saved.kind} is in the way. Give its command again, or drop it (--overwrite)."
        )
    difference = describe_differences(
        {"inputs": [address_of(place) for place in inputs], **settings.model_dump(mode="json")},
        {"inputs": [source.path for source in saved.inputs], **saved.settings},
    )
    if difference is not None:
        raise InputError(
            f"The interrupted {kind} had other options: {difference}. Give the same to go on, or begin anew "
            "(--overwrite)."
        )
    for place, source in zip(inputs, saved.inputs, strict=True):
        refuse_changed(place, source.fingerprint)


def make_plan(
    inputs: Sequence[Place],
    settings: AtlasSettings,
    *,
    atlas: AtlasIndex | None,
    previous: SavedPlan | None,
    scratch: Path,
    memory_bytes: int,
) -> Plan:
    """Look at all inputs and settle genes, obs columns and the number of shards.

    Parameters
    ----------
    inputs
        Files of cells, or cells of the census.
    settings
        Options.
    atlas
        To append to.
    previous
        The plan to go on with; what cannot be had from it is found out anew and must come out the same.
    scratch
        Folder for what reading some formats needs.
    memory_bytes
        That a shard may take while it is written.

    Raises
    ------
    InputError
        If an input cannot be used.
    """
    with contextlib.ExitStack() as stack:
        sources = [
            stack.enter_context(_opened(path, settings, scratch=scratch, memory_bytes=memory_bytes // 4))
            for path in inputs
        ]
        table = load_aliases() if settings.gene_aliases else None
        aliases = learn_aliases([source.genes for source in sources], table)
        genes = atlas.gene_table if atlas is not None else _vocabulary(settings, sources, table)
        matches = tuple(
            match_to_vocabulary(
                source.genes,
                genes,
                aliases=aliases,
                origin=str(source.path),
                allow_low_overlap=settings.allow_low_overlap,
            )
            for source in sources
        )
        obs, obs_reports = plan_obs(
            sources,
            keep=settings.obs,
            rename=settings.rename,
            strict=settings.strict,
            previous=None if atlas is None else dict(atlas.obs_columns),
            source_key=settings.source_key,
        )
        saved = previous or _new_plan(
            sources, settings, genes, atlas=atlas, memory_bytes=memory_bytes, digest=_digest(genes, obs, matches)
        )
        reports = tuple(
            {"counts": source.counts_address, "genes": match.report, "obs": report}
            for source, match, report in zip(sources, matches, obs_reports, strict=True)
        )
    if saved.digest != _digest(genes, obs, matches):
        raise InputError(
            "Genes or obs columns come out otherwise than when the build began, perhaps because a gene list changed or "
            "selfcell was upgraded. Begin anew (--overwrite)."
        )
    return Plan(saved, tuple(inputs), genes, obs, matches, reports)


def _opened(path: Place, settings: AtlasSettings, *, scratch: Path, memory_bytes: int) -> CellInput:
    try:
        source = open_input(
            path,
            layer=settings.layer,
            gene_column=settings.gene_column,
            scratch=scratch,
            memory_bytes=memory_bytes,
        )
    except OSError as error:
        raise explained(error, path) from error
    if source.counts_address not in {"X", "matrix"}:
        logger.info("Counts of %s are taken from %s.", path, source.counts_address)
    return source


def _vocabulary(settings: AtlasSettings, sources: Sequence[CellInput], aliases: GeneAliases | None) -> GeneTable:
    names = [source.genes for source in sources]
    if settings.genes == "union":
        union = make_vocabulary(names, "union", aliases=aliases)
        if len(sources) > 1 and len(union) > WARN_OVERLAP * sum(len(set(genes.ids)) for genes in names):
            logger.warning(
                "The inputs share hardly any genes: together they have %s. If some name them by symbols and others by "
                "Ensembl ids, each gene now stands there twice: give --gene-aliases, or --gene-column NAME.",
                f"{len(union):,}",
            )
        return union
    if settings.genes == "intersection":
        common = make_vocabulary(names, "intersection", aliases=aliases)
        _warn_of_loss(common, sources)
        return common
    return read_vocabulary(Path(settings.genes))


def _warn_of_loss(common: GeneTable, sources: Sequence[CellInput]) -> None:
    """Say so where few genes are in all inputs."""
    by_size = sorted(sources, key=lambda source: len(source.genes))
    fewest, most = by_size[0], by_size[-1]
    if len(common) < WARN_OVERLAP * len(most.genes):
        logger.warning(
            "Only the %s genes that all inputs have are kept: %s has %s genes, %s has %s. Keep all with --genes union, "
            "or give a list (--genes FILE).",
            f"{len(common):,}",
            most.path,
            f"{len(most.genes):,}",
            fewest.path,
            f"{len(fewest.genes):,}",
        )


def _new_plan(
    sources: Sequence[CellInput],
    settings: AtlasSettings,
    genes: GeneTable,
    *,
    atlas: AtlasIndex | None,
    memory_bytes: int,
    digest: str,
) -> SavedPlan:
    saved = tuple(
        SavedInput(
            path=address_of(source.path),
            fingerprint=fingerprint(source.path),
            n_cells=source.n_cells,
            counts_address=source.counts_address,
        )
        for source in sources
    )
    n_cells = sum(source.n_cells for source in sources)
    values_per_cell = sum(_sampled_values(source) * source.n_cells for source in sources) / max(n_cells, 1)
    shard_cells = _shard_cells(settings.shard_cells, values_per_cell, len(genes), memory_bytes=memory_bytes)
    numbers = [int(Path(shard.name).stem) for shard in atlas.shards] if atlas is not None else []
    return SavedPlan(
        kind="build" if atlas is None else "append",
        settings=settings.model_dump(mode="json"),
        inputs=saved,
        n_shards=max(1, -(-n_cells // shard_cells)),
        first_shard=max(numbers, default=-1) + 1,
        values_per_cell=values_per_cell,
        digest=digest,
    )


def _shard_cells(wanted: int, values_per_cell: float, n_genes: int, *, memory_bytes: int) -> int:
    bytes_per_cell = values_per_cell * (gene_index_dtype(n_genes).itemsize + 2) * _SHARD_COPIES + _OBS_BYTES
    fitting = max(1, int(memory_bytes / bytes_per_cell))
    if fitting < wanted:
        logger.info("Shards hold %s cells, not %s, to fit in memory.", f"{fitting:,}", f"{wanted:,}")
    return min(wanted, fitting)


def _sampled_values(source: CellInput) -> float:
    """Estimate non-zero counts per cell from some cells at the beginning, in the middle and at the end."""
    places = {0, source.n_cells // 2, max(0, source.n_cells - _SAMPLED_CELLS)}
    some = [source.read(start, min(start + _SAMPLED_CELLS, source.n_cells)) for start in sorted(places)]
    return float(sum(counts.nnz for counts in some) / max(1, sum(counts.shape[0] for counts in some)))


def _digest(genes: GeneTable, obs: ObsPlan, matches: Sequence[GeneMatch]) -> str:
    digest = hashlib.sha256()
    columns = {name: column.model_dump(mode="json") for name, column in obs.columns.items()}
    digest.update(json.dumps([genes.ids, genes.symbols, columns, obs.rename]).encode())
    for match in matches:
        digest.update(np.ascontiguousarray(match.column_of_input, dtype="<i8").tobytes())
    return digest.hexdigest()
