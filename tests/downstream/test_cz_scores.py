"""Against the tasks of cz-benchmarks itself, fetched at one pinned version; what it fetches data with is left out."""

import importlib
import sys
import warnings
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from selfcell.core.errors import InputError
from selfcell.data.dataset_table import PinnedFile
from selfcell.data.package_index import fetch
from selfcell.downstream.cz_scores import cz_scores

pytestmark = pytest.mark.network

CZ_BENCHMARKS = PinnedFile(
    "cz-benchmarks",
    "cz_benchmarks-0.15.1-py3-none-any.whl",
    "8441d2dd52f8612e93904ae6f9cd8246d5048786bb3e37460f82dc2d17b2777a",
    78845,
)
CLIENTS = ("boto3", "botocore", "botocore.config", "hydra", "hydra.utils", "omegaconf")


class ExactIndex:
    """In the place of hnswlib's, which has no wheels."""

    def __init__(self, space, dim):
        assert space == "l2"

    def init_index(self, *_, **__):
        pass

    set_ef = set_num_threads = init_index

    def add_items(self, data, *_, **__):
        self.data = data

    def knn_query(self, data, k, **_):
        distances, places = NearestNeighbors(n_neighbors=k).fit(self.data).kneighbors(data)
        return places, distances**2


@pytest.fixture
def tasks(monkeypatch):
    for name in CLIENTS:
        monkeypatch.setitem(sys.modules, name, MagicMock())
    monkeypatch.setitem(sys.modules, "hnswlib", SimpleNamespace(Index=ExactIndex))
    monkeypatch.syspath_prepend(str(fetch(CZ_BENCHMARKS)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # umap tells that TensorFlow is not there
        tasks = importlib.import_module("czbenchmarks.tasks")
    yield tasks
    for name in [name for name in sys.modules if name.split(".")[0] == "czbenchmarks"]:
        monkeypatch.delitem(sys.modules, name, raising=False)


def cells():
    rng = np.random.default_rng(0)
    label, batch = np.arange(240) // 2 % 3, np.arange(240) % 2
    space = rng.normal(size=(240, 8)) + 4 * rng.normal(size=(3, 8))[label]
    index = [f"cell {place}" for place in range(240)]
    return (
        space.astype(np.float32),
        pd.Series([f"type {code}" for code in label], index=index),
        pd.Series([f"study {code}" for code in batch], index=index),
    )


def test_scores_are_those_of_its_tasks(tasks):
    space, labels, batch_names = cells()
    scores = cz_scores(space, labels=labels, batch_names=batch_names, seed=3)
    predicted = tasks.MetadataLabelPredictionTask(random_seed=3).run(
        space, tasks.MetadataLabelPredictionTaskInput(labels=labels)
    )
    by_knn = next(
        result.value
        for result in predicted
        if result.params["classifier"] == "knn" and result.metric_type.value == "mean_fold_f1"
    )
    assert scores["mean_fold_f1 (knn)"] == by_knn > 0.9
    clusters = tasks.ClusteringTask(random_seed=3)._run_task(
        space, tasks.ClusteringTaskInput(obs=pd.DataFrame(index=labels.index), input_labels=labels)
    )
    expected = adjusted_rand_score(labels, clusters.predicted_labels)
    assert scores["adjusted_rand_index"] == pytest.approx(expected)
    assert scores["silhouette_score"] > 0.5
    assert scores["entropy_per_cell"] > 0.9  # batches were drawn without regard to the cells


def test_without_batches_integration_is_not_scored(tasks):
    space, labels, _ = cells()
    scores = cz_scores(space, labels=labels)
    assert "entropy_per_cell" not in scores and "mean_fold_accuracy (mean)" in scores


def test_few_cells_with_batches_are_refused(tasks):
    space, labels, batch_names = cells()
    with pytest.raises(InputError, match="100 cells or more to score batches, but there are 60"):
        cz_scores(space[:60], labels=labels[:60], batch_names=batch_names[:60])
