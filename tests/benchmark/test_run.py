"""Benchmarks: run once whatever happens, and refused where results would be of something else."""

import gc
import json
import os
import signal
import sys
import time
import tomllib
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata
import cloudpickle
import numpy as np
import pandas as pd
import pytest
import tomli_w

import selfcell
from selfcell.benchmark import pretrainings, trials
from selfcell.benchmark.estimate import estimate
from selfcell.benchmark.opened import Benchmark
from selfcell.benchmark.results import read_results
from selfcell.benchmark.run import PRETRAINING, STUDY, run_benchmark
from selfcell.benchmark.trials import Contest, Failure, Trial, Workplace
from selfcell.core.config import with_overrides
from selfcell.core.errors import InputError
from selfcell.data.atlas.build import build_atlas
from selfcell.data.simulate import simulate_cells
from selfcell.downstream.base import SupervisedSettings
from selfcell.reporting.benchmark_page import write_benchmark_page
from selfcell.training.pretrain import pretrain

PLAN = {
    "name": "small",
    "seeds": {"pretraining": [0, 1], "finetuning": [0, 1]},
    "cells": {"made": {"source": "made.h5ad", "label": "cell_type", "donor": "donor", "batch": "batch"}},
    "corpora": {
        "made": {
            "cells": "made",
            "settings": {
                "data": {"donor_key": "donor", "test_fraction": 0.3},
                "training": {"max_epochs": 2, "minibatch_size": 32, "device": "cpu"},
                "network": {"hidden_sizes": [16], "n_latent": 8},
            },
        }
    },
    "encoders": {"mae": {}, "byol": {"settings": {"pretext": {"name": "byol"}}}},
    "targets": {
        "types": {
            "title": "Types",
            "cells": "made",
            "regimes": ["zero_shot", "fine_tuned", "from_scratch"],
            "baselines": ["pca_knn"],
            "budgets": [{"max_epochs": 1}],
        }
    },
}
TOOK = ["seconds", "peak_memory_mb", "p_holm"]
QUIET = Workplace(jobs=1, keep_going=True, show_progress=False)


@pytest.fixture
def folder(tmp_path):
    simulate_cells(n_cells=240, n_genes=60, n_types=3, n_donors=6, seed=0).write_h5ad(tmp_path / "made.h5ad")
    return tmp_path


@pytest.fixture
def here(monkeypatch):
    """Run trials in this process, where they can be counted and hindered."""

    def in_this_process(contest, waiting, workplace, *, jobs):
        for place, group in list(waiting.items()):
            yield from ((trial, contest.run_or_fail(trial)) for trial in group)
            waiting.pop(place)

    monkeypatch.setattr(trials, "_in_processes", in_this_process)
    asked = []
    run = Contest.run
    monkeypatch.setattr(Contest, "run", lambda self, trial: asked.append(trial) or run(self, trial))
    return asked


def written(folder: Path, **changes) -> Path:
    file = folder / "plan.toml"
    file.write_text(tomli_w.dumps({**PLAN, **changes}))
    return file


def test_every_trial_is_run_once_and_the_tables_hold_all(folder, here):
    plan = written(folder)
    scores = run_benchmark(plan, out=folder / "out", workplace=QUIET, csv=True)
    # Of each encoder two zero-shot and four fine-tunings; training from scratch and PCA are common to both.
    assert len(here) == 2 * (2 + 4) + 2 + 1
    assert set(scores["encoder"]) == {"mae", "byol"} and set(scores["target"]) == {"types"}
    headline = scores[scores["metric"] == "macro_f1"]
    assert len(headline) == 2 * 4 * 4 and headline["value"].notna().all() and headline["error"].isna().all()
    assert (headline.groupby(["encoder", "method"]).size() == 4).all()
    on_disk = pd.read_parquet(folder / "out" / "scores.parquet")
    pd.testing.assert_frame_equal(on_disk, scores, check_dtype=False)
    resamples = pd.read_parquet(folder / "out" / "resamples.parquet")
    assert set(resamples["trial_id"]) == set(scores["trial_id"])
    assert pd.read_csv(folder / "out" / "scores.csv").shape == scores.shape
    confusion = pd.read_parquet(folder / "out" / "confusion.parquet")
    assert (confusion.groupby("trial_id")["n_cells"].sum() % headline["n_cells"].iloc[0] == 0).all()
    here.clear()
    again = run_benchmark(plan, out=folder / "out", workplace=QUIET)
    assert here == []
    pd.testing.assert_frame_equal(again, scores, check_dtype=False)


