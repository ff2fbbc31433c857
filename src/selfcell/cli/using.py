"""``selfcell embed``, ``annotate``, ``impute``, ``predict`` and ``export``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from selfcell.cli.options import (
    CellsArgument,
    CellsOutOption,
    FileOption,
    GeneColumnOption,
    LayerOption,
    LowOverlapOption,
    ModelArgument,
    OverwriteOption,
    ScaleChoice,
    ScaleOption,
    SetOption,
    StreamArgument,
    WhereOption,
    task_settings,
)
from selfcell.cli.written_files import CELLS_KINDS, CellsToWrite, refuse_existing


def embed(
    model: ModelArgument,
    cells: StreamArgument,
    out: CellsOutOption,
    key_added: Annotated[str, typer.Option(help="Key of obsm to write.")] = "X_selfcell",
    layer: LayerOption = None,
    scale: ScaleOption = ScaleChoice.auto,
    gene_column: GeneColumnOption = None,
    where: WhereOption = None,
    allow_low_overlap: LowOverlapOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a copy of the cells with their embedding in obsm["X_selfcell"].

    Of an .h5mu file, FILE.h5mu has all modalities, the embedding in that of the genes. Of an atlas, cells are streamed
    and written with obs and embedding, without their counts.

    Example: selfcell embed runs/mae cells.h5ad --out embedded.h5ad
    """
    refuse_existing(out, overwrite=overwrite, kinds=CELLS_KINDS)
    from selfcell.core.errors import InputError
    from selfcell.data.atlas.index import is_atlas, is_url
    from selfcell.downstream.embed import embed as run
    from selfcell.downstream.embed_atlas import embed_atlas
    from selfcell.training.run_folder import load

    of_atlas = is_url(cells) or is_atlas(cells)
    if of_atlas and out.suffix != ".h5ad":
        name = out.with_suffix(".h5ad").name
        raise InputError(f"An atlas has no other modalities that {out} could keep: name {name}.")
    loaded = load(model)
    if of_atlas:
        given = {"layer": layer, "gene-column": gene_column, "scale": None if scale == ScaleChoice.auto else scale}
        for name in [name for name, value in given.items() if value is not None]:
            raise InputError(f"An atlas holds counts and genes already: leave --{name} out.")
        adata = embed_atlas(cells, loaded, key_added=key_added, where=where, allow_low_overlap=allow_low_overlap)
        written = CellsToWrite(adata)
        typer.echo("The file has obs and the embedding of the cells, and no counts: those are in the atlas.")
    elif where is not None:
        raise InputError("--where chooses cells of an atlas; subset a file beforehand.")
    else:
        written = CellsToWrite.read(cells, out=out)
        run(
            written.adata,
            loaded,
            key_added=key_added,
            layer=layer,
            scale=scale.value,
            gene_column=gene_column,
            allow_low_overlap=allow_low_overlap,
        )
    written.write(out)
    typer.echo(f'The embedding is in obsm["{key_added}"]; in scanpy: sc.pp.neighbors(adata, use_rep="{key_added}")')


