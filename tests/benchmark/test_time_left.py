"""What is said of the time that a benchmark still takes."""

import logging
import re

import pytest
import tomli_w

from selfcell.benchmark.expected_trials import ExpectedTrials
from selfcell.benchmark.planned import PlannedEncoder, PlannedStudy
from selfcell.benchmark.run import run_benchmark
from selfcell.benchmark.study_plan import LabelBudget, StudyPlan
from selfcell.benchmark.time_left import TimeLeft
from selfcell.benchmark.trials import Workplace
from selfcell.data.simulate import simulate_cells
from selfcell.training.settings import PretrainSettings

ENCODER = PlannedEncoder("blood", "mae", PretrainSettings())


def study(name):
    return PlannedStudy(name, ENCODER, StudyPlan(label_key="cell_type"))


def trials(planned, method, *, n, seconds):
    seeds = [(0, seed) for seed in range(n)]
    return ExpectedTrials(planned, method, f"{planned.target}: {method}", LabelBudget(), seeds, seconds)


def test_guesses_are_mended_method_by_method():
    first, second = study("first"), study("second")
    left = TimeLeft(
        [
            trials(first, "probe", n=2, seconds=1.0),
            trials(first, "fine_tuned", n=2, seconds=10.0),
            trials(second, "probe", n=3, seconds=2.0),
            trials(second, "fine_tuned", n=4, seconds=5.0),
        ]
    )
    assert str(left) == ""
    # Probes took three times of what was guessed, trainings half; two at a time, so 16 s of trials took 8 on the clock.
    left.learn(first, {"probe": [3.0, 3.0], "fine_tuned": [4.0, 6.0]}, clock=8.0)
    left.drop(first)
    assert left.seconds() == pytest.approx((3 * 2.0 * 3 + 4 * 5.0 * 0.5) * 8 / 16)
    assert str(left) == " About 14 s to go."
    left.drop(second)
    assert str(left) == ""


def test_a_method_that_was_not_run_yet_is_taken_for_one_like_all():
    first, second = study("first"), study("second")
    left = TimeLeft([trials(first, "probe", n=1, seconds=1.0), trials(second, "scvi", n=2, seconds=100.0)])
    left.learn(first, {"probe": [0.5]}, clock=0.5)
    left.drop(first)
    assert left.seconds() == pytest.approx(2 * 100.0 * 0.5)
    left.learn(study("of old"), {}, clock=1e6)
    assert left.seconds() == pytest.approx(2 * 100.0 * 0.5)


def test_what_was_kept_or_killed_tells_nothing():
    first, second = study("first"), study("second")
    left = TimeLeft([trials(first, "probe", n=1, seconds=1.0), trials(second, "probe", n=1, seconds=1.0)])
    left.drop(first)
    assert left.seconds() is None
    left.learn(second, {"probe": [float("nan")]}, clock=60.0)
    assert left.seconds() is None


def test_a_benchmark_says_how_long_its_other_targets_take(tmp_path, caplog):
    simulate_cells(n_cells=120, n_genes=40, n_types=2, n_donors=4, seed=0).write_h5ad(tmp_path / "made.h5ad")
    settings = {
        "data": {"donor_key": "donor", "test_fraction": 0.3},
        "training": {"max_epochs": 1, "minibatch_size": 32, "device": "cpu"},
        "network": {"hidden_sizes": [8], "n_latent": 4},
    }
    target = {"cells": "made", "regimes": ["zero_shot"], "baselines": ["pca_knn"]}
    plan = {
        "name": "small",
        "seeds": {"pretraining": [0], "finetuning": [0]},
        "cells": {"made": {"source": "made.h5ad", "label": "cell_type", "donor": "donor"}},
        "corpora": {"made": {"cells": "made", "settings": settings}},
        "encoders": {"mae": {}},
        "targets": {"first": target, "second": target},
    }
    (tmp_path / "plan.toml").write_text(tomli_w.dumps(plan))
    with caplog.at_level(logging.INFO):
        workplace = Workplace(jobs=1, keep_going=True, show_progress=False)
        run_benchmark(tmp_path / "plan.toml", out=tmp_path / "out", workplace=workplace)
    assert "1 of 2: first, mae on made." in caplog.messages
    assert any(re.fullmatch(r"2 of 2: second, mae on made\. About \d+ s to go\.", said) for said in caplog.messages)