def test_what_is_added_to_a_plan_is_all_that_is_run(folder, here):
    run_benchmark(written(folder, encoders={"mae": {}}), out=folder / "out", workplace=QUIET)
    here.clear()
    more = {"types": {**PLAN["targets"]["types"], "baselines": ["pca_knn", "logistic_regression"]}}
    scores = run_benchmark(written(folder, encoders={"mae": {}}, targets=more), out=folder / "out", workplace=QUIET)
    assert [trial.method for trial in here] == ["logistic_regression"]
    assert "logistic_regression" in set(scores["method"])
    # What is taken out of the plan is in no table, though it is kept.
    scores = run_benchmark(written(folder, encoders={"mae": {}}), out=folder / "out", workplace=QUIET)
    assert "logistic_regression" not in set(scores["method"]) and len(here) == 1


def test_interrupted_it_goes_on_with_what_is_missing(folder, here, monkeypatch):
    plan = written(folder)
    run = Contest.run

    def interrupted(self, trial):
        if len(here) == 5:
            raise KeyboardInterrupt
        return run(self, trial)

    with monkeypatch.context() as patch:
        patch.setattr(Contest, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_benchmark(plan, out=folder / "out", workplace=QUIET)
    assert not (folder / "out" / "scores.parquet").exists()
    n_before = len(list((folder / "out" / "trials").iterdir()))
    assert n_before == 5
    here.clear()
    scores = run_benchmark(plan, out=folder / "out", workplace=QUIET)
    assert len(here) == 15 - 5 and not scores["value"].isna().any()


def test_a_trial_that_fails_is_a_row_and_is_tried_again_when_asked(folder, here, monkeypatch, caplog):
    plan = written(folder, encoders={"mae": {}})
    run = Contest.run

    def failing(self, trial):
        if trial.method == "fine_tuned" and trial.seed == 1:
            raise RuntimeError("out of <luck>")
        return run(self, trial)

    with monkeypatch.context() as patch:
        patch.setattr(Contest, "run", failing)
        scores = run_benchmark(plan, out=folder / "out", workplace=QUIET)
    failed = scores[scores["error"].notna()]
    assert set(failed["error"]) == {"RuntimeError: out of <luck>"} and len(failed) == 2
    assert (
        set(failed["method"]) == {"fine_tuned"} and set(failed["finetune_seed"]) == {1} and failed["value"].isna().all()
    )
    assert "fine_tuned, all donors, seed 1 failed: RuntimeError" in caplog.text
    here.clear()
    assert run_benchmark(plan, out=folder / "out", workplace=QUIET)["error"].notna().sum() == 2 and here == []
    scores = run_benchmark(plan, out=folder / "out", workplace=QUIET, retry_failed=True)
    assert len(here) == 2 and scores["error"].isna().all()


def test_a_pretraining_that_fails_is_a_row_and_the_others_go_on(folder, here, monkeypatch):
    plan = written(folder, encoders={"mae": {}})
    pretrain = pretrainings.pretrain

    def failing(cells, settings, **options):
        if settings.training.seed == 1:
            raise InputError("The loss is not a number.")
        return pretrain(cells, settings, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pretrainings, "pretrain", failing)
        scores = run_benchmark(plan, out=folder / "out", workplace=QUIET)
    failed = scores[scores["method"] == PRETRAINING]
    assert failed["error"].tolist() == ["InputError: The loss is not a number."]
    assert set(scores.loc[scores["method"] == "zero_shot", "pretrain_seed"]) == {0}
    scores = run_benchmark(plan, out=folder / "out", workplace=QUIET, retry_failed=True)
    assert set(scores.loc[scores["method"] == "zero_shot", "pretrain_seed"]) == {0, 1}
    assert scores["error"].isna().all()


class _Deadly(Contest):
    def run(self, trial):
        if trial.method == "fine_tuned":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(trial)


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_own_trial_alone(folder):
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    plan = written(folder, encoders={"mae": {}}, seeds={"pretraining": [0], "finetuning": [0, 1]})
    benchmark = Benchmark.open(plan, folder / "out")
    runs = benchmark.pretrainings()
    for one in runs:
        one.run(benchmark.cells["made"])
    study = benchmark.study(benchmark.studies()[0], [one.result() for one in runs])
    contest = _Deadly(**vars(study._contest(study.trials)))
    outcomes = trials.run_trials(contest, study.trials, Workplace(jobs=2, keep_going=True, show_progress=False))
    by_method = {trial.method: outcomes[trial.key] for trial in study.trials}
    assert by_method.pop("fine_tuned").error == trials.KILLED
    assert len(by_method) == 3
    assert not [outcome.error for outcome in by_method.values() if isinstance(outcome, trials.Failure)]
    with pytest.raises(InputError, match="killed, perhaps for want of memory"):
        trials.run_trials(contest, study.trials, Workplace(jobs=2, show_progress=False))


class _Overlapping(Contest):
    def __init__(self):
        vars(self)["running"] = []

    def run(self, trial):
        self.running.append(trial)
        time.sleep(0.02)
        at_once = len(self.running)
        self.running.remove(trial)
        return Failure(str(at_once), 0.0)


def test_trials_of_one_process_take_turns_as_their_random_numbers_are_shared():
    contest, group = _Overlapping(), [Trial("probe", "", 0, 0, np.arange(1), SupervisedSettings())] * 3
    with ThreadPoolExecutor(4) as threads:
        done = threads.map(lambda place: trials._run_in_worker(contest, place, group, keep_going=False), range(4))
    assert [outcomes for _, outcomes in done] == [[Failure("1", 0.0)] * 3] * 4


class _Cyclic(Contest):
    def __init__(self):
        vars(self)["alive"] = weakref.WeakSet()

    def run(self, trial):
        n_before = len(self.alive)
        left_behind = type("Trainer", (), {})()
        left_behind.module = left_behind
        self.alive.add(left_behind)
        return Failure(str(n_before), 9.0)


def test_a_trial_leaves_nothing_in_memory_that_refers_to_itself():
    contest, group = _Cyclic(), [Trial("probe", "", 0, 0, np.arange(1), SupervisedSettings())] * 3
    gc.disable()
    try:
        _, outcomes = trials._run_in_worker(contest, 0, group, keep_going=False)
    finally:
        gc.enable()
    assert outcomes == [Failure("0", 9.0)] * 3


def test_a_dask_cluster_comes_to_the_same_scores(folder):
    distributed = pytest.importorskip("distributed")
    plan = written(folder, encoders={"mae": {}}, seeds={"pretraining": [0], "finetuning": [0]})
    here = run_benchmark(plan, out=folder / "here", workplace=QUIET)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        workplace = Workplace(dask=cluster.scheduler_address, keep_going=True, show_progress=False)
        there = run_benchmark(plan, out=folder / "there", workplace=workplace)
    measured = ["seconds", "peak_memory_mb"]
    pd.testing.assert_frame_equal(here.drop(columns=measured), there.drop(columns=measured))


def test_changed_cells_are_refused_with_their_name_and_those_of_other_plans_too(folder, here):
    plan = written(folder, encoders={"mae": {}})
    run_benchmark(plan, out=folder / "out", workplace=QUIET)
    adata = anndata.read_h5ad(folder / "made.h5ad")
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).to_numpy()[::-1]
    adata.write_h5ad(folder / "made.h5ad")
    with pytest.raises(InputError, match=r"The cells of made are not those that .* has results of"):
        run_benchmark(plan, out=folder / "out", workplace=QUIET)
    with pytest.raises(InputError, match="has the results of the plan 'small', not of 'other'"):
        run_benchmark(written(folder, name="other"), out=folder / "out", workplace=QUIET)
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("")
    with pytest.raises(InputError, match="holds something that is no benchmark"):
        run_benchmark(plan, out=folder / "mine", workplace=QUIET)
    assert tomllib.loads((folder / "out" / "plan.toml").read_text())["name"] == "small"


