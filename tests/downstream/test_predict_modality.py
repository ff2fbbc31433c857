import anndata
import numpy as np
import pytest

import selfcell
from selfcell.core.config import read_toml
from selfcell.core.errors import InputError
from selfcell.data.simulate import simulate_cells
from selfcell.data.source import open_cells
from selfcell.downstream import predict_modality as module
from selfcell.downstream.cross_modality import CrossModalitySettings
from selfcell.downstream.finetune import finetune
from selfcell.downstream.predict_modality import predict_modality, stored_head
from selfcell.downstream.target_head import predict_targets

TRAINING = {"max_epochs": 12, "minibatch_size": 32, "device": "cpu", "learning_rate": 3e-3, "average_decay": 0.9}
KINDS = {
    "proteins": {"target": "protein_counts"},
    "counts": {"target": "protein_counts", "transform": "counts", "hidden_size": 0},
    "peaks": {"target": "atac_counts", "rank": 4},
    "open": {"target": "atac_counts", "transform": "binary", "rank": 4},
}


@pytest.fixture(scope="module")
def measured():
    return simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, n_proteins=12, n_peaks=40, seed=0)


@pytest.fixture(scope="module")
def tuned(measured, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")

    def run(kind):
        if not (folder / kind).exists():
            settings = {"training": TRAINING, "hidden_size": 32, **KINDS[kind]}
            finetune(
                model, measured, task="cross_modality", donor_key="donor", settings=settings, out=folder / kind,
                show_progress=False,
            )  # fmt: skip
        return selfcell.load(folder / kind)

    return run


@pytest.fixture
def query(measured):
    return anndata.AnnData(X=measured.X.copy(), obs=measured.obs.copy(), var=measured.var.copy())


@pytest.mark.parametrize("kind", list(KINDS))
def test_predictions_follow_what_was_measured_and_bear_its_names(kind, tuned, query, measured, tmp_path):
    target = KINDS[kind]["target"]
    key = predict_modality(query, tuned(kind))
    assert key == f"predicted_{target}"
    assert list(query.uns[f"{key}_names"]) == list(measured.uns[target.replace("_counts", "_names")])
    truth = measured.obsm[target]
    truth = truth if isinstance(truth, np.ndarray) else truth.toarray()
    found = query.obsm[key]
    assert found.shape == truth.shape and found.dtype == np.float32
    assert np.mean([np.corrcoef(np.log1p(truth[:, t]), found[:, t])[0, 1] for t in range(truth.shape[1])]) > 0.1
    query.write_h5ad(tmp_path / "predicted.h5ad")
    assert anndata.read_h5ad(tmp_path / "predicted.h5ad").uns["selfcell"][key]["target"] == target


def test_cells_that_were_learned_from_are_told_and_others_not(tuned, query, caplog):
    predict_modality(query, tuned("proteins"))
    assert "of the 300 cells are among those that the model was trained on" in caplog.text
    caplog.clear()
    other = simulate_cells(n_cells=50, n_genes=60, n_types=3, n_donors=5, seed=1)
    predict_modality(other, tuned("proteins"))
    assert "trained on" not in caplog.text


def test_a_stored_head_predicts_what_was_trained(tuned, measured):
    trained = tuned("proteins")
    assert trained.manifest["task"] == "cross_modality" and trained.manifest["transform"] == "log1p"
    cells = open_cells(measured).aligned_to(trained.genes)
    query = measured.copy()
    predict_modality(query, trained)
    expected = predict_targets(trained.encoder, stored_head(trained), cells).dense()
    np.testing.assert_array_equal(query.obsm["predicted_protein_counts"], expected)


@pytest.mark.parametrize("kind", ["proteins", "peaks"])
def test_some_targets_are_predicted_as_among_all(kind, tuned, query):
    everything, some = query.copy(), query.copy()
    key = predict_modality(everything, tuned(kind))
    names = list(everything.uns[f"{key}_names"])[3:1:-1]
    predict_modality(some, tuned(kind), names=names, key_added="mine")
    np.testing.assert_allclose(some.obsm["mine"], everything.obsm[key][:, [3, 2]], rtol=1e-5, atol=1e-6)
    assert list(some.uns["mine_names"]) == names
    predict_modality(some, tuned(kind), names=[name.upper() for name in names], key_added="shouted")
    assert list(some.uns["shouted_names"]) == names


def test_genes_that_are_missing_are_filled_and_those_of_another_order_put_right(tuned, query):
    shuffled = query[:, np.random.default_rng(0).permutation(60)].copy()
    predict_modality(query, tuned("proteins"))
    predict_modality(shuffled, tuned("proteins"))
    np.testing.assert_allclose(
        shuffled.obsm["predicted_protein_counts"], query.obsm["predicted_protein_counts"], atol=1e-4
    )
    few = query[:, :50].copy()
    few.obsm.clear()
    few.uns.clear()
    predict_modality(few, tuned("proteins"))
    assert few.uns["selfcell"]["predicted_protein_counts"]["share_of_genes"] == pytest.approx(50 / 60)


def test_what_cannot_be_predicted_is_refused(tuned, model, query, monkeypatch):
    with pytest.raises(InputError, match=r"was not trained to predict another modality\. Fine-tune it first"):
        predict_modality(query, model)
    with pytest.raises(InputError, match=r"does not predict 'CD13'\. Did you mean"):
        predict_modality(query, tuned("proteins"), names=["CD13"])
    query.obsm["mine"] = np.zeros((300, 2))
    with pytest.raises(InputError, match=r"obsm\['mine'\] is there already and was not written by selfcell"):
        predict_modality(query, tuned("proteins"), key_added="mine")
    monkeypatch.setattr(module, "MOST_ENTRIES", 100)
    with pytest.raises(InputError, match="300 cells x 12 targets are too many to write at once"):
        predict_modality(query, tuned("proteins"))


def test_settings_of_a_run_are_read_back(tuned):
    stored = read_toml(tuned("peaks").path / "config.toml")["cross_modality"]
    assert CrossModalitySettings.model_validate(stored).rank == 4
