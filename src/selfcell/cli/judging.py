"""``selfcell demo``, ``selfcell evaluate``, ``selfcell score`` and ``selfcell report``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from selfcell.cli.options import (
    BatchOption,
    CellsArgument,
    ConfigOption,
    DonorOption,
    GeneColumnOption,
    LabelOption,
    LayerOption,
    LowOverlapOption,
    ModelArgument,
    OptionalLabelOption,
    OverwriteOption,
    ScaleChoice,
    ScaleOption,
    ScorerChoice,
    SetOption,
    TargetOption,
    TaskOption,
    resumable,
    task_settings,
)
from selfcell.cli.written_files import refuse_existing


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for results, runs and report.")] = Path(
        "demo"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="Few cells and epochs, no map: under a minute, not for its numbers.")
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Run the whole story on real blood cells, in minutes: pre-train, use, compare, report.

    Fetches 30 MB on first use. Three pre-trainings without labels on 23 of 43 donors (5 more watch the loss), then
    every way of using the encoders and every baseline on the other 15, with few labelled donors and with all.
    """
    from selfcell.benchmark.demo import run_demo

    run_demo(out, quick=quick, overwrite=overwrite)
    _show(out)


def evaluate(
    model: ModelArgument,
    cells: CellsArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for tables and report.")],
    task: TaskOption = "cell_type",
    label: OptionalLabelOption = None,
    donor: DonorOption = None,
    batch: BatchOption = None,
    target: TargetOption = None,
    also: Annotated[
        list[Path] | None,
        typer.Option("--also", metavar="MODEL", help="A further pre-training that differs in its seed."),
    ] = None,
    regime: Annotated[
        list[str] | None, typer.Option(help="Regime to run: selfcell list regimes. Default: all.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="Baseline to run instead of the usual ones: selfcell list baselines. obsm:KEY for an embedding of any "
            "model; --baseline usual --baseline scvi adds to them."
        ),
    ] = None,
    labelled_donors: Annotated[
        list[int] | None, typer.Option(min=1, help="Compare with so many labelled donors too, besides with all.")
    ] = None,
    labelled_fraction: Annotated[
        list[float] | None,
        typer.Option(min=0.0001, max=0.9999, help="Compare with this share of the training cells labelled too."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of fine-tuning.")] = 3,
    crossed: Annotated[
        bool, typer.Option("--crossed", help="Fine-tune every model with every seed, not one model a seed.")
    ] = False,
    test_fraction: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=0.9, help="Share of cells to judge on, where the run set none aside.", show_default="0.3"
        ),
    ] = None,
    test_where: Annotated[
        str | None, typer.Option("--test-where", metavar="QUERY", help="Judge on cells such as \"study == 'Muraro'\".")
    ] = None,
    query: Annotated[
        Path | None, typer.Option("--query", metavar="CELLS", help="Judge on the cells of this file instead.")
    ] = None,
    query_label: Annotated[
        str | None,
        typer.Option("--query-label", metavar="COLUMN", help="The query's column of types, if named otherwise."),
    ] = None,
    query_donor: Annotated[
        str | None,
        typer.Option("--query-donor", metavar="COLUMN", help="The query's column of donors, if named otherwise."),
    ] = None,
    query_batch: Annotated[
        str | None,
        typer.Option("--query-batch", metavar="COLUMN", help="The query's column of batches, if named otherwise."),
    ] = None,
    label_map: Annotated[
        Path | None,
        typer.Option("--label-map", metavar="FILE.csv", help="Types under another name: columns from and to."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; the number of cores, but four at most, if left out.")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    layer: LayerOption = None,
    scale: ScaleOption = ScaleChoice.auto,
    gene_column: GeneColumnOption = None,
    allow_low_overlap: LowOverlapOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Judge a model on your cells: every regime and baseline, on held-out donors, with intervals.

    Set donors aside when pre-training (--set data.test_fraction=0.3) and they are the ones judged on; or name the cells
    to judge on (--test-where), or another file (--query).

    Example: selfcell evaluate runs/mae cells.h5ad --label cell_type --donor donor_id --labelled-donors 2 --out judged

    Example: selfcell evaluate runs/mae cells.h5ad --task cross_modality --target protein_counts --donor donor_id --out
    proteins

    Example: selfcell evaluate runs/mae cells.h5ad --task integration --label cell_type --batch study --out integrated

    Example: selfcell evaluate runs/mae reference.h5ad --query new.h5ad --label cell_type --out unseen
    """
    from selfcell.benchmark.evaluate import evaluate as run
    from selfcell.data.label_maps import read_label_map
    from selfcell.downstream import REGIMES

    settings = task_settings(task, config, set_, target=target)
    _refuse_atlases(task, settings, [cells, query])
    with resumable("The trials that are done are kept: give the same command again to go on."):
        run(
            [str(model), *map(str, also or [])],
            cells,
            task=task,
            label_key=label,
            donor_key=donor,
            batch_key=batch,
            out=out,
            regimes=regime or tuple(REGIMES),
            baselines=baseline or ("usual",),
            labelled_donors=(*(labelled_donors or ()), None),
            labelled_fractions=labelled_fraction or (),
            n_seeds=seeds,
            crossed=crossed,
            test_fraction=test_fraction,
            test_where=test_where,
            query=query,
            query_label_key=query_label,
            query_donor_key=query_donor,
            query_batch_key=query_batch,
            label_map=None if label_map is None else read_label_map(label_map),
            settings=settings,
            layer=layer,
            scale=scale.value,
            gene_column=gene_column,
            allow_low_overlap=allow_low_overlap,
            jobs=jobs,
            overwrite=overwrite,
        )
    _show(out)


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="What demo, evaluate or benchmark wrote, or a run folder.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.html", help="The page; DIR/report.html if left out.")
    ] = None,
) -> None:
    """Write one self-contained HTML page about a comparison, a benchmark or a training run."""
    from selfcell.reporting.html import write_report

    typer.echo(f"The report is {write_report(folder, out=out)}")


def score(
    cells: CellsArgument,
    label: LabelOption,
    embedding: Annotated[
        list[str], typer.Option("--embedding", metavar="KEY", help="Key of obsm, of any model; give it again for more.")
    ],
    batch: BatchOption = None,
    by: Annotated[
        ScorerChoice, typer.Option(help="Whose scores: the two others are packages (extra scib; pip cz-benchmarks).")
    ] = ScorerChoice.selfcell,
    unintegrated: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Key of obsm before integration, to compare what batches explain with."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.csv", help="Write the table too.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Score embeddings of any model side by side: whether types are kept apart and, with --batch, batches mixed.

    Every score is better the higher, and 1 at best. Types: silhouette_label, clisi (neighbors are of one type),
    nmi_kmeans and ari_kmeans (clusters are types); bio_conservation is their mean. Batches: bras (silhouette of batches
    within a type), ilisi (neighbors are of many batches), graph_connectivity (cells of a type hang together) and
    pcr_comparison (batches explain less than in --unintegrated); batch_correction is their mean. total is 0.6 of the
    first and 0.4 of the second.

    Example: selfcell score embedded.h5ad --embedding X_selfcell --embedding X_pca --label cell_type --batch study
    """
    if out is not None:
        refuse_existing(out, overwrite=overwrite, kinds=(".csv",))
    from selfcell.core.atomic import write_text
    from selfcell.data.source import read_adata
    from selfcell.downstream.score_embeddings import score_embeddings

    table = score_embeddings(
        read_adata(cells), embedding, label_key=label, batch_key=batch, unintegrated=unintegrated, by=by.value
    )
    typer.echo(table.T.to_string(float_format="{:.3f}".format))
    if out is not None:
        write_text(out, table.to_csv())
        typer.echo(f"Wrote {out}.")


def _refuse_atlases(task: str, settings: dict[str, Any], cells: list[Path | None]) -> None:
    """Refuse atlases where something of obsm is predicted, before they are read."""
    from selfcell.data.atlas.index import is_atlas
    from selfcell.data.targets import refuse_atlas

    for path in cells:
        if task == "cross_modality" and path is not None and is_atlas(path):
            refuse_atlas(path, settings.get("target", "KEY"))


def _show(folder: Path) -> None:
    """Print the table and the verdict of a results folder, and write its page."""
    from selfcell.reporting.html import write_report
    from selfcell.reporting.terminal import print_results

    path = write_report(folder)
    print_results(folder)
    typer.echo(f"\nThe report is {path}")