def test_a_change_of_anything_that_the_plan_reads_is_refused_and_said(folder, here):
    made = anndata.read_h5ad(folder / "made.h5ad")
    made.obs["kept"], made.obs["late"], made.obs["other"] = "yes", made.obs["donor"] == "donor 1", "a"
    made.obsm["proteins"] = np.arange(720.0).reshape(240, 3)
    made.write_h5ad(folder / "made.h5ad")
    settings = {**PLAN["corpora"]["made"]["settings"], "data": {"donor_key": "donor", "where": "kept == 'yes'"}}
    corpora = {"made": {"cells": "made", "settings": settings}}
    targets = {
        "types": {**PLAN["targets"]["types"], "test_where": "late"},
        "proteins": {"cells": "made", "task": "cross_modality", "settings": {"target": "proteins"}},
    }
    plan = written(folder, encoders={"mae": {}}, corpora=corpora, targets=targets)

    def check():
        benchmark = Benchmark.open(plan, folder / "out")
        benchmark.claim(plan, benchmark.check_cells())
        return benchmark.pretrainings()[0].run_id

    def change(what, value):
        changed = made.copy()
        if what == "proteins":
            changed.obsm[what] = value
        elif what == "counts":
            changed.X = changed.X * 2
        else:
            changed.obs[what] = value
        changed.write_h5ad(folder / "made.h5ad")

    run_id = check()
    for what, value, said in (
        ("kept", np.where(np.arange(240) > 3, "yes", "no"), r"obs\['kept'\]"),
        ("late", made.obs["donor"] == "donor 2", r"obs\['late'\]"),
        ("proteins", np.ones((240, 3)), r"obsm\['proteins'\]"),
        ("counts", None, "counts"),
    ):
        change(what, value)
        with pytest.raises(InputError, match=rf"What changed, .* is made: {said}\. Put back"):
            check()
    change("other", "b")
    assert check() == run_id
    # A folder of before has one hash of each set of cells.
    file = folder / "out" / "cells.json"
    before = Benchmark.open(plan, folder / "out").cells.fingerprint_of_before("made")
    file.write_text(json.dumps({"made": before}))
    change("counts", None)
    with pytest.raises(InputError, match="made: counts, genes, cell names or a column of label"):
        check()
    change("other", "c")
    check()
    assert "obs['late']" in json.loads(file.read_text())["made"]


