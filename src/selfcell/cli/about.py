"""``selfcell list``, ``selfcell doctor`` and ``--version``."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfcell.cli.options import (
    ConfigOption,
    LayerOption,
    PresetOption,
    ScaleChoice,
    SetOption,
    gather_settings,
)

if TYPE_CHECKING:
    from selfcell.core.config import SettingLine

_SECTIONS = ("tasks", "presets", "regimes", "baselines", "datasets", "programs", "settings")


def show_version(value: bool | None) -> bool:
    """Print the version and leave, if asked to."""
    if value:
        import importlib.metadata

        typer.echo(importlib.metadata.version("selfcell"))
        raise typer.Exit
    return False


def list_choices(
    what: Annotated[
        str | None, typer.Argument(help=f"One of {', '.join(_SECTIONS)}, or a preset; all but settings if left out.")
    ] = None,
    of: Annotated[
        str | None, typer.Argument(help="Settings alone: those of one task, such as `byol` or `cell_type`.")
    ] = None,
) -> None:
    """Show what can be chosen by name; `selfcell list settings` explains every setting."""
    from selfcell.core.errors import InputError, did_you_mean
    from selfcell.training.presets import preset_text, presets

    if what in presets():
        typer.echo(preset_text(str(what)))
        return
    if what is not None and what not in _SECTIONS:
        raise InputError(f"There is no list {what!r}. {did_you_mean(what, list(_SECTIONS))}")
    if what == "settings":
        _list_settings(of)
        return
    if of is not None:
        raise InputError(f"Only settings are listed by task: selfcell list settings {of}")
    from selfcell.baselines import BASELINES
    from selfcell.data.dataset_table import DATASETS
    from selfcell.data.program_sources import PROGRAM_SOURCES
    from selfcell.downstream import DOWNSTREAM_TASKS, REGIMES
    from selfcell.pretext import PRETEXT_TASKS

    tables = {
        "tasks": {
            "Pretext tasks (pretext.name)": PRETEXT_TASKS.summaries(),
            "Downstream tasks (--task)": DOWNSTREAM_TASKS.summaries(),
        },
        "presets": {"Presets (selfcell pretrain --preset)": presets()},
        "regimes": {"Regimes (--regime)": REGIMES},
        "baselines": {
            f"Baselines of {task} (--baseline)": registry.summaries() for task, registry in BASELINES.items()
        },
        "datasets": {"Data sets (selfcell datasets NAME)": {name: info.title for name, info in DATASETS.items()}},
        "programs": {
            "Gene programmes (selfcell programs NAME, pretext.programs)": {
                name: info.title for name, info in PROGRAM_SOURCES.items()
            }
        },
    }
    for section, content in tables.items():
        if what in (None, section):
            for title, entries in content.items():
                _print_entries(title, entries)


def _list_settings(of: str | None) -> None:
    from selfcell.core.config import describe
    from selfcell.core.errors import InputError, did_you_mean
    from selfcell.downstream import DOWNSTREAM_TASKS
    from selfcell.pretext import PRETEXT_TASKS
    from selfcell.pretext.base import PretextSettings
    from selfcell.pretext.two_views import TwoViewSettings
    from selfcell.training.settings import PretrainSettings

    if of is not None and of in PRETEXT_TASKS:
        _print_settings(f"selfcell pretrain with pretext.name={of}", describe(PRETEXT_TASKS[of].Settings, "pretext."))
        return
    tasks = [*PRETEXT_TASKS, *DOWNSTREAM_TASKS]
    if of is not None and of not in tasks:
        raise InputError(f"There is no task {of!r}. {did_you_mean(of, tasks)}")
    if of is None:
        shown = list(describe(PretrainSettings))
        _print_settings("selfcell pretrain: --set or a TOML file", shown)
        titled: dict[str, type[PretextSettings]] = {"a task of two views": TwoViewSettings}
        titled |= {f"pretext.name={name}": PRETEXT_TASKS[name].Settings for name in PRETEXT_TASKS}
        for title, settings in titled.items():
            lines = [
                line for line in describe(settings, "pretext.") if line not in shown and line.address != "pretext.name"
            ]
            shown += lines
            if lines:
                _print_settings(f"selfcell pretrain with {title}: what it has in addition", lines)
    for task in [of] if of is not None else DOWNSTREAM_TASKS:
        title = f"selfcell finetune, evaluate with --task {task}: --set or a TOML file, section [{task}]"
        _print_settings(title, describe(DOWNSTREAM_TASKS[task].Settings))


def _print_settings(title: str, lines: "Iterable[SettingLine]") -> None:
    _print_entries(title, {f"{line.address} = {line.default}": line.help for line in lines})


def _print_entries(title: str, entries: dict[str, str]) -> None:
    from rich.console import Console
    from rich.padding import Padding

    console = Console(highlight=False)
    console.print(f"\n{title}", style="bold", markup=False)
    for name, text in entries.items():
        console.print(f"  {name}", style="cyan", markup=False)
        console.print(Padding(text.replace("[", r"\["), (0, 0, 0, 6)))


def doctor(
    cells: Annotated[
        str | None,
        typer.Argument(metavar="[CELLS]", help="A file of cells, an atlas or its URL, to find out what limits on it."),
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    minibatch_size: Annotated[int | None, typer.Option("--minibatch-size", min=1, help="Cells of one step.")] = None,
    layer: LayerOption = None,
    scale: Annotated[
        ScaleChoice | None, typer.Option("--scale", help="What values are: auto, counts or log1p.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long to measure training speed.")] = 5.0,
) -> None:
    """Show what is installed and how fast this machine trains, and check that the cache can be written.

    With CELLS: how fast they are read, how fast the network takes them, which of the two limits, and what to do.

    Example: selfcell doctor atlas --minibatch-size 1024 --set data.loader_threads=2
    """
    options = {
        "training.minibatch_size": minibatch_size,
        "data.layer": layer,
        "data.scale": None if scale is None else scale.value,
    }
    settings = gather_settings(config, set_, options, preset=preset)
    if cells is not None:
        _show_pace(cells, settings, seconds)
        return
    if settings:
        from selfcell.core.errors import InputError

        raise InputError("Settings are measured on cells: selfcell doctor CELLS --set ...")
    _show_machine(seconds)


def _show_pace(cells: str, settings: dict[str, Any], seconds: float) -> None:
    from selfcell.core.config import build
    from selfcell.training.bottleneck import measure_pace
    from selfcell.training.settings import PretrainSettings

    pace = measure_pace(cells, build(PretrainSettings, settings), seconds=seconds)
    typer.echo(f"{'loader':>14}  {pace.loader:,.0f} cells/s from {pace.source}")
    layers = "-".join(map(str, pace.layers))
    typer.echo(
        f"{'network':>14}  {pace.network:,.0f} cells/s on {pace.device}, layers {layers}, minibatches of "
        f"{pace.minibatch_size:,}"
    )
    typer.echo(f"{'together':>14}  {pace.together:,.0f} cells/s")
    typer.echo(f"{'ratio':>14}  {pace.ratio:.2g} (loader to network)")
    for sentence in pace.advice():
        typer.echo(sentence)


def _show_machine(seconds: float) -> None:
    from selfcell.data.package_index import cache_folder
    from selfcell.training.run_folder import describe_environment
    from selfcell.training.speed import measure_training_speed

    environment = describe_environment()
    for name, value in (environment["versions"] | environment["machine"]).items():
        typer.echo(f"{name:>14}  {value}")
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".doctor"
    probe.touch()
    probe.unlink()
    typer.echo(f"{'cache':>14}  {folder} (can be written)")
    for n_genes, minibatch_size in ((2_000, 256), (19_331, 256)):
        speed = measure_training_speed(n_genes=n_genes, minibatch_size=minibatch_size, seconds=seconds / 2)
        typer.echo(f"{'training':>14}  {speed:,.0f} cells/s with {n_genes:,} genes, minibatches of {minibatch_size}")
