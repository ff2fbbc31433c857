"""``selfcell atlas``: build, append, info, verify, export."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from selfcell.cli.options import (
    GeneColumnOption,
    LayerOption,
    LowOverlapOption,
    OverwriteOption,
)
from selfcell.cli.written_files import refuse_existing, write_adata

if TYPE_CHECKING:
    from selfcell.data.atlas.census import CensusCells
    from selfcell.data.atlas.index import AtlasIndex
    from selfcell.data.streamed import CodedColumn

_SHOWN_VALUES = 6

app = typer.Typer(no_args_is_help=True, help="Make one atlas of many files of cells, to train on as a stream.")

AtlasArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the atlas.")]
_INPUTS = typer.Argument(metavar="INPUT...", help=".h5ad, .zarr, 10x .h5, folders with matrix.mtx, .loom.")
InputsArgument = Annotated[list[Path], _INPUTS]
OptionalInputsArgument = Annotated[list[Path] | None, _INPUTS]
AliasesOption = Annotated[
    bool, typer.Option("--gene-aliases", help="Match former gene symbols too, by a table that is fetched once.")
]
RenameOption = Annotated[
    list[str] | None,
    typer.Option("--rename", metavar="OLD=NEW", help="Name a column of obs otherwise; give as often as needed."),
]
MemoryOption = Annotated[
    str,
    typer.Option("--memory", help="Most memory to use, all workers together (with --dask, each of them), such as 2GB."),
]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Processes to read and write with.")]
DaskOption = Annotated[
    str | None,
    typer.Option("--dask", metavar="ADDRESS", help="Scheduler of a Dask cluster that sees the same files."),
]


@app.command()
def build(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to make.")],
    inputs: OptionalInputsArgument = None,
    from_census: Annotated[
        str | None,
        typer.Option(
            "--from-census",
            metavar="QUERY",
            help="Cells of the CELLxGENE Census, such as \"tissue_general == 'blood'\"; beside files or alone.",
        ),
    ] = None,
    census_version: Annotated[
        str | None,
        typer.Option(metavar="DAY", help="Version of the census. Default: stable, the latest that is kept for years."),
    ] = None,
    organism: Annotated[str | None, typer.Option(metavar="NAME", help="Of the census. Default: homo_sapiens.")] = None,
    census_uri: Annotated[
        str | None, typer.Option("--census-uri", metavar="URI", help="A copy of the census: a folder or s3://.")
    ] = None,
    genes: Annotated[
        str,
        typer.Option(help="intersection or union of the inputs' genes; or a list of genes, a run folder, an atlas."),
    ] = "intersection",
    gene_aliases: AliasesOption = False,
    allow_low_overlap: LowOverlapOption = False,
    layer: LayerOption = None,
    gene_column: GeneColumnOption = None,
    obs: Annotated[
        list[str] | None,
        typer.Option(
            "--obs", metavar="COLUMN", help="Column of obs to keep, all if left out; give as often as needed."
        ),
    ] = None,
    rename: RenameOption = None,
    source_key: Annotated[
        str | None,
        typer.Option("--source-key", metavar="COLUMN", help="Column of obs to add, with the file each cell is from."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse inputs that lack a column of obs or have it of another kind.")
    ] = False,
    duplicates: Annotated[
        Literal["report", "drop"],
        typer.Option(help="Cells of one name with equal counts: report and keep them, or drop all but the first."),
    ] = "report",
    primary_only: Annotated[
        bool, typer.Option("--primary-only", help="Leave out cells whose is_primary_data is False.")
    ] = False,
    codec: Annotated[
        Literal["none", "lz4", "zstd"], typer.Option(help="Compression; none reads fastest from a fast disk.")
    ] = "none",
    shard_cells: Annotated[
        int, typer.Option("--shard-cells", min=1, help="Cells in a shard, about; fewer where memory is short.")
    ] = 65_536,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random order of the cells.")] = 0,
    memory: MemoryOption = "2GB",
    workers: WorkersOption = 1,
    dask: DaskOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Make an atlas: cells of many files, in random order, in shards.

    Interrupted, it goes on when the same command is given again.

    Example: selfcell atlas build a.h5ad b.h5ad --out atlas
    """
    from selfcell.data.atlas.build import build_atlas

    census = {"version": census_version, "organism": organism, "uri": census_uri}
    settings: dict[str, Any] = {
        "genes": genes,
        "gene_aliases": gene_aliases,
        "allow_low_overlap": allow_low_overlap,
        "layer": layer,
        "gene_column": gene_column,
        "obs": obs or None,
        "rename": _renames(rename or []),
        "source_key": source_key,
        "strict": strict,
        "duplicates": duplicates,
        "primary_only": primary_only,
        "codec": codec,
        "shard_cells": shard_cells,
        "seed": seed,
    }
    with _resumable():
        places: list[str | Path | CensusCells] = [
            *(inputs or []),
            *_census_cells(from_census, _given(census), primary_only=primary_only),
        ]
        index = build_atlas(places, out, memory=memory, workers=workers, dask=dask, overwrite=overwrite, **settings)
    typer.echo(f"Wrote {out}: {_told(index, out)}.")
    typer.echo(f"Next: selfcell atlas info {out}, or selfcell pretrain {out} --out RUN --donor COLUMN")