def test_a_label_map_is_mended_and_nothing_is_pre_trained_anew(folder, here):
    cells = {"made": {**PLAN["cells"]["made"], "label_map": "map.csv"}}
    plan = written(folder, encoders={"mae": {}}, cells=cells)
    ids = []
    for name in ("typ 1", "type 1"):
        (folder / "map.csv").write_text(f"from,to\ntype 0,{name}\n")
        scores = run_benchmark(plan, out=folder / "out", workplace=QUIET)
        ids.append(set(scores["work_id"]))
    assert len(list((folder / "out" / "runs").iterdir())) == 2 and ids[0].isdisjoint(ids[1])


def test_a_query_without_a_type_in_common_is_refused_before_any_training(folder, here):
    other = simulate_cells(n_cells=60, n_genes=60, n_types=3, n_donors=3, seed=1)
    other.obs["kind"] = "other " + other.obs.pop("cell_type").astype(str)
    other.write_h5ad(folder / "other.h5ad")
    cells = {**PLAN["cells"], "other": {"source": "other.h5ad", "label": "kind"}}
    targets = {"unseen": {"cells": "made", "query": "other"}}
    with pytest.raises(InputError, match=r"\[targets\.unseen\]: made and other have no cell type in common"):
        run_benchmark(written(folder, cells=cells, targets=targets), out=folder / "out", workplace=QUIET)
    assert not (folder / "out").exists()
    (folder / "map.csv").write_text("from,to\n" + "".join(f"other type {i},type {i}\n" for i in range(3)))
    cells["other"]["label_map"] = "map.csv"
    plan = written(folder, cells=cells, targets={"unseen": {**PLAN["targets"]["types"], **targets["unseen"]}})
    scores = run_benchmark(plan, out=folder / "out", workplace=QUIET)
    assert set(scores["n_cells"]) == {60} and set(scores["split"]) == {"by data set"}


def test_a_query_may_name_its_donors_otherwise(folder, here, caplog):
    other = simulate_cells(n_cells=90, n_genes=60, n_types=3, n_donors=3, seed=1)
    other.obs = other.obs.rename(columns={"donor": "patient", "batch": "site"})
    other.write_h5ad(folder / "other.h5ad")
    cells = {**PLAN["cells"], "other": {"source": "other.h5ad", "label": "cell_type", "donor": "patient"}}
    target = {**PLAN["targets"]["types"], "query": "other", "encoders": ["mae"]}
    plan = written(folder, cells=cells, targets={"unseen": target})
    scores = run_benchmark(plan, out=folder / "out", workplace=QUIET)
    assert set(scores["n_units"]) == {3} and "is not used" not in caplog.text
    cells["made"] = {name: value for name, value in cells["made"].items() if name != "donor"}
    plan = written(folder, cells=cells, targets={"unseen": target})
    scores = run_benchmark(plan, out=folder / "without", workplace=QUIET)
    assert set(scores["n_units"]) == {50} and "obs['patient'] of other is not used" in caplog.text


