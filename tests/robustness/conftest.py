"""What tests of robustness share."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import selfcell
from selfcell.data.simulate import simulate_cells

run = runpy.run_path(str(Path(__file__).parents[1] / "cli" / "conftest.py"))["run"]
file = runpy.run_path(str(Path(__file__).parents[1] / "cli" / "conftest.py"))["file"]
hub = runpy.run_path(str(Path(__file__).parents[1] / "hub" / "conftest.py"))["hub"]


@pytest.fixture(scope="session")
def classifier(model, tmp_path_factory):
    """A model that was fine-tuned for cell types, with calibration."""
    return selfcell.finetune(
        model,
        simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, seed=0),
        out=tmp_path_factory.mktemp("classifier") / "run",
        label_key="cell_type",
        donor_key="donor",
        validation_fraction=0.2,
        settings={"training": {"max_epochs": 1, "device": "cpu"}},
        show_progress=False,
    )


class Server:
    """The process that runs and kills commands."""

    def __init__(self, errors):
        self.errors = errors
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("kill_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
        )
        assert self.process.stdout.readline() == "ready\n"

    def run(self, arguments, watch, *, at=None, among="", environment=None):
        order = {"arguments": list(map(str, arguments)), "watch": str(watch), "at": at, "among": among}
        order |= {"errors": str(self.errors), "environment": environment or {}}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        told = json.loads(self.process.stdout.readline())
        assert not told["told"], told["told"]
        return {**told, "errors": self.errors.read_text()}

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    if sys.platform != "linux":
        pytest.skip("commands are run in forks, which are safe on Linux alone")
    server = Server(tmp_path_factory.mktemp("server") / "errors")
    yield server
    server.close()


@pytest.fixture
def asking(hub, tmp_path_factory):
    """The variables by which a command in another process asks the stand-in of the Hub alone."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path_factory.mktemp("hub")),
        "HF_TOKEN": hub.token,
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
