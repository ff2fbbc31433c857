"""The page of a training run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfcell.core.errors import InputError
from selfcell.core.reading import read_object, read_table, read_text, reading
from selfcell.reporting import figures


def _is_plain(value: Any) -> bool:
    """Tell what a table of facts can show: what has parts of its own is in manifest.json."""
    return value not in (None, "") and not isinstance(value, dict | list)


_RELIED_ON = {"status": str, "kind": str, "seed": int, "data": dict, "versions": dict, "machine": dict}
"""Entries of ``manifest.json``, and their types."""
_RUN_FACTS = {
    "cells": "Cells trained on, again in each epoch",
    "kept_epoch": "Epoch whose weights were kept",
    "label_key": "Label",
    "origin": "Cells from",
    "seconds": "Seconds of training",
}


def _run_fact(name: str, value: Any) -> tuple[str, str]:
    called = _RUN_FACTS.get(name, name.removeprefix("n_").replace("_", " ").capitalize())
    if isinstance(value, float):
        return called, f"{value:.4g}"
    return called, f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def seconds_and_versions(seconds: Mapping[str, Any], about: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Give the rows of the last table of a page."""
    made = about["versions"] | about["machine"]
    return [*((f"Seconds, {name}", value) for name, value in seconds.items()), *made.items()]


def run_content(folder: Path) -> dict[str, Any]:
    """Give what the template shows of a run: facts, learning curves, settings.

    Raises
    ------
    InputError
        If the run has not finished an epoch, or a file is damaged.
    """
    manifest = read_object(folder / "manifest.json", **_RELIED_ON)
    if "imported" in manifest:
        raise InputError(
            f"{folder} was imported from a checkpoint, which has no curves to draw. Judge it: selfcell evaluate."
        )
    if not (folder / "log.csv").exists():
        raise InputError(f"{folder} has no log.csv: the run has not finished an epoch yet.")
    with reading(folder / "log.csv"):
        curves = figures.plot_curves(read_table(folder / "log.csv").assign(pretrain_seed=manifest["seed"]))
    outcome = manifest.get("fit") or {}
    facts = [("Status", manifest["status"]), ("Kind", manifest["kind"])]
    named = {name: manifest.get(name) for name in ("task", "start", "label_key", "target", "transform", "pretext")}
    facts += [_run_fact(name, value) for name, value in named.items() if _is_plain(value)]
    facts += [_run_fact(name, value) for name, value in {**manifest["data"], **outcome}.items() if _is_plain(value)]
    return {
        "title": f"Training run {folder.name}",
        "headline": f"The run is {manifest['status']}.",
        "caveats": [],
        "sentences": [],
        "rule": "",
        "metric_help": "",
        "facts": facts,
        "score_table": [],
        "interval_of": "",
        "beside": [],
        "budgets": [],
        "budget_word": "",
        "score_columns": [],
        "answers": [],
        "answer_sheet": None,
        "visible_from": "",
        "score_figures": [],
        "maps": [],
        "curves": curves,
        "class_figure": None,
        "confidence_rows": [],
        "feature_rows": [],
        "settings": {"config.toml": read_text(folder / "config.toml")},
        "made_by": seconds_and_versions({"training": outcome.get("seconds")}, manifest),
    }
