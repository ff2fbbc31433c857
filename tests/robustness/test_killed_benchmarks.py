"""A benchmark that is killed, wherever, goes on with the same command and comes to the same numbers."""

import shutil

import pandas as pd
import pytest
import tomli_w

from selfcell.benchmark.results import read_results
from selfcell.data.simulate import simulate_cells

pytestmark = pytest.mark.slow
TABLES = ("scores", "resamples", "confusion", "estimates", "verdicts", "pairs")
MEASURED = ["seconds", "peak_memory_mb"]
PLAN = {
    "name": "tiny",
    "seeds": {"pretraining": [0, 1], "finetuning": [0]},
    "cells": {"made": {"source": "made.h5ad", "label": "cell_type", "donor": "donor"}},
    "corpora": {
        "made": {
            "cells": "made",
            "settings": {
                "data": {"donor_key": "donor", "test_fraction": 0.3},
                "training": {"max_epochs": 1, "minibatch_size": 32, "device": "cpu"},
                "network": {"hidden_sizes": [8], "n_latent": 4},
            },
        }
    },
    "encoders": {"mae": {}},
    "targets": {
        "types": {
            "cells": "made",
            "regimes": ["zero_shot", "fine_tuned"],
            "baselines": ["pca_knn"],
            "budgets": [{"max_epochs": 1}],
        }
    },
}


@pytest.fixture
def plan(tmp_path):
    simulate_cells(n_cells=120, n_genes=30, n_types=3, n_donors=5, seed=0).write_h5ad(tmp_path / "made.h5ad")
    (tmp_path / "plan.toml").write_text(tomli_w.dumps(PLAN))
    return tmp_path / "plan.toml"


def numbers_of(out):
    read = {name: pd.read_parquet(out / f"{name}.parquet") for name in TABLES}
    return {name: table.drop(columns=MEASURED, errors="ignore") for name, table in read.items()}


def trials_of(out):
    """Give the outcomes that are kept, each by what would change if it were written again."""
    return {file.name: file.stat().st_ino for file in (out / "trials").glob("[!.]*")}


FIRST = [
    ("cells.json", 0),
    ("encoder.safetensors", 0),
    ("seed_1", 4),
    ("/trials/", 4),
    ("/trials/", 1),
    ("study.json", 0),
    ("os.rename", 6),
    ("benchmark.json", 0),
    ("report.html", 0),
]
"""What the changes have in their name before one of which the command is killed, and before which of these."""
REPLACING = [
    ("/trials/", 0),
    ("classes.csv", 0),
    ("exchange", 0),
    ("shutil.rmtree", 0),
    ("verdicts.parquet", 0),
    ("benchmark.json", 0),
]


def test_killed_at_any_write_it_goes_on_and_comes_to_the_same(server, plan, tmp_path):
    """Killed time and again; then with a baseline more, by which tables that are there are replaced."""
    target = {**PLAN["targets"]["types"], "baselines": ["pca_knn", "logistic_regression"]}
    plans = [PLAN, {**PLAN, "targets": {"types": target}}]
    expected = [undisturbed(server, plan, tmp_path / "undisturbed", one) for one in plans]
    out, kept = tmp_path / "out", {}
    for one, kills, (numbers, names) in zip(plans, (FIRST, REPLACING), expected, strict=True):
        plan.write_text(tomli_w.dumps(one))
        for among, at in [*kills, ("", None)]:
            told = server.run(command(plan, out), out, at=at, among=among)
            assert told["killed"] or (at is None and told["code"] == 0), (among, told["errors"])
            # What was done is done: outcomes that were there are not made again.
            assert kept.items() <= trials_of(out).items(), among
            kept = trials_of(out)
            if (study := out / "studies" / "types" / "mae_on_made").exists():
                read_results(study)
        assert set(kept) == names and len(list((out / "runs").glob("[!.]*"))) == 2
        for name, table in numbers_of(out).items():
            pd.testing.assert_frame_equal(table, numbers[name])


def test_a_merge_that_is_killed_takes_over_the_rest_when_given_again(server, plan, tmp_path):
    """What is there of a folder is whole, whichever files are not there yet."""
    one, merged = tmp_path / "one", tmp_path / "merged"
    undisturbed(server, plan, one, PLAN)
    # What is taken over: all but tables, which are made anew.
    taken = {name: content for name, content in files_of(one).items() if name.startswith(("runs/", "trials/"))}
    merge = ["benchmark", "merge", one, "--out", merged]
    changes = server.run(merge, tmp_path)["made"]
    n_renames = sum(change.startswith("os.rename") for change in changes)
    assert n_renames >= len(list((one / "trials").iterdir())) + 2
    for among, at in [("plan.toml", 0), ("cells.json", 0), ("/runs/", 1), ("/trials/", 0), ("/trials/", 3)]:
        shutil.rmtree(merged, ignore_errors=True)
        assert server.run(merge, tmp_path, at=at, among=among)["killed"], among
        left = {name: content for name, content in files_of(merged).items() if name in taken}
        assert left.items() <= taken.items() and len(left) < len(taken), among
        assert server.run(merge, tmp_path)["code"] == 0
        assert taken.items() <= files_of(merged).items(), among
    told = server.run(command(plan, merged), merged)
    assert told["code"] == 0, told["errors"]
    assert trials_of(merged).keys() == trials_of(one).keys()
    for name, table in numbers_of(one).items():
        pd.testing.assert_frame_equal(numbers_of(merged)[name], table)


def files_of(folder):
    """Give the files that others see, by their content."""
    shown = [file for file in folder.rglob("*") if file.is_file() and "/." not in str(file.relative_to(folder))]
    return {str(file.relative_to(folder)): file.read_bytes() for file in shown if not file.name.startswith(".")}


def command(plan, out):
    return ["benchmark", plan, "--out", out, "--jobs", "1"]


def undisturbed(server, plan, out, content):
    """Give the numbers of the tables, and the names of the outcomes."""
    plan.write_text(tomli_w.dumps(content))
    told = server.run(command(plan, out), out)
    assert told["code"] == 0, told["errors"]
    numbers = numbers_of(out)
    assert numbers["scores"]["error"].isna().all()
    return numbers, set(trials_of(out))
