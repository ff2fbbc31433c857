"""Benchmarks that were stopped, hindered or merged: the same command comes to what an undisturbed run says."""

import json
import runpy
from pathlib import Path

import pandas as pd
import pytest

from selfcell.benchmark import opened, pretrainings, results
from selfcell.benchmark.merge import merge_benchmarks
from selfcell.benchmark.opened import Benchmark
from selfcell.benchmark.results import read_results
from selfcell.benchmark.run import run_benchmark
from selfcell.benchmark.trials import Contest
from selfcell.core.errors import InputError

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
    assert here == [] and len(read_results(study_of(folder)).scores) == len(expected)


def test_what_other_machines_have_done_is_in_the_tables_after_a_merge(folder, here, monkeypatch):
    """A trial that failed here, a pre-training that failed here, and one that is unfinished here."""
    plan = written(folder, encoders={"mae": {}}, seeds={"pretraining": [0, 1, 2], "finetuning": [0]})
    expected = run_benchmark(plan, out=folder / "there", workplace=QUIET)
    run, pretrain, begin = Contest.run, pretrainings.pretrain, iter(range(10))

    def failing(self, trial):
        if trial.method == "pca_knn":
            raise RuntimeError("out of luck")
        return run(self, trial)

    def hindered(cells, settings, *, out, **options):
        if settings.training.seed == 1:
            raise InputError("The loss is not a number.")
        pretrain(cells, settings, out=out, **options)
        if settings.training.seed == 2:
            manifest = json.loads((out / "manifest.json").read_text())
            (out / "manifest.json").write_text(json.dumps({**manifest, "status": "training"}))
            (out / "begun here").touch()
            raise InputError("Odd.") if next(begin) else KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Contest, "run", failing)
        patch.setattr(pretrainings, "pretrain", hindered)
        with pytest.raises(KeyboardInterrupt):
            run_benchmark(plan, out=folder / "out", workplace=QUIET)
        failed = run_benchmark(plan, out=folder / "out", workplace=QUIET)
    assert failed["error"].notna().sum() == 3
    here.clear()
    assert merge_benchmarks(folder / "out", [folder / "there"]) > 0
    assert not list((folder / "out" / "runs").glob("*/begun here"))
    assert_same(run_benchmark(plan, out=folder / "out", workplace=QUIET), expected)
    assert here == []
    assert pd.read_parquet(folder / "out" / "scores.parquet")["error"].isna().all()
    assert read_results(study_of(folder)).scores["error"].isna().all()


def test_a_trial_that_failed_here_alone_is_in_the_tables_after_a_merge(folder, here, monkeypatch):
    plan = written(folder, **ONE)
    expected = run_benchmark(plan, out=folder / "there", workplace=QUIET)
    run = Contest.run

    def failing(self, trial):
        if trial.method == "pca_knn":
            raise RuntimeError("out of luck")
        return run(self, trial)

    with monkeypatch.context() as patch:
        patch.setattr(Contest, "run", failing)
        assert run_benchmark(plan, out=folder / "out", workplace=QUIET)["error"].notna().sum() == 1
    assert merge_benchmarks(folder / "out", [folder / "there"]) == 1
    assert_same(run_benchmark(plan, out=folder / "out", workplace=QUIET), expected)


def test_killed_between_the_first_files_of_a_folder_it_goes_on(folder, here, monkeypatch):
    plan = written(folder, **ONE)
    for name in ("write_text", "write_json"):
        with monkeypatch.context() as patch:

            def killed(*_):
                raise KeyboardInterrupt

            patch.setattr(opened, name, killed)
            with pytest.raises(KeyboardInterrupt):
                run_benchmark(plan, out=folder / "out", workplace=QUIET)
    assert [file.name for file in (folder / "out").iterdir()] == ["plan.toml"]
    assert merge_benchmarks(folder / "other", [folder / "out"]) == 0
    benchmark = Benchmark.open(plan, folder / "out")
    benchmark.claim(plan, benchmark.check_cells())
    assert {file.name for file in (folder / "out").iterdir()} == {"plan.toml", "cells.json"}
