"""``selfcell demo``, ``selfcell evaluate`` and ``selfcell report``."""

from pathlib import Path
from typing import Annotated

import typer

from selfcell.cli.options import (
    CellsArgument,
    ConfigOption,
    DonorOption,
    GeneColumnOption,
    LabelOption,
    LayerOption,
    LowOverlapOption,
    ModelArgument,
    OverwriteOption,
    ScaleChoice,
    ScaleOption,
    SetOption,
    gather_settings,
)


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

    Fetches 30 MB on first use. Three pre-trainings without labels on 70 % of the donors, then every way of using the
    encoders and every baseline on the donors never seen, with few labelled donors and with all.
    """
    from selfcell.benchmark.demo import run_demo

    run_demo(out, quick=quick, overwrite=overwrite)
    _show(out)


def evaluate(
    model: ModelArgument,
    cells: CellsArgument,
    label: LabelOption,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for tables and report.")],
    donor: DonorOption = None,
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="COLUMN", help="Column of obs with the batch, for maps.")
    ] = None,
    task: Annotated[str, typer.Option(help="Downstream task.")] = "cell_type",
    also: Annotated[
        list[Path] | None,
        typer.Option("--also", metavar="MODEL", help="A further pre-training that differs in its seed."),
    ] = None,
    regime: Annotated[list[str] | None, typer.Option(help="Regime to run; all if left out.")] = None,
    baseline: Annotated[list[str] | None, typer.Option(help="Baseline to run; all if left out.")] = None,
    labelled_donors: Annotated[
        list[int] | None, typer.Option(min=1, help="Compare with so many labelled donors too, besides with all.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of fine-tuning.")] = 3,
    test_fraction: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of cells to judge on, where the run set none aside.")
    ] = 0.3,
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

    Set donors aside when pre-training (--set data.test_fraction=0.3) and they are the ones judged on.

    Example: selfcell evaluate runs/mae cells.h5ad --label cell_type --donor donor_id --labelled-donors 2 --out judged
    """
    from selfcell.baselines import BASELINES
    from selfcell.benchmark.evaluate import evaluate as run
    from selfcell.downstream import REGIMES

    run(
        [str(model), *map(str, also or [])],
        cells,
        label_key=label,
        donor_key=donor,
        batch_key=batch,
        task=task,
        out=out,
        regimes=regime or tuple(REGIMES),
        baselines=baseline or tuple(BASELINES),
        labelled_donors=(*(labelled_donors or ()), None),
        n_seeds=seeds,
        test_fraction=test_fraction,
        settings=gather_settings(config, set_),
        layer=layer,
        scale=scale.value,
        gene_column=gene_column,
        allow_low_overlap=allow_low_overlap,
        jobs=jobs,
        overwrite=overwrite,
    )
    _show(out)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What demo or evaluate wrote, or a run folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.html", help="The page; DIR/report.html if left out.")
    ] = None,
) -> None:
    """Write one self-contained HTML page about a comparison or a training run."""
    from selfcell.report.html import write_report

    typer.echo(f"The report is {write_report(folder, out=out)}")


def _show(folder: Path) -> None:
    """Print the table and the verdict of a results folder, and write its page."""
    from selfcell.report.html import write_report
    from selfcell.report.terminal import print_results

    path = write_report(folder)
    print_results(folder)
    typer.echo(f"\nThe report is {path}")
