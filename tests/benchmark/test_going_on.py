"""Benchmarks that were stopped, hindered or merged: the same command comes to what an undisturbed run says."""

import errno
import io
import json
import runpy
from pathlib import Path

import anndata
import pandas as pd
import pytest

from selfcell.baselines.base import ComparedCells
from selfcell.benchmark import opened, pretrainings, results, run
from selfcell.benchmark.merge import merge_benchmarks
from selfcell.benchmark.opened import Benchmark
from selfcell.benchmark.results import read_results
from selfcell.benchmark.run import run_benchmark
from selfcell.benchmark.summaries import count_failed
from selfcell.benchmark.table_files import write_tables
from selfcell.benchmark.trials import Contest, Workplace
from selfcell.core.cluster import dask_client
from selfcell.core.errors import InputError
from selfcell.core.write_errors import CannotWriteError
from selfcell.reporting.benchmark_page import write_benchmark_page
from selfcell.reporting.html import write_report
from selfcell.training.faults import explained
from selfcell.training.settings import TrainingSettings

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
    assert failed["error"].notna().sum() == 3 and count_failed(failed) == 3
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


SHORT = {
    "a full disk in training": OSError(errno.ENOSPC, "No space left on device"),
    "no memory in training": MemoryError("Unable to allocate 9 TiB"),
    "no right to write": CannotWriteError("run cannot be written: Permission denied.", errno.EACCES),
}


def test_a_want_of_disk_or_memory_ends_a_benchmark_and_is_not_remembered(folder, here, monkeypatch):
    plan = written(folder, **ONE)
    run = Contest.run
    for fault in SHORT.values():

        def short(*_, fault=fault, **__):
            with explained(TrainingSettings(), checkpoint=folder / "run" / "checkpoints" / "last.safetensors"):
                raise fault

        with monkeypatch.context() as patch:
            patch.setattr(pretrainings, "pretrain", short)
            with pytest.raises(
                InputError, match=r"Pre-training made-mae-seed_0.* was stopped\. .* same command"
            ) as told:
                run_benchmark(plan, out=folder / "out", workplace=QUIET)
        assert str(fault) in str(told.value) and "--resume" not in str(told.value)
        assert "--overwrite" not in str(told.value) and not list((folder / "out").rglob("*.failed.json"))
    full = CannotWriteError("net.safetensors cannot be written: No space left on device. Make room.", errno.ENOSPC)

    def no_room(self, trial):
        if trial.method == "pca_knn":
            raise full
        return run(self, trial)

    with monkeypatch.context() as patch:
        patch.setattr(Contest, "run", no_room)
        with pytest.raises(CannotWriteError, match=r"pca_knn, all donors, seed 0 was stopped\. net.safetensors"):
            run_benchmark(plan, out=folder / "out", workplace=QUIET)
    with monkeypatch.context() as patch:

        def no_room_for_tables(*_):
            raise full

        patch.setattr(results, "write_json", no_room_for_tables)
        with pytest.raises(CannotWriteError, match=r"net.safetensors cannot be written"):
            run_benchmark(plan, out=folder / "out", workplace=QUIET)
    assert run_benchmark(plan, out=folder / "out", workplace=QUIET)["error"].isna().all()
    assert len(here) == 4


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


def test_what_several_share_fails_once(folder, here, monkeypatch):
    """One baseline of two encoders and of four pairs of seeds, and a pre-training of two targets."""
    targets = {name: {**PLAN["targets"]["types"], "regimes": ["zero_shot"]} for name in ("types", "again")}
    targets["again"]["baselines"] = []
    plan = written(folder, targets=targets)
    run, pretrain = Contest.run, pretrainings.pretrain

    def failing(self, trial):
        if trial.method == "pca_knn":
            raise RuntimeError("out of luck")
        return run(self, trial)

    def hindered(cells, settings, **options):
        if settings.training.seed == 1 and settings.pretext.name == "byol":
            raise InputError("The loss is not a number.")
        return pretrain(cells, settings, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Contest, "run", failing)
        patch.setattr(pretrainings, "pretrain", hindered)
        scores = run_benchmark(plan, out=folder / "out", workplace=QUIET)
    assert scores["error"].notna().sum() > 6 and count_failed(scores) == 2
    write_benchmark_page(folder / "out", folder / "report.html")
    assert "2 trials failed, and nothing here is said of them" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_csv_that_is_there_is_kept_up_to_date(folder):
    tables = {name: pd.DataFrame({"value": [1.0, 2.0]}) for name in ("scores", "verdicts")}
    write_tables(tables, folder, csv=False)
    assert not list(folder.glob("*.csv"))
    write_tables({"scores": tables["scores"]}, folder, csv=True)
    write_tables({name: table.head(1) for name, table in tables.items()}, folder, csv=False)
    assert [file.name for file in folder.glob("*.csv")] == ["scores.csv"]
    assert len(pd.read_csv(folder / "scores.csv")) == 1


