"""``selfcell embed``, ``selfcell annotate`` and ``selfcell predict``."""

from pathlib import Path
from typing import Annotated

import typer

from selfcell.cli.options import (
    CellsArgument,
    FileOption,
    GeneColumnOption,
    LayerOption,
    LowOverlapOption,
    ModelArgument,
    OverwriteOption,
    ScaleChoice,
    ScaleOption,
    StreamArgument,
    WhereOption,
    refuse_existing,
    write_adata,
)


def embed(
    model: ModelArgument,
    cells: StreamArgument,
    out: FileOption,
    key_added: Annotated[str, typer.Option(help="Key of obsm to write.")] = "X_selfcell",
    layer: LayerOption = None,
    scale: ScaleOption = ScaleChoice.auto,
    gene_column: GeneColumnOption = None,
    where: WhereOption = None,
    allow_low_overlap: LowOverlapOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a copy of the cells with their embedding in obsm["X_selfcell"].

    Of an atlas, cells are streamed and written with obs and embedding, without their counts.

    Example: selfcell embed runs/mae cells.h5ad --out embedded.h5ad
    """
    refuse_existing(out, overwrite=overwrite)
    from selfcell.core.errors import InputError
    from selfcell.data.atlas.index import is_atlas, is_url
    from selfcell.data.source import read_adata
    from selfcell.downstream.embed import embed as run
    from selfcell.downstream.embed_atlas import embed_atlas
    from selfcell.training.run_folder import load

    loaded = load(model)
    if is_url(cells) or is_atlas(cells):
        given = {"layer": layer, "gene-column": gene_column, "scale": None if scale == ScaleChoice.auto else scale}
        for name in [name for name, value in given.items() if value is not None]:
            raise InputError(f"An atlas holds counts and genes already: leave --{name} out.")
        adata = embed_atlas(cells, loaded, key_added=key_added, where=where, allow_low_overlap=allow_low_overlap)
        typer.echo("The file has obs and the embedding of the cells, and no counts: those are in the atlas.")
    elif where is not None:
        raise InputError("--where chooses cells of an atlas; subset a file beforehand.")
    else:
        adata = read_adata(cells)
        run(
            adata,
            loaded,
            key_added=key_added,
            layer=layer,
            scale=scale.value,
            gene_column=gene_column,
            allow_low_overlap=allow_low_overlap,
        )
    write_adata(adata, out)
    typer.echo(f'The embedding is in obsm["{key_added}"]; in scanpy: sc.pp.neighbors(adata, use_rep="{key_added}")')


def annotate(
    model: ModelArgument,
    query: Annotated[Path, typer.Argument(metavar="QUERY", help="Cells to annotate, with raw counts.")],
    out: FileOption,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", metavar="CELLS", help="Labelled cells; not needed with a fine-tuned model."),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", metavar="COLUMN", help="Column of the reference's obs with the cell type.")
    ] = None,
    key_added: Annotated[str, typer.Option(help="Column of obs to write.")] = "predicted_type",
    n_neighbors: Annotated[int, typer.Option(min=1, help="Reference cells that vote.")] = 5,
    layer: LayerOption = None,
    scale: ScaleOption = ScaleChoice.auto,
    gene_column: GeneColumnOption = None,
    allow_low_overlap: LowOverlapOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a copy of the cells with a type and a confidence for each.

    With --reference the nearest labelled cells vote and the confidence is the share that agreed; a fine-tuned model
    needs no reference, and the confidence is its probability. Neither is calibrated.

    Example: selfcell annotate runs/mae query.h5ad --reference atlas.h5ad --label cell_type --out annotated.h5ad
    """
    refuse_existing(out, overwrite=overwrite)
    from selfcell.data.source import read_adata
    from selfcell.downstream.annotate import annotate as run
    from selfcell.training.run_folder import load

    loaded, adata = load(model), read_adata(query)
    run(
        adata,
        loaded,
        reference=reference,
        label_key=label,
        key_added=key_added,
        n_neighbors=n_neighbors,
        layer=layer,
        scale=scale.value,
        gene_column=gene_column,
        allow_low_overlap=allow_low_overlap,
    )
    write_adata(adata, out)
    for name, n_cells in adata.obs[key_added].value_counts().head(30).items():
        typer.echo(f"{n_cells:>9,}  {name}")


def predict(
    model: ModelArgument,
    cells: CellsArgument,
    out: FileOption,
    key_added: Annotated[
        str | None, typer.Option(help='Key of obsm to write; "predicted_" and the model\'s target if left out.')
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="Predict this target; give as often as needed.")
    ] = None,
    layer: LayerOption = None,
    scale: ScaleOption = ScaleChoice.auto,
    gene_column: GeneColumnOption = None,
    allow_low_overlap: LowOverlapOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a copy of the cells with proteins or chromatin predicted from their genes, in obsm.

    MODEL is one that was fine-tuned for it: selfcell finetune MODEL CELLS --task cross_modality --target KEY

    Example: selfcell predict runs/proteins new.h5ad --out predicted.h5ad --only CD3 --only CD19
    """
    refuse_existing(out, overwrite=overwrite)
    from selfcell.data.source import read_adata
    from selfcell.downstream.predict_modality import predict_modality
    from selfcell.training.run_folder import load

    loaded, adata = load(model), read_adata(cells)
    key = predict_modality(
        adata,
        loaded,
        key_added=key_added,
        names=only or None,
        layer=layer,
        scale=scale.value,
        gene_column=gene_column,
        allow_low_overlap=allow_low_overlap,
    )
    write_adata(adata, out)
    n_targets, transform = adata.obsm[key].shape[1], loaded.manifest["transform"]
    typer.echo(
        f'{n_targets:,} targets, on the scale {transform}, are in obsm["{key}"], their names in uns["{key}_names"].'
    )
