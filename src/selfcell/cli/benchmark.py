"""``selfcell benchmark``: run a plan, and write one for cells of one's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from selfcell.cli.options import (
    BatchOption,
    DonorOption,
    GeneColumnOption,
    LayerOption,
    OptionalLabelOption,
    OverwriteOption,
    ScaleChoice,
    ScaleOption,
    resumable,
)
from selfcell.cli.written_files import refuse_existing

if TYPE_CHECKING:
    from selfcell.benchmark.trials import Workplace


class _RunsPlans(TyperGroup):
    """A group of commands of which ``run`` may be left out: ``selfcell benchmark PLAN.toml``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["run", *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


app = typer.Typer(
    cls=_RunsPlans,
    no_args_is_help=True,
    help="Run a whole benchmark from a plan: selfcell benchmark PLAN.toml --out DIR. Safe to stop and to start again. "
    "Its options, such as --dry-run, --only, --jobs and --dask, are told by selfcell benchmark run --help.",
)

PlanArgument = Annotated[Path, typer.Argument(metavar="PLAN.toml", help="What to compare: a plan.")]


@app.command("run")
def run(
    plan: PlanArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the results, which it goes on with.")],
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="TARGET", help="Run this target of the plan; give as often as needed."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what is to be run, with hours and memory, and run nothing.")
    ] = False,
    list_trials: Annotated[
        bool, typer.Option("--list-trials", help="With --dry-run: list every trial, with its seeds, too.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run what failed once more.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Write the tables as CSV too, beside Parquet.")] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes; the number of cores, but four at most, if left out. With --dask: how much is handed out "
            "at once; as much as has workers at the start, if left out.",
        ),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option("--dask", metavar="ADDRESS", help="Run on the workers of this Dask scheduler, who share DIR."),
    ] = None,
) -> None:
    """Run what is missing of a plan; the word run may be left out.

    Every trial that is done is kept at once. Stopped or killed, the same command goes on with what is missing. A trial
    that fails is a row with its error.

    Example: selfcell benchmark plans/demo.toml --out demo-benchmark
    """
    from selfcell.benchmark.trials import Workplace
    from selfcell.core.errors import InputError

    if list_trials and not dry_run:
        raise InputError("--list-trials goes with --dry-run.")
    workplace = Workplace(jobs=jobs, dask=dask, keep_going=True)
    if dry_run:
        _show_estimate(plan, out, only or (), workplace, list_trials=list_trials)
        return
    from selfcell.benchmark.run import run_benchmark

    with resumable("What is done is kept: give the same command again to go on."):
        scores = run_benchmark(plan, out=out, only=only or (), workplace=workplace, retry_failed=retry_failed, csv=csv)
    from selfcell.benchmark.summaries import count_failed
    from selfcell.reporting.html import write_report
    from selfcell.reporting.verdicts import print_verdicts

    print_verdicts(out)
    typer.echo(f"The report is {write_report(out)}")
    n_trials = scores.loc[scores["error"].isna(), "trial_id"].nunique()
    typer.echo(f"{n_trials:,} trials are in {out / 'scores.parquet'}; what several share was run once.")
    if n_failed := count_failed(scores):
        typer.echo(f"{n_failed:,} failed: column error. Mend the cause, and try them again with --retry-failed.")


@app.command("init")
def init(
    cells: Annotated[Path, typer.Argument(metavar="CELLS", help="A file of cells with raw counts.")],
    out: Annotated[Path, typer.Option("--out", metavar="PLAN.toml", help="The plan to write.")],
    label: OptionalLabelOption = None,
    donor: DonorOption = None,
    batch: BatchOption = None,
    layer: LayerOption = None,
    scale: ScaleOption = ScaleChoice.auto,
    gene_column: GeneColumnOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a plan for cells of your own, with its choices explained.

    Example: selfcell benchmark init cells.h5ad --label cell_type --donor donor_id --out plan.toml
    """
    from selfcell.benchmark.starter_plan import starter_plan
    from selfcell.core.atomic import write_text

    refuse_existing(out, overwrite=overwrite, kinds=(".toml",))
    text = starter_plan(
        cells,
        label_key=label,
        donor_key=donor,
        batch_key=batch,
        layer=layer,
        scale=scale.value,
        gene_column=gene_column,
        beside=out.parent,
    )
    write_text(out, text)
    typer.echo(f"Wrote {out}. What it would take: selfcell benchmark {out} --out DIR --dry-run")


@app.command("merge")
def merge(
    others: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of one plan, of other machines.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to add them to; it need not exist.")],
) -> None:
    """Put together what several machines have done of one plan. Run the benchmark on DIR afterwards for its tables.

    Example: selfcell benchmark merge bench-a bench-b --out bench
    """
    from selfcell.benchmark.merge import merge_benchmarks

    n_taken = merge_benchmarks(out, others)
    typer.echo(f"{n_taken:,} trials taken over. For the tables: selfcell benchmark PLAN.toml --out {out}")


def _show_estimate(plan: Path, out: Path, only: Sequence[str], workplace: "Workplace", *, list_trials: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from selfcell.benchmark.estimate import estimate
    from selfcell.benchmark.opened import Benchmark
    from selfcell.core.words import counted, in_words

    benchmark = Benchmark.open(plan, out, only=only)
    benchmark.check_cells()
    benchmark.check_models()
    benchmark.check_targets()
    found = estimate(benchmark, workplace)
    table = Table("what", "runs", "done", "takes", title=benchmark.plan.title or benchmark.plan.name)
    for row in found.table.itertuples():
        table.add_row(str(row.what), str(row.n_runs), str(row.n_done), in_words(3600 * float(str(row.hours))))
    if list_trials:
        for trial in found.trials.itertuples():
            seeds = {"pre-training seed": trial.pretrain_seed, "seed": trial.finetune_seed}
            told = "".join(f", {name} {seed}" for name, seed in seeds.items() if seed != -1)
            typer.echo(f"{trial.what}, {trial.budget}{told}: {in_words(float(str(trial.seconds)))}")
    Console().print(table)
    n_done, n_pretrainings = int(found.table["n_done"].sum()), len(benchmark.pretrainings())
    typer.echo(
        f"{counted(n_pretrainings, 'pre-training')} and {counted(len(found.trials), 'trial')}, {n_done:,} of them done"
        f"{'' if list_trials else '; one by one: --list-trials'}."
    )
    jobs = workplace.n_jobs(len(found.table))
    typer.echo(
        f"About {in_words(3600 * found.hours(jobs))} on this machine with {jobs} processes of up to "
        f"{found.memory_gb:.1f} GB each. Rough: within a factor of two or three, "
        "and a minute or two for reading the cells, tables and the page comes to it."
    )
