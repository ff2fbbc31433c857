import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from selfcell.network.gather import gather_cells, gathered_positions

WORKER = Path(__file__).parent / "two_processes.py"
TASKS = ("simclr", "barlow_twins", "vicreg", "byol", "simsiam", "moco", "nnclr", "dino")


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """The step made by two processes, half of the cells each."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, str(WORKER)]
    started = [
        subprocess.Popen([*command, str(rank), "2", str(folder)], stderr=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def by_one():
    return runpy.run_path(str(WORKER))["step"](0, 1)


def test_one_process_gathers_its_own_rows():
    rows = torch.rand(4, 3)
    assert gather_cells(rows) is rows
    assert gathered_positions(4, device=rows.device).tolist() == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_two_processes_make_the_step_of_one_with_all_cells(by_one, by_two, task):
    """Loss, gradients, and afterwards the target network, queue and center."""
    for rank in (0, 1):
        assert by_two[rank][task].keys() == by_one[task].keys()
        for name, expected in by_one[task].items():
            torch.testing.assert_close(by_two[rank][task][name], expected, rtol=1e-9, atol=1e-12, msg=f"{task} {name}")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["moco", "nnclr"])
def test_a_queue_takes_in_the_cells_of_all_processes(by_two, task):
    assert by_two[0][task]["after queue.place"] == 12