def test_cells_without_a_type_are_pre_trained_on_and_not_judged(folder, here, caplog):
    made = anndata.read_h5ad(folder / "made.h5ad")
    made.obs["cell_type"] = made.obs["cell_type"].where(np.arange(240) % 12 > 0)
    made.write_h5ad(folder / "made.h5ad")
    other = simulate_cells(n_cells=60, n_genes=60, n_types=3, n_donors=3, seed=1)
    other.obs["kind"] = other.obs.pop("cell_type").astype(object).where(np.arange(60) >= 10)
    other.write_h5ad(folder / "other.h5ad")
    (folder / "map.csv").write_text("from,to\ntype 0,type 1\n")
    cells = {**PLAN["cells"], "other": {"source": "other.h5ad", "label": "kind", "label_map": "map.csv"}}
    targets = {"unseen": {**PLAN["targets"]["types"], "query": "other"}}
    with caplog.at_level("INFO", "selfcell"):
        scores = run_benchmark(written(folder, cells=cells, targets=targets), out=folder / "out", workplace=QUIET)
    assert set(scores["n_cells"]) == {50}
    assert "20 of 240 cells have no value in obs['cell_type']" in caplog.text
    splits = [json.loads(file.read_text()) for file in (folder / "out" / "runs").glob("*/split.json")]
    assert len(splits) == 4 and {
        len({donor for part in split["donors"].values() for donor in part}) for split in splits
    } == {6}


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"source": "none.h5ad"}, "There is no file"),
        ({"source": "pbmc3kk"}, r"neither a data set by name nor a file.*Did you mean 'pbmc3k'"),
        ({"source": "made.h5ad", "donor": "dnor"}, "no column 'dnor' in obs"),
        ({"source": "made.h5ad", "where": "donor == 'nobody'"}, "nobody"),
        ({"source": "made.h5ad", "genes_with": "exist_*"}, r"no column of var is named 'exist_\*'"),
    ],
)
def test_cells_that_cannot_be_had_are_named(folder, cells, message):
    plan = written(folder, cells={"made": {"label": "cell_type", **cells}})
    with pytest.raises(InputError, match=rf"\[cells\.made\].*{message}"):
        run_benchmark(plan, out=folder / "out", workplace=QUIET)


def test_an_atlas_is_pre_trained_on_as_it_lies_on_disk(folder, here):
    build_atlas([folder / "made.h5ad"], folder / "atlas")
    cells = {**PLAN["cells"], "atlas": {"source": "atlas"}}
    corpus = {**PLAN["corpora"]["made"], "cells": "atlas"}
    plan = written(folder, cells=cells, corpora={"atlas": corpus}, encoders={"mae": {}})
    found = estimate(Benchmark.open(plan, folder / "out"), QUIET)
    assert found.table["what"].iloc[0] == "pre-train mae on atlas"
    scores = run_benchmark(plan, out=folder / "out", workplace=QUIET)
    assert scores["error"].isna().all() and set(scores["corpus"]) == {"atlas"}
    assert not list((folder / "out" / "runs").glob("*/cells.safetensors"))
    study = read_results(folder / "out" / "studies" / "types" / "mae_on_atlas")
    assert study.about["has_seen"] is False
    cells["atlas"]["where"] = "donor != 'x'"
    with pytest.raises(InputError, match=r"\[cells\.atlas\] is an atlas.*leave where out"):
        run_benchmark(written(folder, cells=cells, corpora={"atlas": corpus}), out=folder / "two", workplace=QUIET)
    cells["atlas"] = {"source": "atlas", "label": "cell_type", "donor": "donor"}
    targets = {"types": {**PLAN["targets"]["types"], "cells": "atlas", "regimes": ["zero_shot"]}}
    scores = run_benchmark(written(folder, cells=cells, targets=targets), out=folder / "three", workplace=QUIET)
    assert scores["error"].isna().all() and set(scores["split"]) == {"by donor"}


def _page_of(out):
    write_benchmark_page(out, out / "report.html")
    return (out / "report.html").read_text(encoding="utf-8")


def _trained_elsewhere(folder, name, seed):
    settings = with_overrides(PLAN["corpora"]["made"]["settings"], [f"training.seed={seed}"])
    return pretrain(folder / "made.h5ad", settings, out=folder / name, show_progress=False)