def annotate(
    model: ModelArgument,
    query: Annotated[Path, typer.Argument(metavar="QUERY", help="Cells to annotate, with raw counts.")],
    out: CellsOutOption,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", metavar="CELLS", help="Labelled cells; not needed with a fine-tuned model."),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--label",
            metavar="COLUMN",
            help="Column of the reference's obs with the cell type. Default: cell_type, if there.",
        ),
    ] = None,
    donor: Annotated[
        str | None,
        typer.Option(
            "--donor",
            metavar="COLUMN",
            help="Column of the reference's obs with the donor; tells how sure to be of new ones. Default: donor_id.",
        ),
    ] = None,
    key_added: Annotated[str, typer.Option(help="Column of obs to write.")] = "predicted_type",
    by: Annotated[
        Literal["knn", "logistic"] | None,
        typer.Option(
            help="With a reference: the vote of the nearest cells, or a logistic regression on the embedding, which is "
            "often better, and slower.",
            show_default="knn",
        ),
    ] = None,
    n_neighbors: Annotated[int, typer.Option(min=1, help="Reference cells that vote, and that distances are to.")] = 5,
    weights: Annotated[
        Literal["uniform", "distance"], typer.Option(help="Equal votes, or nearer cells count more.")
    ] = "uniform",
    alpha: Annotated[
        float,
        typer.Option(min=0.001, max=0.5, help="Share of known cells that may be called unknown, for each reason."),
    ] = 0.05,
    mark_unknown: Annotated[
        bool, typer.Option("--mark-unknown", help='Write "unknown" as the type of cells that are like none known.')
    ] = False,
    layer: LayerOption = None,
    scale: ScaleOption = ScaleChoice.auto,
    gene_column: GeneColumnOption = None,
    allow_low_overlap: LowOverlapOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a copy of the cells with a type and a confidence for each.

    With --reference the nearest labelled cells vote, or a regression answers (--by logistic); a fine-tuned model needs
    no reference. The confidence is calibrated: on other donors of the reference (--donor), or on the cells that
    fine-tuning held out, if these were 50 or more (finetune --validation-fraction). Cells that are like none known are
    marked in a column of their own.

    Example: selfcell annotate runs/mae query.h5ad --reference reference.h5ad --label cell_type --donor donor_id --out
    annotated.h5ad
    """
    refuse_existing(out, overwrite=overwrite, kinds=CELLS_KINDS)
    from selfcell.downstream.annotate import BETWEEN_NAMES, MOST
    from selfcell.downstream.annotate import annotate as run
    from selfcell.training.run_folder import load

    loaded, written = load(model), CellsToWrite.read(query, out=out)
    written.refuse_taken(key_added)
    adata = written.adata
    run(
        adata,
        loaded,
        reference=reference,
        label_key=label,
        donor_key=donor,
        key_added=key_added,
        by=by,
        n_neighbors=n_neighbors,
        weights=weights,
        alpha=alpha,
        mark_unknown=mark_unknown,
        layer=layer,
        scale=scale.value,
        gene_column=gene_column,
        allow_low_overlap=allow_low_overlap,
    )
    written.write(out)
    for name, n_cells in adata.obs[key_added].value_counts().head(30).items():
        typer.echo(f"{n_cells:>9,}  {name}")
    if reference is None and "calibration" not in loaded.manifest:
        typer.echo("Whether cells are like none known was not looked into: the classifier is not calibrated.")
        return
    sizes = adata.obs[f"{key_added}_set"].astype(str).map(lambda names: len(names.split(BETWEEN_NAMES)) if names else 0)
    n_unknown = int(adata.obs[f"{key_added}_is_unknown"].sum())
    typer.echo(f"{sizes.mean():.1f} types on average are in the set of a cell ({key_added}_set).")
    flagged = f"{n_unknown:,} of {adata.n_obs:,} cells are flagged as like none known ({key_added}_is_unknown)"
    # The warning is about distances, which a classifier does not know.
    is_most = reference is not None and n_unknown > MOST * adata.n_obs
    typer.echo(f"{flagged}{'. So many speak of another study or technology: see the warning' if is_most else ''}.")


def impute(
    model: ModelArgument,
    cells: CellsArgument,
    out: FileOption,
    layer_added: Annotated[str, typer.Option(help="Layer to write.")] = "imputed",
    gene: Annotated[
        list[str] | None,
        typer.Option(
            "--gene",
            help="Write this gene alone, in all that is in the file; give as often as needed. All genes if left out.",
        ),
    ] = None,
    as_counts: Annotated[
        bool, typer.Option("--as-counts", help="Counts at each cell's own depth, not log1p of counts per 10,000.")
    ] = False,
    cells_at_once: Annotated[
        int | None, typer.Option(min=1, help="Cells decoded together; what there is room for, if left out.")
    ] = None,
    layer: LayerOption = None,
    scale: ScaleOption = ScaleChoice.auto,
    gene_column: GeneColumnOption = None,
    allow_low_overlap: LowOverlapOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a copy of the cells with the expression that the model expects, in layers["imputed"].

    The model is a masked autoencoder, or was fine-tuned with --task reconstruction. Genes that it does not know are
    NaN. The layer is dense, four bytes for each gene of each cell: name the genes that are needed (--gene).

    Example: selfcell impute runs/mae cells.h5ad --gene CD3E --gene CD19 --out imputed.h5ad
    """
    refuse_existing(out, overwrite=overwrite)
    from selfcell.core.words import counted
    from selfcell.downstream.impute import impute_to_file

    n_cells, n_genes = impute_to_file(
        cells,
        str(model),
        out,
        layer_added=layer_added,
        genes=gene or None,
        as_counts=as_counts,
        cells_at_once=cells_at_once,
        layer=layer,
        scale=scale.value,
        gene_column=gene_column,
        allow_low_overlap=allow_low_overlap,
    )
    values = "counts" if as_counts else "log1p of counts per 10,000"
    typer.echo(f"Wrote {out} ({counted(n_cells, 'cell')} x {counted(n_genes, 'gene')}).")
    typer.echo(f'What is expected is in layers["{layer_added}"]: {values}.')


