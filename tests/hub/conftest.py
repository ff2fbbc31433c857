"""The Hub's client, the real one, and a stand-in for the Hub on this machine to talk to."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

import selfcell

HERE = Path(__file__).parent
stand_in = SimpleNamespace(**runpy.run_path(str(HERE / "stand_in.py")))
run = runpy.run_path(str(HERE.parent / "cli" / "conftest.py"))["run"]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, answering; the client asks it alone, with a cache and a token of its own."""
    constants = pytest.importorskip("huggingface_hub.constants")
    hub = stand_in.StandIn()
    server = stand_in.serve(hub)
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
        "HF_TOKEN_PATH": str(tmp_path / "no-token"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def published(hub, model):
    """The address of a model on the stand-in, with its commit."""
    return selfcell.push(model, "lab/blood", license_id="mit")
