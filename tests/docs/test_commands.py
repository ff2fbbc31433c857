"""Every command that a page shows is one of this version: its options are there, and so are its settings."""

import re
import runpy
import shlex
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer.main

from selfcell.benchmark.plan import Plan, planned_encoders, planned_studies
from selfcell.cli.app import app
from selfcell.cli.options import gather_settings, task_settings
from selfcell.core.config import build, with_overrides
from selfcell.downstream import DOWNSTREAM_TASKS
from selfcell.training.settings import PretrainSettings

pages = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "pages.py")))
ROOT = Path(__file__).parents[2]
PROGRAM = typer.main.get_command(app)
_INLINE = re.compile(r"`(selfcell [^`]+)`")
OWN_TASK = "pretext.name=replaced:Replaced"
"""Its page is tested by test_own_task.py."""
_SECTIONS = {"data", "network", "pretext", "training"}


def parse(arguments: list[str], *, whole: bool) -> tuple[str, dict]:
    """Have the program's own parser read a command; what is left out is missed only where it is ``whole``."""
    command, context = PROGRAM, PROGRAM.make_context("selfcell", list(arguments), resilient_parsing=not whole)
    path = []
    while getattr(command, "commands", None):
        left = [*context._protected_args, *context.args]
        if not left:
            break
        name, command, rest = command.resolve_command(context, left)
        if command is None:
            raise LookupError(f"There is no command {left[0]!r}.")
        path.append(name)
        context = command.make_context(name, rest, parent=context, resilient_parsing=not whole)
    return " ".join(path), context.params


def check_settings(command: str, given: dict) -> None:
    """Build the settings that a command's options come to, as the command does."""
    overrides = given.get("set_") or []
    if OWN_TASK in overrides:
        return
    if command in {"pretrain", "doctor"}:
        options = {"training.budget": given.get("budget"), "data.where": given.get("where")}
        build(PretrainSettings, gather_settings(None, overrides, options, preset=given.get("preset")))
    elif command in {"finetune", "evaluate"}:
        task = given["task"]
        build(DOWNSTREAM_TASKS[task].Settings, task_settings(task, None, overrides, target=given.get("target")))


@pytest.mark.parametrize("page", pages.PAGES)
def test_the_commands_of_a_page_are_those_of_the_program(page):
    faults = []
    for block in pages.blocks_of(pages.PAGES[page]):
        if block.language not in {"console", "bash"}:
            continue
        for words in pages.commands_of(block.code):
            arguments = pages.selfcell_arguments(words)
            if arguments is None:
                continue
            try:
                check_settings(*parse(arguments, whole=True))
            except Exception as fault:  # noqa: BLE001 - all faults of a page at once
                faults.append(f"{shlex.join(words)}\n    {type(fault).__name__}: {fault}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("page", pages.PAGES)
def test_commands_within_sentences_have_options_that_there_are(page):
    faults = []
    for text in _INLINE.findall(pages.PAGES[page].read_text(encoding="utf-8")):
        try:
            parse(shlex.split(text.replace("...", ""))[1:], whole=False)
        except Exception as fault:  # noqa: BLE001 - all faults of a page at once
            faults.append(f"{text}\n    {type(fault).__name__}: {fault}")
    assert not faults, "\n".join(faults)


def test_a_command_with_an_option_or_a_setting_that_is_not_there_is_found():
    with pytest.raises(Exception, match="--epochs"):
        parse(["pretrain", "cells.h5ad", "--out", "run", "--epochs", "3"], whole=True)
    with pytest.raises(Exception, match="out"):
        parse(["pretrain", "cells.h5ad"], whole=True)
    with pytest.raises(Exception, match="mask_ratio"):
        check_settings("pretrain", {"set_": ["pretext.mask_ratio=0.5"]})


@pytest.mark.parametrize("page", pages.PAGES)
def test_the_scripts_and_settings_files_of_a_page_can_be_read(page):
    for block in pages.blocks_of(pages.PAGES[page]):
        if block.language == "bash":
            checked = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True, check=False)
            assert checked.returncode == 0, checked.stderr
        if block.language == "toml":
            values = tomllib.loads(block.code)
            if values.keys() <= _SECTIONS:
                build(PretrainSettings, with_overrides(values, []))
            else:
                check_part_of_a_plan(values)


def check_part_of_a_plan(values):
    """A part of a plan must go with the rest of one; the module of the page's own task is not here."""
    whole = tomllib.loads((ROOT / "plans" / "demo.toml").read_text(encoding="utf-8"))
    for name, encoder in values.get("encoders", {}).items():
        if ":" in encoder.get("settings", {}).get("pretext", {}).get("name", ""):
            values["encoders"][name] = {}
    if encoders := list(values.get("encoders", {})):
        whole["targets"] = {name: {**target, "encoders": encoders} for name, target in whole["targets"].items()}
    plan = build(Plan, {**whole, **values})
    assert planned_studies(plan, planned_encoders(plan))