def predict(
    model: ModelArgument,
    cells: CellsArgument,
    out: CellsOutOption,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="CELLS",
            help="Cells of which both were measured; not needed with a model fine-tuned for it.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="KEY", help="Key of the reference's obsm with what is predicted."),
    ] = None,
    by: Annotated[
        Literal["ridge", "knn"] | None,
        typer.Option(
            help="With a reference: a ridge regression on the embedding, or the mean of the nearest cells.",
            show_default="ridge",
        ),
    ] = None,
    donor: Annotated[
        str | None,
        typer.Option(
            "--donor",
            metavar="COLUMN",
            help="Column of the reference's obs with the donor, by which ridge chooses its penalty. Default: donor_id.",
        ),
    ] = None,
    set_: SetOption = None,
    key_added: Annotated[
        str | None, typer.Option(help='Key of obsm to write; "predicted_" and the target if left out.')
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

    MODEL is one that was fine-tuned for it: selfcell finetune MODEL CELLS --task cross_modality --target KEY. Or any
    other, with cells of which both were measured (--reference), from which nothing is trained but a regression.

    Example: selfcell predict runs/proteins new.h5ad --out predicted.h5ad --only CD3 --only CD19

    Example: selfcell predict runs/mae new.h5ad --reference cite.h5ad --target protein_counts --by ridge --out
    predicted.h5ad
    """
    refuse_existing(out, overwrite=overwrite, kinds=CELLS_KINDS)
    from selfcell.core.words import counted
    from selfcell.downstream.predict_modality import predict_modality
    from selfcell.training.run_folder import load

    loaded, written = load(model), CellsToWrite.read(cells, out=out)
    adata = written.adata
    key = predict_modality(
        adata,
        loaded,
        reference=reference,
        target=target,
        by=by,
        donor_key=donor,
        settings=task_settings("cross_modality", None, set_) or None,
        key_added=key_added,
        names=only or None,
        layer=layer,
        scale=scale.value,
        gene_column=gene_column,
        allow_low_overlap=allow_low_overlap,
    )
    written.write(out)
    n_targets, transform = adata.obsm[key].shape[1], adata.uns["selfcell"][key]["transform"]
    typer.echo(
        f'{counted(n_targets, "target")}, on the scale {transform}: obsm["{key}"], with names in uns["{key}_names"].'
    )


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write: FILE.onnx or FILE.pt2.")],
    overwrite: OverwriteOption = False,
) -> None:
    """Write MODEL as one file that runs without this package, and check it against the model.

    The network takes raw counts of the model's genes and normalizes them itself. It gives the embedding, and of a model
    that was fine-tuned for cell types a calibrated probability of each. Names of genes and types are in the file.

    Example: selfcell export runs/mae --out encoder.onnx
    """
    refuse_existing(out, overwrite=overwrite, kinds=(".onnx", ".pt2"))
    from selfcell.downstream.export import export as run
    from selfcell.training.run_folder import load

    loaded = load(model)
    run(loaded, out, overwrite=overwrite)
    outputs = [f"embedding ({loaded.encoder.n_latent} dimensions)"]
    outputs += [] if loaded.labels is None else [f"probability ({len(loaded.labels)} types)"]
    typer.echo(f"Wrote {out}. Input: counts of {len(loaded.genes):,} genes. Output: {', '.join(outputs)}.")
