"""Options that several commands share."""

import contextlib
import warnings
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from selfcell.core.errors import InputError


class ScaleChoice(StrEnum):
    """What ``--scale`` takes; the meanings are those of :data:`selfcell.data.counts.Scale`."""

    auto = "auto"
    counts = "counts"
    log1p = "log1p"


class ScorerChoice(StrEnum):
    """What ``selfcell score --by`` takes: :data:`selfcell.downstream.score_embeddings.SCORERS`."""

    selfcell = "selfcell"
    scib_metrics = "scib-metrics"
    cz_benchmarks = "cz-benchmarks"


CellsArgument = Annotated[
    Path,
    typer.Argument(
        metavar="CELLS", help="An .h5ad or .h5mu file or .zarr folder with raw counts; an atlas that fits in memory."
    ),
]
StreamArgument = Annotated[
    str,
    typer.Argument(
        metavar="CELLS",
        help="An .h5ad or .h5mu file or .zarr folder with raw counts; an atlas, or its URL (https://, s3://).",
    ),
]
WhereOption = Annotated[
    str | None, typer.Option("--where", metavar="QUERY", help="Which cells, such as \"cell_type == 'B cell'\".")
]
ModelArgument = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="Folder of a finished run, or org/name or org/name@revision on the Hub."),
]
RunOption = Annotated[Path, typer.Option("--out", metavar="RUN", help="Run folder to make.")]
FileOption = Annotated[Path, typer.Option("--out", metavar="FILE.h5ad", help="File to write.")]
CellsOutOption = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="FILE",
        help="File to write: an .h5ad; or an .h5mu, with all modalities, if the cells are of one.",
    ),
]
LabelOption = Annotated[str, typer.Option("--label", metavar="COLUMN", help="Column of obs with the cell type.")]
OptionalLabelOption = Annotated[
    str | None,
    typer.Option(
        "--label",
        metavar="COLUMN",
        help="Column of obs with the cell type, for tasks that need it. Default: cell_type, if it is there.",
    ),
]
TaskOption = Annotated[str, typer.Option("--task", help="Downstream task: selfcell list tasks.")]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="KEY",
        help="With --task cross_modality: key of obsm with what is predicted, as the setting.",
    ),
]
DonorOption = Annotated[
    str | None,
    typer.Option(
        "--donor",
        metavar="COLUMN",
        help="Column of obs with the donor; no donor is then on two sides of a split. Default: donor_id, if there.",
    ),
]
LayerOption = Annotated[
    str | None,
    typer.Option(
        "--layer", help="Layer with the raw counts, or X or raw.X. Default: layers['counts'], X or raw.X, as found."
    ),
]
ScaleOption = Annotated[
    ScaleChoice,
    typer.Option(
        "--scale", help="auto: whole counts. counts: fractional ones too. log1p: log-normalized, to be undone."
    ),
]
GeneColumnOption = Annotated[
    str | None, typer.Option("--gene-column", metavar="COLUMN", help="Column of var that names the genes.")
]
LowOverlapOption = Annotated[
    bool, typer.Option("--allow-low-overlap", help="Go on with under half of the encoder's genes.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="A setting, such as training.max_epochs=20; give as often as needed."),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="Begin from the settings of one of the paper's models; see `selfcell list presets`.",
    ),
]
BatchOption = Annotated[
    str | None,
    typer.Option("--batch", metavar="COLUMN", help="Column of obs with the batch: the experiment a cell comes from."),
]
ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE.toml", help="Settings file.")]


def gather_settings(
    config: Path | None,
    overrides: list[str] | None,
    options: dict[str, Any] | None = None,
    *,
    preset: str | None = None,
) -> dict[str, Any]:
    """Put settings together: the preset, over it the file, ``--set``, and the options of their own (where given).

    Parameters
    ----------
    config
        A TOML file.
    overrides
        ``a.b=c`` strings.
    options
        Addresses such as ``data.donor_key`` to values; None is not given.
    preset
        Name of a preset to begin from.
    """
    from selfcell.core.config import read_toml, with_overrides

    values = read_toml(config) if config else {}
    if preset is not None:
        from selfcell.training.presets import preset as read_preset

        beneath = read_preset(preset)
        values = {section: beneath.get(section, {}) | values.get(section, {}) for section in {**beneath, **values}}
    values = with_overrides(values, overrides or [])
    for address, value in (options or {}).items():
        section, _, name = address.partition(".")
        if value is not None:
            values.setdefault(section, {})[name] = value
    return values


def task_settings(
    task: str, config: Path | None, overrides: list[str] | None, *, target: str | None = None
) -> dict[str, Any]:
    """Put the settings of a downstream task together: a section of its name, as in the ``config.toml`` of a run.

    Its settings may be given without the section's name too, as ``training.max_epochs=5``.
    """
    from selfcell.core.config import read_toml, with_overrides

    values = read_toml(config) if config else {}
    content: dict[str, Any] = values.pop(task, {})
    values.pop("network", None)
    content |= values
    for text in overrides or []:
        bare = text.removeprefix(f"{task}.")
        if "." in bare.partition("=")[0]:
            content = with_overrides(content, [bare])
        else:
            content = with_overrides({task: content}, [f"{task}.{bare}"])[task]
    if target is not None:
        if task != "cross_modality":
            raise InputError(f"--target goes with --task cross_modality, but the task is {task}.")
        content["target"] = target
    return content


@contextlib.contextmanager
def resumable(hint: str = "Go on with the same command and --resume.") -> Iterator[None]:
    """Say how to go on when long work is interrupted."""
    # joblib says so itself, in words that are for programmers.
    warnings.filterwarnings("ignore", message=".*still being processed by the workers have been cancelled.*")
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\nInterrupted. {hint}", err=True)
        raise typer.Exit(130) from None