def test_models_that_are_trained_already_are_judged_beside_others(folder, here):
    for seed in (0, 1):
        _trained_elsewhere(folder, f"model {seed}", seed)
    given = {"published": {"source": ["model 0", "model 1"]}, "one": {"source": str(folder / "model 1")}}
    plan = written(folder, encoders={"mae": {}}, models=given)
    forecast = estimate(Benchmark.open(plan, folder / "out"), QUIET).table.set_index("what")
    assert forecast.index.tolist().count("types: from_scratch") == 1
    assert forecast.loc["types: zero_shot (published)", "n_runs"] == 2
    assert forecast.loc["types: zero_shot (one)", "n_runs"] == 1 and not any(forecast.index == "pre-train published")
    scores = run_benchmark(plan, out=folder / "out", workplace=QUIET)
    headline = scores[scores["metric"] == "macro_f1"]
    assert headline["error"].isna().all() and set(headline["corpus"]) == {"made", "given"}
    wanted = {"mae": 4, "published": 4, "one": 2}
    of_encoder = headline[headline["method"] == "fine_tuned"].groupby("encoder")
    assert of_encoder.size().to_dict() == wanted
    values = {name: part["value"].tolist() for name, part in of_encoder}
    assert values["published"] == values["mae"] and values["one"] == values["published"][2:]
    assert len(list((folder / "out" / "runs").iterdir())) == 2
    pairs = pd.read_parquet(folder / "out" / "pairs.parquet")
    assert set(pairs["varied"]) == {"encoder"} and set(pairs["corpus"]) == {"given"}
    page = _page_of(folder / "out")
    assert "Models that were trained before (published, one) were taken as they are." in page
    assert "Models that the plan names, whatever they were pre-trained on: " in page
    assert "Of one there is one pre-training" in page
    alone = written(folder, corpora={}, encoders={}, models=given)
    scores = run_benchmark(alone, out=folder / "alone", workplace=QUIET)
    assert set(scores["encoder"]) == {"published", "one"}
    page = _page_of(folder / "alone")
    assert "Encoders (" not in page


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"task": "integration", "cells": "bare"}, r"\[targets.asked\].*needs the column of obs with the batch"),
        ({"task": "cross_modality"}, r"\[targets.asked\]"),
        ({"task": "reconstruction", "encoders": ["twins"]}, r"\[targets.asked\]: twins on made will have no decoder"),
        ({"test_where": "donor == 'nobody'"}, r"\[targets.asked\]: test_where = .* holds for none of the cells"),
        # Of six donors two are set aside by pre-training.
        (
            {"budgets": [{"donors": 5}]},
            r"\[targets.asked\]: 5 labelled donors are asked for, but there are [34] beside",
        ),
        (
            {"test_fraction": 0.5},
            r"\[targets.asked\]: test_fraction is for cells of which pre-training sets none aside",
        ),
        ({"baselines": ["obsm:X_other"]}, r"\[targets.asked\]: There is no obsm\['X_other'\]"),
        ({"query": "again"}, r"\[targets.asked\]: 240 of the 240 cells of again are in made too"),
        (
            {"task": "cross_modality", "settings": {"target": "proteins"}, "cells": "measured", "query": "made"},
            r"\[targets.asked\]: made: There is no obsm\['proteins'\]",
        ),
        ({"corpora": ["made", "more"]}, r"mae on made and mae on more would be judged on different cells"),
        ({"corpora": ["none"]}, r"\[corpora.none\]: The query .* selects none"),
        ({"cells": "bare", "budgets": [{"donors": 1}]}, r"\[targets.asked\]: budgets count donors"),
    ],
)
def test_targets_that_cannot_be_asked_are_refused_before_any_training(folder, here, target, message):
    measured = simulate_cells(n_cells=60, n_genes=60, n_types=3, n_donors=6, seed=1)
    measured.obsm["proteins"] = np.arange(180.0).reshape(60, 3)
    measured.write_h5ad(folder / "measured.h5ad")
    cells = {**PLAN["cells"], "bare": {"source": "made.h5ad", "label": "cell_type"}, "again": PLAN["cells"]["made"]}
    cells["measured"] = {"source": "measured.h5ad", "donor": "donor"}
    encoders = {"mae": {}, "twins": {"settings": {"pretext": {"name": "barlow_twins"}}}}
    corpora = {
        "made": PLAN["corpora"]["made"],
        "more": {"cells": "made", "settings": {"data": {"donor_key": "donor", "test_fraction": 0.6}}},
        "none": {"cells": "made", "settings": {"data": {"where": "donor == 'nobody'"}}},
    }
    asked = {"asked": {"cells": "made", "corpora": ["made"], **target}}
    plan = written(folder, cells=cells, corpora=corpora, encoders=encoders, targets=asked)
    with pytest.raises(InputError, match=message):
        run_benchmark(plan, out=folder / "out", workplace=QUIET)
    assert not (folder / "out" / "runs").exists()


