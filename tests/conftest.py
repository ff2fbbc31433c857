"""Small seeded data, a small network, and torch on one thread."""

import logging
import os
from collections.abc import Iterator

import anndata
import hypothesis
import numpy as np
import pytest
import requests
import torch

from selfcell.core.config import build
from selfcell.data.package_index import read_pip_settings
from selfcell.data.simulate import simulate_cells
from selfcell.data.source import Cells, open_cells
from selfcell.network.encoder import EncoderSettings, MlpEncoder
from selfcell.training.pretrain import pretrain
from selfcell.training.run_folder import TrainedModel
from selfcell.training.settings import PretrainSettings

torch.set_num_threads(1)
# The first call of a compiled loop compiles it, and other work may run on the machine.
hypothesis.settings.register_profile("selfcell", deadline=None)
hypothesis.settings.load_profile("selfcell")

SMALL = {
    "data": {"donor_key": "donor"},
    "network": {"hidden_sizes": [64], "n_latent": 16},
    "training": {"max_epochs": 3, "minibatch_size": 64, "device": "cpu"},
}


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, request) -> None:
    """Keep tests away from the user's cache, but for those that fetch real data."""
    if "network" not in request.keywords:
        monkeypatch.setenv("SELFCELL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def logger_as_it_was() -> Iterator[None]:
    """Undo what a command run in this process does to the logger."""
    logger = logging.getLogger("selfcell")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@pytest.fixture(autouse=True)
def skipped_without_network(request) -> None:
    """Skip tests that fetch data where there is no network, unless it is required, as in CI."""
    if "network" in request.keywords and not os.environ.get("SELFCELL_REQUIRE_NETWORK"):
        try:
            requests.head(read_pip_settings().index_urls[0], timeout=5)
        except (requests.RequestException, IndexError):
            pytest.skip("no network: this test fetches data from the package index")


@pytest.fixture
def adata() -> anndata.AnnData:
    return simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, seed=0)


@pytest.fixture
def cells(adata: anndata.AnnData) -> Cells:
    return open_cells(adata)


@pytest.fixture
def encoder() -> MlpEncoder:
    torch.manual_seed(0)
    return MlpEncoder(EncoderSettings(hidden_sizes=(16, 12), n_latent=8), n_genes=60)


@pytest.fixture(scope="session")
def small_settings() -> PretrainSettings:
    return build(PretrainSettings, SMALL)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, small_settings: PretrainSettings) -> TrainedModel:
    """A model pre-trained on the cells of ``adata``, with a fifth of them set aside."""
    settings = small_settings.model_copy(
        update={
            "data": small_settings.data.model_copy(update={"test_fraction": 0.2}),
            "training": small_settings.training.model_copy(
                update={"max_epochs": 40, "minibatch_size": 32, "learning_rate": 3e-3}
            ),
        }
    )
    simulated = simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, seed=0)
    return pretrain(simulated, settings, out=tmp_path_factory.mktemp("model") / "run", show_progress=False)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
