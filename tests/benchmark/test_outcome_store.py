"""Outcomes come back as they were written, and nothing is half there."""

import numpy as np
import pandas as pd
import pytest

from selfcell.benchmark import outcome_store
from selfcell.benchmark.outcome_store import OutcomeStore
from selfcell.benchmark.trials import Failure, Outcome
from selfcell.core.errors import InputError
from selfcell.downstream.base import TaskScores

OUTCOME = Outcome(
    TaskScores({"macro_f1": 0.5, "mse": float("nan")}, {"macro_f1": np.array([0.4, 0.6, np.nan])}),
    {"confusion": pd.DataFrame({"truth": ["B", "é/T"], "n_cells": [3, 4]}), "features": pd.DataFrame({"mse": [0.1]})},
    12.5,
    None,
)


def test_an_outcome_comes_back(tmp_path):
    store = OutcomeStore(tmp_path / "trials")
    assert list(store) == [] and store.read("abc") is None and "abc" not in store
    store.write("abc", OUTCOME)
    found = store.read("abc")
    assert "abc" in store and list(store) == ["abc"]
    assert found.scores.values["macro_f1"] == 0.5 and np.isnan(found.scores.values["mse"])
    np.testing.assert_array_equal(found.scores.resampled["macro_f1"], OUTCOME.scores.resampled["macro_f1"])
    for name, table in OUTCOME.tables.items():
        pd.testing.assert_frame_equal(found.tables[name], table, check_dtype=False)
    assert found.seconds == 12.5 and found.peak_memory_mb is None


def test_a_failure_comes_back_and_can_be_forgotten(tmp_path):
    store = OutcomeStore(tmp_path)
    store.write("abc", Failure("ValueError: <no>", 0.1))
    assert store.read("abc") == Failure("ValueError: <no>", 0.1)
    store.forget("abc")
    store.forget("abc")
    assert store.read("abc") is None


def test_writing_that_fails_leaves_nothing(tmp_path, monkeypatch):
    store = OutcomeStore(tmp_path)

    def fill_the_disk(path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outcome_store.np, "savez_compressed", fill_the_disk)
    with pytest.raises(OSError, match="No space"):
        store.write("abc", OUTCOME)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"PK no zip", "cut"])
def test_the_trial_of_a_damaged_file_is_run_again(tmp_path, content, caplog):
    store = OutcomeStore(tmp_path)
    store.write("abc", OUTCOME)
    file = tmp_path / "abc.npz"
    file.write_bytes(file.read_bytes()[:-50] if content == "cut" else content)
    assert store.read("abc") is None
    assert "abc.npz is damaged" in caplog.text and "its trial is run again" in caplog.text
    store.write("abc", OUTCOME)
    assert store.read("abc").scores.values["macro_f1"] == 0.5


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    store = OutcomeStore(tmp_path)
    monkeypatch.setattr(outcome_store, "FORMAT_VERSION", 99)
    store.write("abc", OUTCOME)
    monkeypatch.undo()
    with pytest.raises(InputError, match="newer selfcell"):
        store.read("abc")