@app.command()
def append(
    atlas: AtlasArgument,
    inputs: InputsArgument,
    memory: MemoryOption = "2GB",
    workers: WorkersOption = 1,
    dask: DaskOption = None,
    layer: LayerOption = None,
    gene_column: GeneColumnOption = None,
    gene_aliases: AliasesOption = False,
    allow_low_overlap: LowOverlapOption = False,
    rename: RenameOption = None,
    restart: Annotated[bool, typer.Option("--restart", help="Drop an unfinished append of other inputs.")] = False,
) -> None:
    """Add cells to an atlas, by the settings of its build unless others are given for these inputs.

    Whoever has the atlas open goes on with what it was.
    """
    from selfcell.data.atlas.build import append_to_atlas

    given = {
        "layer": layer,
        "gene_column": gene_column,
        "gene_aliases": gene_aliases,
        "allow_low_overlap": allow_low_overlap,
        "rename": _renames(rename or []),
    }
    with _resumable():
        index = append_to_atlas(
            atlas, inputs, memory=memory, workers=workers, dask=dask, restart=restart, **_given(given)
        )
    typer.echo(f"{atlas} now has {_told(index, atlas)}.")


@app.command()
def info(atlas: AtlasArgument) -> None:
    """Say what an atlas holds: size, obs columns with their commonest values, and where the cells came from."""
    from selfcell.core.words import counted, in_bytes
    from selfcell.data.atlas.build import is_being_changed
    from selfcell.data.atlas.index import read_index

    index = read_index(atlas)
    n_bytes, per_cell = _bytes_of(atlas), max(index.n_cells, 1)
    codec = "uncompressed" if index.codec == "none" else index.codec
    typer.secho(str(atlas), bold=True)
    typer.echo(f"  {index.n_cells:,} cells x {len(index.genes['id']):,} genes, {counted(len(index.shards), 'shard')}")
    typer.echo(
        f"  {in_bytes(n_bytes)}: {n_bytes / per_cell:,.0f} bytes a cell, {index.n_values / per_cell:,.0f} genes a cell"
        f", {codec}, shuffled by seed {index.shuffle_seed}"
    )
    if is_being_changed(atlas):
        typer.echo("  an append is not finished: give its command again to go on")
    _show_obs(atlas, index)
    _show_sources(index)


def _show_obs(atlas: Path, index: "AtlasIndex") -> None:
    from selfcell.data.atlas.cells import open_atlas

    cells = open_atlas(atlas)
    lacking = dict.fromkeys(index.obs_columns, 0)
    for source in index.sources:
        for name in source.report.get("obs", {}).get("filled", {}):
            lacking[name] += source.n_cells
    typer.echo("  obs:")
    for name, column in index.obs_columns.items():
        what = {"number": "numbers", "bool": "true or false", "string": "text"}.get(column.kind) or ""
        told = [what] if what else _commonest(*cells.count_values(name))
        if lacking[name]:
            told.append(f"no such column for {lacking[name]:,} cells")
        typer.echo(f"    {name}: {'; '.join(told)}")


