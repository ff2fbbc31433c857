"""The help of every command: it flows, and is shown as it is written."""

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from selfcell.cli.app import program


def _helps(command: Any, name: str) -> Iterator[tuple[str, str]]:
    yield name, command.help
    for parameter in command.params:
        # Older typers keep the help of arguments to themselves.
        if parameter.param_type_name == "option" or getattr(parameter, "help", None):
            yield f"{name}: {parameter.name}", parameter.help or ""
    for inner_name, inner in getattr(command, "commands", {}).items():
        yield from _helps(inner, f"{name} {inner_name}")


HELPS = dict(_helps(program(), "selfcell"))


def test_help_is_shown_as_it_is_written():
    shown = {name: Text.from_markup(text).plain for name, text in HELPS.items()}
    assert shown == HELPS  # org/name[@revision] would lose its end, taken for markup


def test_every_command_and_option_has_help():
    silent = {name for name, text in HELPS.items() if not text}
    assert {name for name in silent if not name.endswith("completion")} == set()


def test_a_line_of_the_source_is_no_line_of_the_terminal():
    commands = {name: text for name, text in HELPS.items() if ": " not in name}
    assert "selfcell benchmark run" in commands
    for text in commands.values():
        assert "\n" not in text.replace("\n\n", "")