def test_failures_of_targets_that_are_not_asked_stay(folder, here, monkeypatch):
    types = PLAN["targets"]["types"]
    # Of other settings, so that the two share no trial.
    other = {**types, "settings": {"n_neighbors": 3}}
    plan = written(folder, targets={"types": types, "others": other}, **ONE)
    run = Contest.run

    def failing(self, trial):
        if trial.method == "zero_shot":
            raise RuntimeError("no")
        return run(self, trial)

    with monkeypatch.context() as patch:
        patch.setattr(Contest, "run", failing)
        run_benchmark(plan, out=folder / "out", workplace=QUIET)
    here.clear()
    scores = run_benchmark(plan, out=folder / "out", workplace=QUIET, retry_failed=True, only=["types"])
    assert [trial.method for trial in here] == ["zero_shot"]
    assert scores.loc[scores["error"].notna(), "target"].unique().tolist() == ["others"]
    here.clear()
    scores = run_benchmark(plan, out=folder / "out", workplace=QUIET)
    assert here == [] and scores.loc[scores["error"].notna(), "target"].unique().tolist() == ["others"]


def test_a_map_that_cannot_be_drawn_and_what_a_baseline_cannot_make_cost_no_target(folder, here, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("no room")

    monkeypatch.setattr("selfcell.benchmark.study.map_cells", broken)
    monkeypatch.setattr(ComparedCells, "principal_components", property(broken))
    more = {"types": {**PLAN["targets"]["types"], "baselines": ["pca_knn", "logistic_regression"]}}
    scores = run_benchmark(written(folder, targets=more, **ONE), out=folder / "out", workplace=QUIET)
    failed = scores[scores["error"].notna()]
    assert set(failed["method"]) == {"pca_knn"} and set(failed["error"]) == {"RuntimeError: no room"}
    assert "The map of cells is left out: no room" in caplog.text


def test_a_scheduler_that_is_gone_ends_the_command_and_leaves_the_tables(folder, here, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("selfcell.core.cluster._SECONDS_TO_WAIT", 1)
    run_benchmark(written(folder, **ONE), out=folder / "out", workplace=QUIET)
    before = {file.name: file.read_bytes() for file in (folder / "out").glob("*.parquet")}
    gone = Workplace(dask="tcp://127.0.0.1:9", keep_going=True, show_progress=False)
    with pytest.raises(InputError, match=r"There is no Dask scheduler at 'tcp://127\.0\.0\.1:9'"):
        run_benchmark(with_more(folder), out=folder / "out", workplace=gone)
    # As if it were gone after the first look.
    monkeypatch.setattr("selfcell.benchmark.run.dask_client", lambda _: io.BytesIO())
    monkeypatch.setattr("selfcell.benchmark.trials._in_processes", lambda *_, **__: dask_client(gone.dask))
    with pytest.raises(InputError, match="There is no Dask scheduler"):
        run_benchmark(with_more(folder), out=folder / "out", workplace=gone)
    assert {file.name: file.read_bytes() for file in (folder / "out").glob("*.parquet")} == before


def test_a_cluster_whose_workers_come_late_is_waited_for(folder, monkeypatch, caplog):
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(n_workers=0, threads_per_worker=1, processes=False, dashboard_address=":0")
    with cluster, caplog.at_level("INFO", "selfcell"):
        # As a queue does it: workers begin where work waits, and none before.
        cluster.adapt(minimum=0, maximum=1, interval="200ms")
        workplace = Workplace(dask=cluster.scheduler_address, keep_going=True, show_progress=False)
        scores = run_benchmark(written(folder, **ONE), out=folder / "out", workplace=workplace)
    assert scores["error"].isna().all() and "No worker has joined" in caplog.text


def test_an_edited_file_of_gene_programmes_is_another_pre_training(folder, here, monkeypatch):
    programs = folder / "sets.gmt"
    programs.write_text(
        "".join(f"set{n}\tx\t" + "\t".join(f"gene{g}" for g in range(n, n + 20)) + "\n" for n in (0, 30))
    )
    encoder = {"settings": {"pretext": {"mask": "programs", "programs": "sets.gmt"}}}
    made = anndata.read_h5ad(folder / "made.h5ad")
    made.var_names = [f"gene{place}" for place in range(60)]
    made.var = made.var[[]]
    made.write_h5ad(folder / "made.h5ad")
    plan = written(folder, **{**ONE, "encoders": {"programs": encoder}})
    # Beside the plan, wherever the command is given.
    monkeypatch.chdir("/")
    first = run_benchmark(plan, out=folder / "out", workplace=QUIET)
    assert first["error"].isna().all() and len(list((folder / "out" / "runs").iterdir())) == 1
    programs.write_text(programs.read_text().replace("gene5\t", ""))
    second = run_benchmark(plan, out=folder / "out", workplace=QUIET)
    assert second["error"].isna().all() and len(list((folder / "out" / "runs").iterdir())) == 2
    programs.unlink()
    with pytest.raises(
        InputError, match=r"pretext\.programs 'sets\.gmt' is no file beside the plan .* nor a named source"
    ):
        run_benchmark(plan, out=folder / "out", workplace=QUIET)


def test_tables_of_two_runs_make_no_page(folder, here, monkeypatch):
    plan = written(folder, **ONE)
    run_benchmark(plan, out=folder / "out", workplace=QUIET)
    with_more(folder)

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "write_json", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_benchmark(plan, out=folder / "out", workplace=QUIET)
    with pytest.raises(InputError, match=r"has tables of two runs: \w+\.parquet is not .* Run the benchmark again"):
        write_report(folder / "out")
    run_benchmark(plan, out=folder / "out", workplace=QUIET)
    assert write_report(folder / "out").exists()
    # The one that was stopped tells nothing, and the other two are alike.
    (session,) = json.loads((folder / "out" / "benchmark.json").read_text())["sessions"]
    assert session["times"] == 2 and session["seconds"] > 0 and session["versions"]["torch"]