def _commonest(column: "CodedColumn", n_missing: int) -> list[str]:
    sizes = sorted(zip(column.sizes.tolist(), column.names, strict=True), key=lambda value: -value[0])
    shown = ", ".join(f"{name} ({size:,})" for size, name in sizes[:_SHOWN_VALUES])
    more = f" and {len(sizes) - _SHOWN_VALUES:,} more" if len(sizes) > _SHOWN_VALUES else ""
    return [f"{shown}{more}"] * bool(sizes) + [f"no value for {n_missing:,} cells"] * bool(n_missing)


def _show_sources(index: "AtlasIndex") -> None:
    from selfcell.core.config import build as build_settings
    from selfcell.data.atlas.passes import tell_fate
    from selfcell.data.atlas.settings import AtlasSettings

    settings = build_settings(AtlasSettings, index.settings)
    typer.echo("  sources:")
    for source in index.sources:
        report = source.report
        typer.echo(
            f"    {source.path}: {tell_fate(report['cells'], settings)}; counts from {report['counts']}; "
            f"{report['genes']['n_matched']:,} of its {report['genes']['n_genes']:,} genes"
        )


def _bytes_of(atlas: Path) -> int:
    from selfcell.data.atlas.index import SHARD_FOLDER

    return sum(file.stat().st_size for file in (atlas / SHARD_FOLDER).rglob("*") if file.is_file())


@app.command()
def verify(atlas: AtlasArgument) -> None:
    """Check every file of an atlas; ends with exit code 1 where something is wrong."""
    from tqdm import tqdm

    from selfcell.core.words import counted
    from selfcell.data.atlas.index import read_index
    from selfcell.data.atlas.verify import verify_atlas

    index = read_index(atlas)
    with tqdm(desc="Checking", total=index.n_cells, unit="cell", unit_scale=True, disable=None) as bar:
        faults = verify_atlas(atlas, bar.update)
    for fault in faults:
        typer.echo(fault, err=True)
    if faults:
        typer.echo(f"{counted(len(faults), 'fault')}. Copy these shards again, or build the atlas anew.", err=True)
        raise typer.Exit(1)
    typer.echo(f"All is well: {_told(index, atlas)}.")


@app.command()
def export(
    atlas: AtlasArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.h5ad", help="File to write.")],
    where: Annotated[
        str | None, typer.Option("--where", metavar="QUERY", help="Which cells, such as \"cell_type == 'B cell'\".")
    ] = None,
    max_cells: Annotated[int | None, typer.Option("--max-cells", min=1, help="To stop after; a random part.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write some cells of an atlas to an .h5ad file; they must fit in memory."""
    refuse_existing(out, overwrite=overwrite)
    from selfcell.data.atlas.export import export_cells

    write_adata(export_cells(atlas, where=where, max_cells=max_cells), out)


def _told(index: "AtlasIndex", atlas: Path) -> str:
    from selfcell.core.words import counted, in_bytes

    return f"{counted(index.n_cells, 'cell')} in {counted(len(index.shards), 'shard')}, {in_bytes(_bytes_of(atlas))}"


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Leave out what was not given: for that another place knows what to take."""
    return {name: value for name, value in options.items() if value}


def _census_cells(query: str | None, options: dict[str, Any], *, primary_only: bool) -> "list[CensusCells]":
    from selfcell.core.errors import InputError
    from selfcell.data.atlas.census import find_census_cells

    if query is None:
        if options:
            raise InputError("--census-version, --organism and --census-uri say nothing without --from-census QUERY.")
        return []
    return [find_census_cells(query, primary_only=primary_only, **options)]


def _renames(pairs: list[str]) -> dict[str, str]:
    from selfcell.core.errors import InputError

    wrong = [pair for pair in pairs if not all(pair.partition("="))]
    if wrong:
        raise InputError(f"--rename takes OLD=NEW, but got {wrong[0]!r}.")
    return {old: new for old, _, new in (pair.partition("=") for pair in pairs)}


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    """Say how to go on when a build is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("\nInterrupted. Give the same command again to go on.", err=True)
        raise typer.Exit(130) from None
