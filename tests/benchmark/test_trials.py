"""What trials share, and what they are told."""

import joblib
import pandas as pd
import pytest
import torch

from selfcell.baselines import scvi_models
from selfcell.baselines.base import ComparedCells
from selfcell.benchmark import trials
from selfcell.benchmark.evaluate import evaluate
from selfcell.benchmark.results import read_results
from selfcell.benchmark.trials import Workplace, n_cores, working_in
from selfcell.data.simulate import simulate_cells

ARGUMENTS = {
    "label_key": "cell_type",
    "donor_key": "donor",
    "batch_key": "batch",
    "labelled_donors": (1, None),
    "n_seeds": 2,
    "regimes": (),
    "baselines": ("scvi", "pca_knn", "scanvi"),
    "show_progress": False,
}


@pytest.fixture
def adata():
    return simulate_cells(n_cells=240, n_genes=60, n_types=3, n_donors=5, seed=0)


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch):
    pytest.importorskip("scvi")
    monkeypatch.setattr(scvi_models, "MAX_EPOCHS", 2)


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_what_needs_no_labels_is_trained_once_a_seed_and_its_seconds_count_for_every_trial(model, adata, monkeypatch):
    asked = []
    made_once = ComparedCells.made_once

    def counted(self, key, make):
        def making():
            asked.append((key, self.batch_key))
            return make()

        return made_once(self, key, making)

    monkeypatch.setattr(ComparedCells, "made_once", counted)
    scores = evaluate(model, adata, **ARGUMENTS, jobs=1)
    assert asked == [(("scVI", 0), "batch"), (("scVI", 1), "batch")]
    of_scvi = scores[(scores["method"] == "scvi") & (scores["metric"] == "macro_f1")]
    assert len(of_scvi) == 4
    for _, of_seed in of_scvi.groupby("finetune_seed"):
        fastest, slowest = sorted(of_seed["seconds"])
        assert fastest > slowest / 3


def test_scores_and_their_order_do_not_depend_on_the_number_of_processes(model, adata, monkeypatch):
    monkeypatch.setattr(trials, "MAKE_ONCE", frozenset({"untrained_encoder"}))
    arguments = {**ARGUMENTS, "baselines": ("pca_knn", "untrained_encoder")}
    one, two = (evaluate(model, adata, **arguments, jobs=jobs) for jobs in (1, 2))
    measured = ["seconds", "peak_memory_mb"]
    pd.testing.assert_frame_equal(one.drop(columns=measured), two.drop(columns=measured))


def test_confidence_is_written_and_read_back(model, adata, tmp_path):
    arguments = {**ARGUMENTS, "regimes": ("zero_shot",), "baselines": (), "n_seeds": 1}
    evaluate(model, adata, **arguments, jobs=1, out=tmp_path / "judged")
    results = read_results(tmp_path / "judged")
    n_test = results.about["split"]["test"]["n_cells"]
    assert len(results.details["confidence"]) == n_test and set(results.details) == {"confidence", "unseen_types"}
    assert results.details["confidence"]["is_unknown"].dtype == bool


def test_processes_share_the_cores_and_do_not_fight_for_them():
    with working_in(Workplace(jobs=2), 2) as at_once:
        pool = joblib.Parallel(n_jobs=2, pre_dispatch=at_once)
        found = pool(joblib.delayed(torch.get_num_threads)() for _ in range(2))
    assert at_once == 2 and found == [max(1, n_cores() // 2)] * 2
