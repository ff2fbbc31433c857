"""Benchmarks that were stopped, hindered or merged: the same command comes to what an undisturbed run says."""

import runpy
from pathlib import Path

import pandas as pd
import pytest

from selfcell.benchmark import results
from selfcell.benchmark.run import run_benchmark

small = runpy.run_path(str(Path(__file__).with_name("test_run.py")))
written, QUIET, PLAN = small["written"], small["QUIET"], small["PLAN"]
folder, here = small["folder"], small["here"]

ONE = {"encoders": {"mae": {}}, "seeds": {"pretraining": [0], "finetuning": [0]}}
MEASURED = ["seconds", "peak_memory_mb"]


def assert_same(found, expected):
    pd.testing.assert_frame_equal(found.drop(columns=MEASURED), expected.drop(columns=MEASURED), check_dtype=False)


def study_of(folder):
    return folder / "out" / "studies" / "types" / "mae_on_made"


def with_more(folder):
    """Write the plan with a baseline more, by which the tables of its target are written anew."""
    more = {"types": {**PLAN["targets"]["types"], "baselines": ["pca_knn", "logistic_regression"]}}
    return written(folder, targets=more, **ONE)


def test_stopped_while_tables_of_a_target_are_replaced_the_old_stay_and_the_next_start_makes_the_new(
    folder, here, monkeypatch
):
    expected = run_benchmark(with_more(folder), out=folder / "undisturbed", workplace=QUIET)
    run_benchmark(written(folder, **ONE), out=folder / "out", workplace=QUIET)
    before = {path.name: path.read_bytes() for path in study_of(folder).iterdir()}
    plan = with_more(folder)
    with monkeypatch.context() as patch:

        def stopped(*_):
            raise KeyboardInterrupt

        patch.setattr(results, "write_json", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_benchmark(plan, out=folder / "out", workplace=QUIET)
    assert {path.name: path.read_bytes() for path in study_of(folder).iterdir()} == before
    here.clear()
    assert_same(run_benchmark(plan, out=folder / "out", workplace=QUIET), expected)
    assert here == []


def test_a_damaged_folder_of_a_target_is_made_anew_from_the_trials_that_are_kept(folder, here, caplog):
    plan = written(folder, **ONE)
    expected = run_benchmark(plan, out=folder / "out", workplace=QUIET)
    here.clear()
    for name in ("scores.csv", "study.json"):
        file = study_of(folder) / name
        file.write_bytes(file.read_bytes()[:100])
        assert_same(run_benchmark(plan, out=folder / "out", workplace=QUIET), expected)
        assert caplog.text.count("are made anew from the trials that are kept") == 1
        caplog.clear()
    assert here == [] and len(results.read_results(study_of(folder)).scores) == len(expected)
