"""What a comparison leaves behind: a folder of tables that need no package of ours to be read.

=================== ===============================================================================
scores.csv          one row a score; the columns are :data:`SCORE_COLUMNS`
resamples.csv.gz    each score on draws of the test donors, one row a trial and score
confusion.csv.gz    cell types: cells by trial, test donor, true type and predicted type
classes.csv         cell types: F1 and recall of each, with its test cells, by method, budget and seeds
confidence.csv.gz   cell types: how sure the first encoder is of each test cell; the columns are
                    :data:`selfcell.downstream.confidence_scores.CONFIDENCE_COLUMNS`
unseen_types.csv.gz cell types: whether a type that is left out of the reference is noticed; the columns are
                    :data:`selfcell.downstream.confidence.UNSEEN_COLUMNS`
features.csv.gz     proteins and others that are predicted: Pearson correlation and squared error of each, by method
                    and budget, the mean over seeds, and the standard deviation of the correlation
curves.csv          loss by epoch and pre-training seed
map.csv.gz          cells in two dimensions, for the embedding and for PCA
study.json          data, split, settings, versions, seconds
=================== ===============================================================================
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from selfcell.core.atomic import atomic_path, write_json
from selfcell.core.errors import InputError
from selfcell.core.reading import check_fields, read_object, read_table, reading

FORMAT_VERSION = 2
GIVEN = "given"
"""In place of the corpus of a model that was trained elsewhere."""
UNFINISHED = ".trials"
"""Folder, beside the tables to come, that keeps the trials that are done until all are."""

SCORE_COLUMNS = (
    "dataset",
    "split",
    "task",
    "method",
    "budget",
    "n_labelled_donors",
    "n_labelled_cells",
    "metric",
    "value",
    "n_cells",
    "n_classes",
    "n_units",
    "test_cells",
    "pretext",
    "pretext_settings",
    "pretrain_seed",
    "finetune_seed",
    "seconds",
    "peak_memory_mb",
    "trial_id",
    "work_id",
    "error",
)
"""Columns of ``scores.csv``. ``method`` is a regime or a baseline; ``budget`` says how many donors were labelled;
``n_cells``, ``n_classes`` and ``n_units`` (donors, or blocks
of cells that stand for them) are those of the test truth, and ``test_cells`` is a hash of which cells and donors these
are: scores on others are not paired. ``peak_memory_mb`` is the most that the process held while the trial ran, the
cells included. What does not depend on the pre-training, or on a seed, is run once: its trials have the same
``work_id``. A trial that failed is one row with its ``error`` and without a ``value``."""

CONFUSION_COLUMNS = (
    "trial_id",
    "method",
    "budget",
    "pretrain_seed",
    "finetune_seed",
    "donor",
    "truth",
    "predicted",
    "n_cells",
)
"""Columns of ``confusion.csv.gz``. ``donor`` is the unit that is resampled for intervals."""


_NEEDED: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("format_version", "n_cells", "n_genes", "n_seeds"), int),
    **dict.fromkeys(("task", "headline_metric", "dataset"), str),
    **dict.fromkeys(("split", "settings", "seconds", "versions", "machine"), dict),
    "donor_key": (str, type(None)),
    "pretrain_seeds": list,
}
"""What ``study.json`` must say, and of which type."""
_DETAIL = re.compile(r"[a-z_]+")
NAMES = ("donor", "truth", "predicted", "label", "batch", "class", "feature")
"""Columns of names that come from data, and may look like numbers."""


@dataclass(frozen=True)
class StudyResults:
    """The tables of a comparison."""

    scores: pd.DataFrame
    resamples: pd.DataFrame
    confusion: pd.DataFrame
    curves: pd.DataFrame
    cell_map: pd.DataFrame
    details: dict[str, pd.DataFrame]
    """Further tables of the task, by name; written as ``NAME.csv.gz``."""
    about: dict[str, Any]

    def class_scores(self) -> pd.DataFrame:
        """Give F1 and recall of each type in the test truth, by trial."""
        is_hit = self.confusion["truth"] == self.confusion["predicted"]
        counts = self.confusion.assign(hits=self.confusion["n_cells"].where(is_hit, 0))
        trial = ["trial_id", "method", "budget", "pretrain_seed", "finetune_seed"]
        true = counts.groupby([*trial, "truth"], sort=False).agg(n_cells=("n_cells", "sum"), hits=("hits", "sum"))
        predicted = counts.groupby([*trial, "predicted"], sort=False)["n_cells"].sum().rename_axis([*trial, "truth"])
        n_predicted = predicted.reindex(true.index, fill_value=0)
        true["f1"] = 2 * true["hits"] / (true["n_cells"] + n_predicted)
        true["recall"] = true["hits"] / true["n_cells"]
        return true.drop(columns="hits").reset_index().rename(columns={"truth": "class"})

    def write(self, folder: Path) -> None:
        """Write all tables, each atomically; ``study.json`` last."""
        tables = self._tables() | ({} if self.confusion.empty else {"classes.csv": self.class_scores()})
        for name, table in tables.items():
            with atomic_path(folder / name) as temporary:
                table.to_csv(temporary, index=False, float_format="%.6g")
        about = {**self.about, "details": list(self.details)}
        about["n_rows"] = {name: len(getattr(self, name)) for name in ("scores", "resamples", "confusion")}
        write_json(folder / "study.json", {"format_version": FORMAT_VERSION, **about})

    def _tables(self) -> dict[str, pd.DataFrame]:
        return {
            "scores.csv": self.scores,
            "resamples.csv.gz": self.resamples,
            "confusion.csv.gz": self.confusion,
            "curves.csv": self.curves,
            "map.csv.gz": self.cell_map,
            **{f"{name}.csv.gz": table for name, table in self.details.items()},
        }


def read_results(folder: Path) -> StudyResults:
    """Read a results folder.

    Raises
    ------
    InputError
        If it is none, is of a newer format, or a table is missing or damaged.
    """
    file = folder / "study.json"
    if not file.exists() and (studies := sorted(folder.glob("studies/[!.]*/[!.]*/study.json"))):
        listed = ", ".join(str(study.parent) for study in studies[:3]) + (", ..." if len(studies) > 3 else "")
        raise InputError(
            f"{folder} is of a benchmark that is not finished: go on with it. A page can be made of what is: {listed}."
        )
    if not file.exists() and (folder / UNFINISHED).is_dir():
        raise InputError(f"{folder} is of an evaluation that is not finished: give its command again to go on.")
    if not file.exists():
        raise InputError(
            f"{folder} has no study.json, so it is not a results folder. Make one with `selfcell evaluate` or "
            "`selfcell demo`."
        )
    about = _read_about(file)
    text = dict.fromkeys(("trial_id", "work_id", "test_cells", *NAMES), str)
    tables = {
        name: read_table(folder / file, dtype=text, keep_default_na=False, na_values=[""])
        for name, file in (
            ("scores", "scores.csv"),
            ("resamples", "resamples.csv.gz"),
            ("confusion", "confusion.csv.gz"),
            ("curves", "curves.csv"),
            ("cell_map", "map.csv.gz"),
            *((name, f"{name}.csv.gz") for name in about.get("details", ())),
        )
    }
    _check_tables(tables, about, folder)
    details = {name: tables.pop(name) for name in about.pop("details", ())}
    return StudyResults(**tables, details=details, about=about)


def _read_about(file: Path) -> dict[str, Any]:
    folder = file.parent
    about = read_object(file, **_NEEDED)
    with reading(file):
        if any(not isinstance(name, str) or not _DETAIL.fullmatch(name) for name in about.get("details", ())):
            raise ValueError(f"details cannot be {about['details']}")
        check_fields(about, **{name: list for name in ("pretraining", "weights", "networks") if name in about})
        if (n_rows := about.get("n_rows")) is not None:
            check_fields(n_rows, **dict.fromkeys(("scores", "resamples", "confusion"), int))
    if about["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{folder} was written by a newer selfcell (results format {about['format_version']}). Upgrade it."
        )
    if about["format_version"] < FORMAT_VERSION:
        raise InputError(
            f"{folder} has results of an older format ({about['format_version']}). Run the comparison again."
        )
    return dict(about)


def _check_tables(tables: dict[str, pd.DataFrame], about: dict[str, Any], folder: Path) -> None:
    for name, n_rows in about.get("n_rows", {}).items():
        if len(tables[name]) != n_rows:
            raise InputError(
                f"{folder} is damaged: its table of {name} has {len(tables[name]):,} rows, but was written with "
                f"{n_rows:,}. Copy it again, or run the comparison again."
            )
    lost = sorted({"metric", "value", "method", "budget", "trial_id"} - set(tables["scores"]))
    if lost or not pd.api.types.is_numeric_dtype(tables["scores"]["value"]):
        raise InputError(f"{folder} is damaged: scores.csv lacks {', '.join(lost) or 'numbers in its column value'}.")


def trial_id(**determinants: Any) -> str:
    """Give a short hash of all that determines a trial.

    It begins with a letter: readers of CSV take 4e6672730695 for a number, and pandas 2.3 crashes over it.
    """
    text = json.dumps(determinants, sort_keys=True, default=str)
    return f"t{hashlib.sha256(text.encode()).hexdigest()[:12]}"
