"""Outcomes of trials on disk, one file each, so that what is done is never done again.

A file is named after a hash of all that determines its trial, and written whole or not at all. So folders of several
machines are merged by putting their files together.
"""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from selfcell.benchmark.trials import Failure, Outcome
from selfcell.core.atomic import atomic_path
from selfcell.core.errors import InputError
from selfcell.core.reading import check_fields
from selfcell.downstream.base import TaskScores

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
SUFFIX = ".npz"


class OutcomeStore:
    """A folder of outcomes.

    Parameters
    ----------
    folder
        It need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, work_id: str) -> bool:
        return self._file(work_id).exists()

    def __iter__(self) -> Iterator[str]:
        """Go through the ids of all outcomes."""
        return (file.stem for file in sorted(self.folder.glob(f"[!.]*{SUFFIX}")))

    def write(self, work_id: str, outcome: Outcome | Failure) -> None:
        """Keep an outcome, atomically."""
        head: dict[str, Any] = {"format_version": FORMAT_VERSION, "seconds": outcome.seconds}
        arrays: dict[str, np.ndarray] = {}
        if isinstance(outcome, Failure):
            head["error"] = outcome.error
        else:
            head |= {"scores": outcome.scores.values, "peak_memory_mb": outcome.peak_memory_mb}
            head["columns"] = {name: list(map(str, table.columns)) for name, table in outcome.tables.items()}
            arrays |= {f"resampled/{name}": draws for name, draws in outcome.scores.resampled.items()}
            for name, table in outcome.tables.items():
                arrays |= {f"tables/{name}/{place}": _plain(table.iloc[:, place]) for place in range(table.shape[1])}
        arrays["head"] = np.array(json.dumps(head))
        with atomic_path(self._file(work_id), durable=True) as temporary:
            # NumPy's signature takes every keyword for allow_pickle's.
            np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type] # any may be allow_pickle, for its stubs

    def read(self, work_id: str) -> Outcome | Failure | None:
        """Give an outcome, or None if there is none, or it is damaged: then its trial is run again.

        Raises
        ------
        InputError
            If the file is of a newer format.
        """
        file = self._file(work_id)
        try:
            # Read whole first: a file that is replaced meanwhile stays what it was.
            with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files}
            head = json.loads(str(arrays["head"]))
            check_fields(head, format_version=int, seconds=(int, float))
            if head["format_version"] > FORMAT_VERSION:
                raise InputError(f"{file} was written by a newer selfcell. Upgrade it.")
            return _outcome_of(head, arrays)
        except FileNotFoundError:
            return None
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001 - zip, NumPy and JSON each say in their own way that it is damaged
            logger.warning("%s is damaged (%s): its trial is run again.", file, error)
            return None

    def forget(self, work_id: str) -> None:
        """Delete an outcome."""
        self._file(work_id).unlink(missing_ok=True)

    def _file(self, work_id: str) -> Path:
        return self.folder / f"{work_id}{SUFFIX}"


def _outcome_of(head: dict[str, Any], arrays: dict[str, np.ndarray]) -> Outcome | Failure:
    if "error" in head:
        check_fields(head, error=str)
        return Failure(head["error"], head["seconds"])
    check_fields(head, scores=dict, columns=dict, peak_memory_mb=(int, float, type(None)))
    check_fields(head["scores"], **dict.fromkeys(head["scores"], (int, float)))
    resampled = {name.split("/", 1)[1]: draws for name, draws in arrays.items() if name.startswith("resampled/")}
    tables = {
        name: pd.DataFrame({column: arrays[f"tables/{name}/{place}"] for place, column in enumerate(columns)})
        for name, columns in head["columns"].items()
    }
    return Outcome(TaskScores(head["scores"], resampled), tables, head["seconds"], head["peak_memory_mb"])


def _plain(column: pd.Series) -> np.ndarray:
    """Give a column as an array that needs no pickle."""
    values: np.ndarray = column.to_numpy()
    return values if values.dtype.kind in "biuf" else np.asarray(column.astype(str), dtype=str)
