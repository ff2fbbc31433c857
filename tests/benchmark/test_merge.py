import json

import pytest

from selfcell.benchmark.merge import merge_benchmarks
from selfcell.benchmark.outcome_store import OutcomeStore
from selfcell.benchmark.trials import Failure, Outcome
from selfcell.core.errors import InputError
from selfcell.downstream.base import TaskScores


def made(folder, *, trials, runs=(), name="one", cells=None):
    for trial in trials:
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        (folder / "trials" / f"{trial}.npz").write_text(f"{trial} of {folder.name}")
    for run, status in runs:
        (folder / "runs" / run).mkdir(parents=True)
        manifest = {"format_version": 2, "status": status, "kind": "pretrained", "seed": 0, "versions": {}}
        manifest |= {"machine": {}, "data": {"fingerprint": "abc", "origin": "cells"}}
        (folder / "runs" / run / "manifest.json").write_text(json.dumps(manifest))
        (folder / "runs" / run / "encoder.safetensors").write_bytes(b"weights")
    folder.mkdir(exist_ok=True)
    (folder / "plan.toml").write_text(f'name = "{name}"')
    (folder / "cells.json").write_text(json.dumps(cells or {"blood": "abc"}))
    return folder


def test_what_others_have_done_is_taken_over_and_nothing_replaced(tmp_path):
    first = made(tmp_path / "a", trials=["t1", "t2"], runs=[("liu", "finished"), ("begun", "training")])
    second = made(tmp_path / "b", trials=["t2", "t3"], cells={"blood": "abc", "lung": "def"})
    out = tmp_path / "out"
    assert merge_benchmarks(out, [first, second]) == 3
    assert {file.name: file.read_text() for file in (out / "trials").iterdir()} == {
        "t1.npz": "t1 of a", "t2.npz": "t2 of a", "t3.npz": "t3 of b",
    }  # fmt: skip
    assert [run.name for run in (out / "runs").iterdir()] == ["liu"]
    assert json.loads((out / "cells.json").read_text()) == {"blood": "abc", "lung": "def"}
    assert (out / "plan.toml").read_text() == 'name = "one"'
    assert merge_benchmarks(out, [first, second]) == 0


def test_an_outcome_takes_the_place_of_a_failure(tmp_path):
    first, second = (made(tmp_path / name, trials=[]) for name in "ab")
    done = Outcome(TaskScores({"macro_f1": 0.5}, {}), {}, 1.0, None)
    for folder, outcomes in (
        (first, (Failure("killed", float("nan")), done)),
        (second, (done, Failure("killed", 1.0))),
    ):
        for name, outcome in zip(("t1", "t2"), outcomes, strict=True):
            OutcomeStore(folder / "trials").write(name, outcome)
    assert merge_benchmarks(first, [second]) == 1
    assert all(isinstance(OutcomeStore(first / "trials").read(name), Outcome) for name in ("t1", "t2"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "two"}, "is of the plan 'two', not of 'one'"),
        ({"cells": {"blood": "x"}}, "The cells of blood are not"),
    ],
)
def test_other_plans_and_other_cells_are_refused_before_anything_is_copied(tmp_path, changes, message):
    folders = [made(tmp_path / "a", trials=["t1"]), made(tmp_path / "b", trials=["t2"], **changes)]
    with pytest.raises(InputError, match=message):
        merge_benchmarks(tmp_path / "out", folders)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="is no folder of a benchmark"):
        merge_benchmarks(tmp_path / "out", [tmp_path])


def test_one_pre_training_with_two_outcomes_is_told(tmp_path, caplog):
    folders = [made(tmp_path / name, trials=[], runs=[("liu", "finished")]) for name in "abc"]
    for folder, weights in zip(folders, (b"one", b"one", b"two"), strict=True):
        (folder / "runs" / "liu" / "encoder.safetensors").write_bytes(weights)
    merge_benchmarks(folders[0], folders[1:])
    assert caplog.text.count("has other weights than") == 1 and str(folders[2]) in caplog.text