def test_a_target_that_turns_out_to_be_impossible_is_a_row_and_the_others_are_asked(folder, here, caplog, monkeypatch):
    # As if it could not be told before.
    monkeypatch.setattr(Benchmark, "check_targets", lambda _: None)
    targets = {"types": {**PLAN["targets"]["types"], "regimes": ["zero_shot"]}}
    # Pre-training has set donors aside, so that no share of them can be chosen.
    targets = {"twice": {**targets["types"], "test_fraction": 0.5}, **targets}
    plan = written(folder, encoders={"mae": {}}, targets=targets)
    scores = run_benchmark(plan, out=folder / "out", workplace=QUIET)
    failed = scores[scores["error"].notna()]
    assert failed["target"].tolist() == ["twice"] and failed["method"].tolist() == [STUDY]
    assert "aside to be judged on" in failed["error"].item()
    assert not scores.loc[scores["target"] == "types", "value"].isna().any()
    assert "twice, mae on made cannot be asked" in caplog.text
    assert "aside to be judged on" in _page_of(folder / "out")


def test_a_killed_trial_leaves_an_estimate_that_can_be_shown(folder, here):
    plan = written(folder, encoders={"mae": {}})
    run_benchmark(plan, out=folder / "out", workplace=QUIET)
    benchmark = Benchmark.open(plan, folder / "out")
    for work_id in list(benchmark.store):
        benchmark.store.write(work_id, Failure(trials.KILLED, float("nan")))
    assert (estimate(benchmark, QUIET).table["hours"] == 0).all()


def test_the_page_says_what_a_model_has_seen_of_the_cells_it_is_judged_on(folder, here):
    settings = with_overrides(PLAN["corpora"]["made"]["settings"], ["data.test_fraction=0"])
    pretrain(folder / "made.h5ad", settings, out=folder / "of all", show_progress=False)
    targets = {"types": {**PLAN["targets"]["types"], "regimes": ["zero_shot"]}}
    plan = written(folder, encoders={"mae": {}}, models={"all": {"source": "of all"}}, targets=targets)
    run_benchmark(plan, out=folder / "out", workplace=QUIET)
    page = _page_of(folder / "out")
    assert "all at types: Pre-training was given at least " in page and "Set donors aside when pre-training" in page
    assert "mae on made at types" not in page
    told = {
        one["encoder"]: one["relation"] for one in json.loads((folder / "out" / "benchmark.json").read_text())["seen"]
    }
    assert told == {"mae": "own", "all": "seen"}
    file = folder / "out" / "benchmark.json"
    saved = json.loads(file.read_text())
    del saved["seen"]
    file.write_text(json.dumps(saved))
    assert "Pre-training was given" not in _page_of(folder / "out")


def test_models_that_cannot_be_judged_are_refused_before_any_training(folder, here):
    model = _trained_elsewhere(folder, "model", 0)
    selfcell.finetune(
        model, folder / "made.h5ad", label_key="cell_type", out=folder / "typed", show_progress=False,
        settings={"training": {"max_epochs": 1}},
    )  # fmt: skip
    for source, message in (
        ("typed", r"\[models.m\].*was fine-tuned for cell_type"),
        (["model", "model"], r"\[models.m\].*is given twice"),
        ("no such folder", r"\[models.m\]"),
    ):
        plan = written(folder, models={"m": {"source": source}})
        with pytest.raises(InputError, match=message):
            run_benchmark(plan, out=folder / "out", workplace=QUIET)
    assert here == [] and not (folder / "out").exists()


