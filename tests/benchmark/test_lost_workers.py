"""A process that is lost on a Dask cluster: its work is done once more, and nothing else is seen of it."""

import os
import runpy
import signal
from pathlib import Path

import pytest

from selfcell.benchmark.opened import Benchmark
from selfcell.benchmark.trials import Workplace, run_trials

small = runpy.run_path(str(Path(__file__).with_name("test_run.py")))
written, folder = small["written"], small["folder"]


@pytest.mark.slow
def test_a_worker_that_is_lost_costs_a_repeat_and_nothing_else(folder):
    distributed = pytest.importorskip("distributed")
    plan = written(folder, encoders={"mae": {}}, seeds={"pretraining": [0], "finetuning": [0, 1, 2]})
    benchmark = Benchmark.open(plan, folder / "out")
    (run,) = benchmark.pretrainings()
    run.run(benchmark.cells["made"])
    study = benchmark.study(benchmark.studies()[0], [run.result()])
    contest, finished, lost = study._contest(study.trials), [], []
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:

        def lose_one(trial, outcome):
            finished.append(trial.key)
            if not lost:
                lost.append(cluster.workers[0].pid)
                os.kill(lost[0], signal.SIGKILL)

        workplace = Workplace(dask=cluster.scheduler_address, keep_going=True, show_progress=False)
        outcomes = run_trials(contest, study.trials, workplace, finished=lose_one)
    distinct = {trial.key: trial for trial in study.trials}
    assert lost and len(finished) == len(distinct) == 8 and outcomes.keys() == distinct.keys() == set(finished)
    for key, trial in distinct.items():
        assert outcomes[key].scores.values == pytest.approx(contest.run(trial).scores.values)
