import sys
import types

import anndata
import numpy as np
import pandas as pd
import pytest

from selfcell.cli.options import ScorerChoice
from selfcell.core.errors import InputError
from selfcell.downstream.integration_scores import integration_scores
from selfcell.downstream.scib_scores import scib_scores
from selfcell.downstream.score_embeddings import SCORERS, score_embeddings


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    batch, label = np.arange(240) % 2, np.arange(240) // 2 % 3
    good = rng.normal(size=(240, 8)) + 2.5 * rng.normal(size=(3, 8))[label]
    bad = good + 5 * rng.normal(size=(2, 8))[batch]
    obs = pd.DataFrame({"type": [f"type {code}" for code in label], "study": [f"study {code}" for code in batch]})
    obs.index = [f"cell {place}" for place in range(240)]
    return anndata.AnnData(obs=obs, obsm={"X_good": good.astype(np.float32), "X_bad": bad.astype(np.float32)})


def codes(adata):
    return {
        "batch_code": adata.obs["study"].astype("category").cat.codes.to_numpy(),
        "label_code": adata.obs["type"].astype("category").cat.codes.to_numpy(),
    }


def test_embeddings_are_scored_side_by_side(adata):
    table = score_embeddings(adata, ["X_good", "X_bad"], label_key="type", batch_key="study", unintegrated="X_bad")
    assert list(table.index) == ["X_good", "X_bad"]
    expected = integration_scores(adata.obsm["X_good"], unintegrated=adata.obsm["X_bad"], **codes(adata))
    assert table.loc["X_good"].to_dict() == expected
    assert table.at["X_good", "batch_correction"] > table.at["X_bad", "batch_correction"] + 0.2


@pytest.mark.slow
def test_scores_by_scib_metrics_are_its_own(adata):
    table = score_embeddings(adata, ["X_good"], label_key="type", batch_key="study", by="scib-metrics")
    assert table.loc["X_good"].to_dict() == scib_scores(adata.obsm["X_good"], **codes(adata))


def test_cells_without_a_label_are_left_out_and_counted(adata, caplog):
    whole = score_embeddings(adata[30:].copy(), ["X_good"], label_key="type", batch_key="study")
    adata.obs.iloc[:30, 0] = None
    with caplog.at_level("WARNING", "selfcell"):
        part = score_embeddings(adata, ["X_good"], label_key="type", batch_key="study")
    assert "30 of 240 cells have no label and are left out" in caplog.text
    pd.testing.assert_frame_equal(part, whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": ["X_godo"]}, r"There is no obsm\['X_godo'\].*X_good"),
        ({"embeddings": []}, "Name an embedding to score"),
        ({"label_key": "types"}, "no column 'types' in obs.*'type'"),
        ({"batch_key": None, "by": "scib-metrics"}, "compare batches: name their column"),
        ({"by": "scib"}, "no scores by 'scib'.*scib-metrics"),
        ({"label_key": "one"}, "has 1 type: there is nothing to tell apart"),
    ],
)
def test_what_cannot_be_scored_is_refused(adata, change, message):
    adata.obs["one"] = "T cell"
    given = {"embeddings": ["X_good"], "label_key": "type", "batch_key": "study"} | change
    with pytest.raises(InputError, match=message):
        score_embeddings(adata, given.pop("embeddings"), **given)


def test_without_batches_types_alone_are_scored_and_as_they_are_with_them(adata):
    names = ["silhouette_label", "clisi", "nmi_kmeans", "ari_kmeans", "bio_conservation"]
    alone = score_embeddings(adata, ["X_good"], label_key="type")
    assert list(alone) == names
    both = score_embeddings(adata, ["X_good"], label_key="type", batch_key="study")
    pd.testing.assert_frame_equal(alone, both[names])


def test_numbers_that_are_not_finite_are_refused(adata):
    adata.obsm["X_good"][3, 2] = np.nan
    with pytest.raises(InputError, match="one vector of finite numbers for each cell"):
        score_embeddings(adata, ["X_good"], label_key="type", batch_key="study")


def test_how_to_get_cz_benchmarks_is_said_where_it_is_missing(adata, monkeypatch):
    monkeypatch.setitem(sys.modules, "czbenchmarks", None)
    with pytest.raises(InputError, match="pip install cz-benchmarks"):
        score_embeddings(adata, ["X_good"], label_key="type", by="cz-benchmarks")


def test_rare_types_alone_are_refused(adata, monkeypatch):
    package = types.ModuleType("czbenchmarks")
    package.tasks = types.ModuleType("czbenchmarks.tasks")
    monkeypatch.setitem(sys.modules, "czbenchmarks", package)
    monkeypatch.setitem(sys.modules, "czbenchmarks.tasks", package.tasks)
    with pytest.raises(InputError, match="two types of 10 cells or more"):
        score_embeddings(adata[:18].copy(), ["X_good"], label_key="type", by="cz-benchmarks")


def test_the_command_offers_every_scorer():
    assert [choice.value for choice in ScorerChoice] == list(SCORERS)