def test_some_targets_alone_are_run_and_the_tables_keep_the_others(folder, here):
    targets = {name: {**PLAN["targets"]["types"], "encoders": ["mae"]} for name in ("first", "second", "third")}
    plan = written(folder, targets=targets)
    first = run_benchmark(plan, out=folder / "out", only=["first"], workplace=QUIET)
    assert set(first["target"]) == {"first"} and not list((folder / "out" / "runs").glob("*byol*"))
    both = run_benchmark(plan, out=folder / "out", only=["second"], workplace=QUIET)
    pd.testing.assert_frame_equal(
        both[both["target"] == "first"].reset_index(drop=True), first.reset_index(drop=True), check_dtype=False
    )
    all_three = run_benchmark(plan, out=folder / "out", only=["third"], workplace=QUIET)
    assert (all_three.groupby("target").size() == len(first)).all() and all_three["target"].nunique() == 3
    for name in ("resamples", "estimates", "verdicts"):
        table = pd.read_parquet(folder / "out" / f"{name}.parquet")
        told = [table[table["target"] == target].drop(columns=["target"]) for target in targets]
        assert table.columns.is_unique and all(len(part) == len(told[0]) > 0 for part in told)
        # The targets are the same, so that what is said of one is said of all.
        numbers = [part.select_dtypes("number").drop(columns=TOOK, errors="ignore").to_numpy() for part in told]
        np.testing.assert_array_equal(numbers[0], numbers[1])
        np.testing.assert_array_equal(numbers[0], numbers[2])
    fewer = {name: {**one, "corpora": ["made"]} for name, one in targets.items() if name != "second"}
    cells = {**PLAN["cells"], "again": PLAN["cells"]["made"]}
    plan = written(folder, targets=fewer, cells=cells)
    left = run_benchmark(plan, out=folder / "out", only=["third"], workplace=QUIET)
    assert (
        set(left["target"]) == {"first", "third"}
        and write_benchmark_page(folder / "out", folder / "page.html").exists()
    )
    with pytest.raises(InputError, match=r"The plan has no target 'frist'\. Did you mean 'first'\?"):
        run_benchmark(plan, out=folder / "out", only=["frist"], workplace=QUIET)


def test_a_dry_run_counts_what_is_left_and_writes_nothing(folder, here):
    plan = written(folder)
    found = estimate(Benchmark.open(plan, folder / "out"), QUIET)
    assert not (folder / "out").exists()
    rows = found.table.set_index("what")
    assert rows.loc["pre-train mae on made", ["n_runs", "n_done"]].tolist() == [2, 0]
    assert not any("from_scratch (" in what or "pca_knn (" in what for what in rows.index)
    assert found.hours(1) > 0 and 0.5 < found.memory_gb < 2
    is_trial = ~found.table["what"].str.startswith("pre-train")
    assert len(found.trials) == found.table.loc[is_trial, "n_runs"].sum() and not found.trials.duplicated().any()
    tuned = found.trials[found.trials["what"] == "types: fine_tuned (mae on made)"]
    assert tuned[["pretrain_seed", "finetune_seed"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert set(found.trials.loc[found.trials["what"] == "types: from_scratch", "pretrain_seed"]) == {-1}
    scores = run_benchmark(plan, out=folder / "out", workplace=QUIET)
    assert found.table.loc[is_trial, "n_runs"].sum() == scores["work_id"].nunique()
    left = estimate(Benchmark.open(plan, folder / "out"), QUIET)
    assert (left.table["n_done"] == left.table["n_runs"]).all() and left.hours(1) == 0


def test_a_dry_run_counts_the_memory_of_a_query_too(folder):
    simulate_cells(n_cells=2_400, n_genes=60, n_types=3, n_donors=3, seed=1).write_h5ad(folder / "many.h5ad")
    cells = {**PLAN["cells"], "many": {**PLAN["cells"]["made"], "source": "many.h5ad"}}
    target = {**PLAN["targets"]["types"], "regimes": [], "baselines": ["pca_knn"]}
    alone, beside = (
        estimate(Benchmark.open(written(folder, cells=cells, encoders={"mae": {}}, targets=one), folder / "out"), QUIET)
        for one in ({"types": target}, {"types": {**target, "query": "many"}})
    )
    n_counts = anndata.read_h5ad(folder / "many.h5ad").X.nnz
    assert beside.memory_gb - alone.memory_gb == pytest.approx(4 * 8 * n_counts / 1e9, rel=1e-6)


def test_a_dry_run_counts_trials_by_what_is_kept_of_them_and_none_of_an_encoder_that_is_new(folder, here):
    plan = written(folder, encoders={"mae": {}})
    run_benchmark(plan, out=folder / "out", workplace=QUIET)
    # As if it had been interrupted.
    (folder / "out" / "scores.parquet").unlink()
    kept = sorted((folder / "out" / "trials").glob("*.npz"))
    for file in kept[:3]:
        file.unlink()
    encoders = {"mae": {}, "half": {"settings": {"pretext": {"mask_fraction": 0.25}}}}
    left = estimate(Benchmark.open(written(folder, encoders=encoders), folder / "out"), QUIET).table
    of_new = left["what"].str.contains("half on made")
    assert left.loc[of_new, "n_done"].sum() == 0 < left.loc[of_new, "hours"].min()
    trials_of_old = left[~of_new & ~left["what"].str.startswith("pre-train")]
    assert trials_of_old["n_done"].sum() == len(kept) - 3 == trials_of_old["n_runs"].sum() - 3
