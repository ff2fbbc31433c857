"""A process that is lost on a Dask cluster: its work is done once more, and nothing else is seen of it."""

import os
import runpy
import signal
import subprocess
import sys
import time
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


PROGRAM = """
import os, time
import joblib
from selfcell.benchmark.workers import keep_this_worker
def work():
    keep_this_worker()
    print(os.getpid(), flush=True)
    time.sleep(120)
if __name__ == "__main__":
    joblib.Parallel(n_jobs=2)(joblib.delayed(work)() for _ in range(2))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a process has no parent there that could be asked for")
def test_workers_end_soon_after_the_command_that_was_killed(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = subprocess.Popen([sys.executable, tmp_path / "program.py"], stdout=subprocess.PIPE, text=True)
    workers = [int(command.stdout.readline()) for _ in range(2)]
    command.kill()
    command.wait()
    command.stdout.close()
    deadline = time.monotonic() + 30
    while any(is_there(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [worker for worker in workers if is_there(worker)]


def is_there(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # One that has ended and that nobody has waited for yet is a number alone.
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
