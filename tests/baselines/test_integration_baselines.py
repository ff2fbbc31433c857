import sys

import numpy as np
import pytest

from selfcell.baselines import BASELINES, ON_REQUEST, SEEDLESS, usual_baselines
from selfcell.baselines.base import ComparedCells, Problem
from selfcell.baselines.find import find_baseline
from selfcell.core.errors import InputError
from selfcell.data.simulate import simulate_cells
from selfcell.data.source import open_cells
from selfcell.data.splits import Split
from selfcell.downstream.base import Columns
from selfcell.downstream.integration import IntegrationSettings, IntegrationTask
from selfcell.downstream.resampling import TestUnits
from selfcell.network.encoder import EncoderSettings

SPLIT = Split(np.arange(130), np.array([], dtype=np.int64), np.arange(130, 200), unit="cell")
NEEDS = {"harmony": "harmonypy", "scvi": "scvi", "scanvi": "scvi"}


def problem_of(obs=lambda obs: obs, *, seed=0):
    adata = simulate_cells(n_cells=200, n_genes=60, n_types=3, seed=0)
    adata.obs = obs(adata.obs)
    cells = open_cells(adata)
    task = IntegrationTask.of(IntegrationSettings(), cells, Columns("cell_type", "donor", "batch"))
    network = EncoderSettings(hidden_sizes=(16,), n_latent=10)
    return Problem(task, ComparedCells(cells, unlabelled=SPLIT.train, network=network, batch_key="batch"), SPLIT, seed)


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch):
    monkeypatch.setattr("selfcell.baselines.scvi_models.MAX_EPOCHS", 2)


@pytest.fixture(params=list(BASELINES["integration"]))
def name(request):
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    return request.param


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_every_baseline_embeds_all_cells_and_is_scored(name):
    problem = problem_of()
    space = find_baseline("integration", name)(problem)
    assert len(space) == 200 and np.isfinite(space).all()
    scores = problem.task.score(space, SPLIT, TestUnits.of_cells(70)).values
    assert 0 < scores["total"] < 1


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_the_same_seed_gives_the_same_space_and_moves_no_global_random_numbers(name):
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    first = find_baseline("integration", name)(problem_of())
    assert (np.random.random(3) == expected).all()  # noqa: NPY002
    np.testing.assert_array_equal(first, find_baseline("integration", name)(problem_of()))
    other = find_baseline("integration", name)(problem_of(seed=7))
    if name in SEEDLESS:
        np.testing.assert_array_equal(first, other)


def with_other_test_cells(obs):
    test = np.arange(200) >= 130
    return obs.assign(
        batch=np.where(test, "a batch never seen", obs["batch"]), cell_type=np.where(test, "type 0", obs["cell_type"])
    )


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_all_but_harmony_map_test_cells_without_knowing_their_batch_or_type(name):
    one, other = (
        find_baseline("integration", name)(problem_of(obs)) for obs in (lambda obs: obs, with_other_test_cells)
    )
    assert np.array_equal(one, other) == (name != "harmony")


def test_what_needs_an_extra_is_run_on_request_alone():
    assert usual_baselines("integration") == ("pca", "untrained_encoder")
    assert set(NEEDS) <= ON_REQUEST


@pytest.mark.parametrize("name", list(NEEDS))
def test_a_missing_extra_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, NEEDS[name], None)
    extra = {"harmonypy": "integration", "scvi": "scvi"}[NEEDS[name]]
    with pytest.raises(
        InputError,
        match=rf"he baselines? .*{name}.* needs {NEEDS[name]}: in a clone of selfcell, pip install '\.\[{extra}\]'",
    ):
        find_baseline("integration", name)(problem_of())
