"""The program: its commands, what it logs, how it ends."""

import inspect
import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from selfcell.cli import about, atlas, benchmark, data, hub, judging, programs, training, using
from selfcell.cli.hdf5_noise import hushed
from selfcell.core.errors import InputError
from selfcell.core.write_errors import DISK_FULL

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with: selfcell demo",
)

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": judging.demo,
    "datasets": data.datasets,
    "programs": programs.programs,
    "pretrain": training.pretrain,
    "embed": using.embed,
    "annotate": using.annotate,
    "impute": using.impute,
    "predict": using.predict,
    "export": using.export,
    "finetune": training.finetune,
    "import-checkpoint": training.import_checkpoint,
    "push": hub.push,
    "pull": hub.pull,
    "evaluate": judging.evaluate,
    "score": judging.score,
    "report": judging.report,
    "list": about.list_choices,
    "doctor": about.doctor,
}
for name, function in COMMANDS.items():
    app.command(name)(function)
app.add_typer(atlas.app, name="atlas")
app.add_typer(benchmark.app, name="benchmark")


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log warnings only.")] = False,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=about.show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Self-supervised pre-training for single-cell RNA-seq: does it help on your data, and if so, here is the model.

    CELLS is an .h5ad or .h5mu file, or a .zarr folder in AnnData's layout, with raw counts; or an atlas. pretrain,
    embed and doctor stream it, also from a URL; the others read all of it.

    MODEL and RUN are folders that pretrain, finetune, import-checkpoint or pull made. MODEL may also name one on the
    Hugging Face Hub: org/name, or org/name@revision.
    """
    _set_up_logging(logging.WARNING if quiet else logging.INFO)


def program() -> Any:
    """Give the program as a command, whose help flows: a line of the source does not end a line of the terminal."""
    command = typer.main.get_command(app)
    _let_help_flow(command)
    return command


def main() -> None:
    """Run the program; what a user can mend ends in a message without a traceback and exit code 1."""
    try:
        with hushed():
            # Not app(): that puts a hook of its own in the place of the one that hushes.
            program()(prog_name="selfcell")
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # The reader of a pipe, such as head, has gone; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        # What the system says of a file, or of the disk. Anything else keeps its traceback.
        if error.filename is None and error.errno not in DISK_FULL:
            raise
        place = "" if error.filename is None else f": {error.filename}"
        print(f"Error: {error.strerror or error}{place}", file=sys.stderr)
        sys.exit(1)


def _let_help_flow(command: Any) -> None:
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for inner in getattr(command, "commands", {}).values():
        _let_help_flow(inner)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Name the level only where it calls for attention."""
        text = super().format(record)
        return f"{record.levelname.capitalize()}: {text}" if record.levelno >= logging.WARNING else text


def _set_up_logging(level: int) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(message)s"))
    logger = logging.getLogger("selfcell")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False
