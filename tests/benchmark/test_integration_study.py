"""Integration judged end to end; its scores have no draws of donors."""

import anndata
import numpy as np
import pandas as pd
import pytest

from selfcell.benchmark.evaluate import evaluate
from selfcell.benchmark.results import read_results
from selfcell.benchmark.statistics import ScoreStack
from selfcell.core.errors import InputError
from selfcell.data.simulate import simulate_cells
from selfcell.reporting.html import write_report

QUICK = {"training": {"max_epochs": 1, "minibatch_size": 64, "device": "cpu"}}


@pytest.fixture(scope="module")
def adata():
    return simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=6, n_batches=3, seed=0)


def judge(model, adata, **rest):
    return evaluate(
        model,
        adata,
        **{
            "task": "integration",
            "label_key": "cell_type",
            "batch_key": "batch",
            "settings": QUICK,
            "jobs": 1,
            "show_progress": False,
            **rest,
        },
    )


def test_a_study_of_integration_is_judged_reported_and_read_back(model, adata, tmp_path):
    scores = judge(model, adata, donor_key="donor", out=tmp_path / "judged", n_seeds=2)
    methods = {"zero_shot", "probe", "fine_tuned", "from_scratch", "pca", "untrained_encoder"}
    shown = read_results(tmp_path / "judged").cell_map
    assert list(dict.fromkeys(shown["space"])) == ["fine-tuned embedding", "frozen embedding", "PCA"]
    assert shown["space"].value_counts().nunique() == 1
    assert set(scores["method"]) == methods
    assert {"total", "bio_conservation", "batch_correction", "all_total"} < set(scores["metric"])
    assert np.isfinite(scores["value"]).all() and scores["value"].between(0, 1).all()
    results = read_results(tmp_path / "judged")
    assert results.resamples.empty and results.about["headline_metric"] == "total"
    stack = ScoreStack(results.scores, results.resamples, "total")
    comparison = stack.compare("fine_tuned", "from_scratch", "all donors")
    by_seed = comparison.difference.by_seed
    assert len(by_seed) == 2 and comparison.difference.mean == pytest.approx(np.mean(by_seed))
    of_pca = stack.estimate("pca", "all donors")
    assert np.isnan(of_pca.low) and str(of_pca) == f"{of_pca.mean:.3f}"
    page = write_report(tmp_path / "judged").read_text()
    assert "95 % interval, taking in seeds.</p>" in page and "<h3>Conservation of types</h3>" in page
    assert "Total of scIB over the test cells" in page and "Total score of integration" in page


def test_new_cells_of_a_whole_batch_are_mapped_and_judged(model, adata):
    scores = judge(model, adata, test_where="batch == 'batch 2'", n_seeds=1, regimes=["fine_tuned"], baselines=[])
    values = scores.set_index("metric")["value"]
    assert (
        values["total"] == values["all_total"] and scores["n_cells"].iloc[0] == (adata.obs["batch"] == "batch 2").sum()
    )


def test_a_query_from_another_file_is_mapped_onto_the_reference(model, adata):
    query = simulate_cells(n_cells=100, n_genes=60, n_types=3, seed=0)
    scores = judge(model, adata, query=query, n_seeds=1, regimes=["zero_shot"], baselines=["pca"])
    assert set(scores["method"]) == {"zero_shot", "pca"} and np.isfinite(scores["value"]).all()


def test_an_embedding_that_the_cells_bring_along_is_judged_beside_the_encoder(model, adata):
    other = adata.copy()
    other.obsm["X_truth"] = pd.get_dummies(adata.obs["cell_type"]).to_numpy(dtype=np.float32) + np.random.default_rng(
        0
    ).normal(0, 0.1, size=(300, 3)).astype(np.float32)
    scores = judge(model, other, n_seeds=1, regimes=["zero_shot"], baselines=["obsm:X_truth"])
    total = scores[scores["metric"] == "all_total"].set_index("method")["value"]
    assert total["obsm:X_truth"] > total["zero_shot"]


def test_cells_without_a_batch_are_judged_as_a_batch_of_their_own(model, adata, caplog):
    other = adata.copy()
    other.obs["batch"] = adata.obs["batch"].astype(object).where(np.arange(300) % 3 > 0, np.nan)
    scores = judge(model, other, n_seeds=1, regimes=["zero_shot"], baselines=[])
    assert np.isfinite(scores["value"]).all()
    told = [record.message for record in caplog.records if "have no value in obs['batch']" in record.message]
    assert len(told) == 1


def test_a_study_of_integration_needs_labels_and_batches(model, adata):
    with pytest.raises(InputError, match="judged by cell types"):
        judge(model, anndata.AnnData(adata.X, obs=adata.obs.drop(columns="cell_type"), var=adata.var), label_key=None)
    with pytest.raises(InputError, match="needs the column of obs with the batch"):
        judge(model, adata, batch_key=None)
