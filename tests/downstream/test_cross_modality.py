import logging

import numpy as np
import pytest
import torch

from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.data.simulate import simulate_cells
from selfcell.data.source import open_cells
from selfcell.data.splits import Split
from selfcell.data.target_transforms import TfIdf
from selfcell.downstream import REGIMES
from selfcell.downstream import cross_modality as task_module
from selfcell.downstream.base import Columns, EncodedCells
from selfcell.downstream.cross_modality import CrossModalitySettings, CrossModalityTask
from selfcell.downstream.neighbors import find_neighbors, mean_of_neighbors
from selfcell.downstream.resampling import TestUnits
from selfcell.downstream.ridge import fit_ridge
from selfcell.downstream.supervised import Start, TrainingPlace
from selfcell.training.fit import FitOutcome

TRAINING = {"max_epochs": 15, "minibatch_size": 32, "device": "cpu", "learning_rate": 3e-3, "average_decay": 0.9}
SPLIT = Split(np.arange(200), np.array([], dtype=np.int64), np.arange(200, 300), unit="cell")
UNITS = TestUnits.of(np.repeat(["a", "b"], 50))


@pytest.fixture(scope="module")
def measured():
    return simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, n_proteins=12, n_peaks=40, seed=0)


@pytest.fixture(scope="module")
def encoded(measured, model):
    return EncodedCells.of(model, open_cells(measured))


def make(adata, *, donor="donor", **settings):
    settings = {"target": "protein_counts", "training": TRAINING, "hidden_size": 32, **settings}
    return CrossModalityTask.of(build(CrossModalitySettings, settings), open_cells(adata), Columns(donor=donor))


def means_score(task):
    space = task.space(SPLIT.train)
    return task.score(space.prediction(np.zeros((100, space.n_directions), dtype=np.float32)), SPLIT, UNITS).values


@pytest.mark.parametrize("regime", list(REGIMES))
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"transform": "clr"},
        {"transform": "counts"},
        {"rank": 5},
        {"target": "atac_counts"},
        {"target": "atac_counts", "transform": "binary"},
        {"target": "atac_counts", "transform": "binary", "rank": 4},
        {"target": "atac_counts", "transform": "counts", "rank": 4},
    ],
    ids=str,
)
def test_every_regime_predicts_better_than_means(measured, encoded, regime, settings):
    task = make(measured, **settings)
    predicted = task.predict(encoded, SPLIT, regime=regime, seed=0)
    scores = task.score(predicted, SPLIT, UNITS)
    assert predicted.shape == (100, len(task.targets.names))
    assert scores.values["pearson_per_feature"] > 0.08 > abs(means_score(task)["pearson_per_feature"])
    if task.targets.kind == "protein_counts":
        assert scores.values["mse"] < means_score(task)["mse"]


def test_scores_are_those_of_the_written_out_correlations(measured, encoded):
    task = make(measured)
    predicted = task.predict(encoded, SPLIT, regime="probe", seed=0)
    truth, values = np.log1p(task.targets.matrix[200:]), predicted.dense()
    scores = task.score(predicted, SPLIT, UNITS).values
    of_cells = [np.corrcoef(one, other)[0, 1] for one, other in zip(truth, values, strict=True)]
    of_targets = [np.corrcoef(one, other)[0, 1] for one, other in zip(truth.T, values.T, strict=True)]
    assert scores["pearson_per_cell"] == pytest.approx(np.mean(of_cells), rel=1e-5)
    assert scores["pearson_per_feature"] == pytest.approx(np.mean(of_targets), rel=1e-5)
    assert scores["pearson_flattened"] == pytest.approx(np.corrcoef(truth.ravel(), values.ravel())[0, 1], rel=1e-5)
    assert scores["mse"] == pytest.approx(((truth - values) ** 2).mean(), rel=1e-5)
    assert {"spearman_per_cell", "spearman_per_feature", "spearman_flattened"} <= set(scores)


def test_the_table_of_targets_has_the_correlation_and_the_error_of_each(measured, encoded, monkeypatch):
    task = make(measured)
    predicted = task.predict(encoded, SPLIT, regime="probe", seed=0)
    table = task.tables(predicted, SPLIT, UNITS)["features"]
    truth = task.space(SPLIT.train).values(task.targets.subset(SPLIT.test))
    assert list(table["feature"]) == list(measured.uns["protein_names"])
    for place, row in table.iterrows():
        true, foretold = truth[:, place].astype(float), predicted.dense()[:, place].astype(float)
        assert row["pearson"] == pytest.approx(np.corrcoef(true, foretold)[0, 1], abs=1e-6)
        assert row["mse"] == pytest.approx(np.square(true - foretold).mean(), rel=1e-5)
    assert np.mean(table["pearson"]) == pytest.approx(
        task.score(predicted, SPLIT, UNITS).values["pearson_per_feature"], rel=1e-6
    )
    monkeypatch.setattr(task_module, "_MOST_NAMED", 11)
    assert task.tables(predicted, SPLIT, UNITS) == {}


def test_zero_shot_is_the_mean_of_the_nearest_cells_in_the_embedding(measured, encoded):
    task = make(measured, n_neighbors=7, weights="distance")
    found = task.predict(encoded, SPLIT, regime="zero_shot", seed=0).dense()
    values, space = np.log1p(task.targets.matrix), encoded.embedding
    neighbors = find_neighbors(space[:200], space[200:], n_neighbors=7)
    expected = mean_of_neighbors(neighbors, values[:200], weights="distance")
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_probe_is_a_ridge_regression_whose_penalty_is_chosen_on_whole_donors(measured, encoded):
    task = make(measured)
    found = task.predict(encoded, SPLIT, regime="probe", seed=0).dense()
    values, space = np.log1p(task.targets.matrix), encoded.embedding
    ridge = fit_ridge(space[:200], values[:200], group_code=task.donor_code[:200])
    np.testing.assert_allclose(found, ridge.predict(space[200:]), atol=1e-4)


def test_sparse_chromatin_is_predicted_as_dense_chromatin_is(measured, encoded):
    other = measured.copy()
    other.obsm["atac_counts"] = measured.obsm["atac_counts"].toarray()
    # Training magnifies what rounding makes of the two, so there is little of it.
    short = {**TRAINING, "max_epochs": 2, "learning_rate": 1e-4}
    for settings in ({}, {"transform": "binary"}, {"transform": "counts", "rank": 4}):
        for regime in ("zero_shot", "probe", "fine_tuned"):
            pair = [make(adata, target="atac_counts", **settings, training=short) for adata in (measured, other)]
            found = [task.predict(encoded, SPLIT, regime=regime, seed=0) for task in pair]
            np.testing.assert_allclose(found[0].dense(), found[1].dense(), atol=2e-3)
            scores = [task.score(answer, SPLIT, UNITS).values["mse"] for task, answer in zip(pair, found, strict=True)]
            assert scores[0] == pytest.approx(scores[1], rel=1e-2)


def test_the_loss_in_directions_has_the_gradient_of_the_loss_of_all_targets(measured, encoded, tmp_path):
    task = make(measured, rank=5, training={**TRAINING, "max_epochs": 1})
    trained, _ = task.train(Start(encoded.model, False, 0), encoded.cells, SPLIT, place=TrainingPlace(tmp_path))
    directions = torch.randn(9, 5, requires_grad=True)
    truth = torch.from_numpy(np.log1p(task.targets.matrix[:9]))
    head = trained.head
    values = directions @ head.get_buffer("components") + head.offset
    (expected,) = torch.autograd.grad((values - truth).square().mean(), directions)
    coordinates = torch.from_numpy(task.space(SPLIT.train).coordinates(truth.numpy()))
    (found,) = torch.autograd.grad(head.compute_loss(directions, coordinates), directions)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("transform", ["binary", "counts"])
@pytest.mark.parametrize("rank", [0, 4])
def test_losses_of_likelihoods_in_blocks_are_those_of_the_whole(
    measured, encoded, tmp_path, monkeypatch, transform, rank
):
    task = make(measured, target="atac_counts", transform=transform, rank=rank, training={**TRAINING, "max_epochs": 1})
    trained, _ = task.train(Start(encoded.model, False, 0), encoded.cells, SPLIT, place=TrainingPlace(tmp_path))
    truth = torch.from_numpy(trained.truth[:9].toarray())
    directions = torch.randn(9, rank or 40, requires_grad=True)
    gradients = []
    for at_once in (1_000, 7):
        monkeypatch.setattr("selfcell.downstream.target_head._TARGETS_AT_ONCE", at_once)
        loss = trained.head.compute_loss(directions, truth)
        gradients.append((loss, *torch.autograd.grad(loss, directions)))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_counts_are_scored_as_log1p_of_the_mean(measured, encoded):
    task = make(measured, transform="counts")
    predicted = task.predict(encoded, SPLIT, regime="fine_tuned", seed=0)
    mean = np.exp(predicted.left + predicted.offset)
    np.testing.assert_allclose(predicted.dense(), np.log1p(mean), rtol=1e-5)


def test_a_head_begins_at_the_means_of_the_training_cells(measured, encoded, monkeypatch, tmp_path):
    outcome = FitOutcome(epochs=1, steps=1, kept_epoch=1, validation_loss=None, seconds=0.0)
    monkeypatch.setattr("selfcell.downstream.supervised.fit", lambda *_, **__: outcome)
    for transform, link in (("log1p", lambda x: x), ("counts", np.exp)):
        task = make(measured, transform=transform)
        begun, _ = task.train(Start(encoded.model, False, 0), encoded.cells, SPLIT, place=TrainingPlace(tmp_path))
        matrix = task.targets.matrix[:200]
        expected = np.log1p(matrix).mean(axis=0) if transform == "log1p" else matrix.mean(axis=0)
        np.testing.assert_allclose(link(begun.head.offset.numpy()), expected, rtol=0.02)


def test_document_frequencies_are_those_of_training_cells_and_travel_with_the_head(measured, encoded, tmp_path):
    task = make(measured, target="atac_counts", training={**TRAINING, "max_epochs": 1})
    trained, _ = task.train(Start(encoded.model, False, 0), encoded.cells, SPLIT, place=TrainingPlace(tmp_path))
    expected = TfIdf.fit(task.targets.subset(SPLIT.train)).inverse_document_frequency
    found = trained.head.get_buffer("inverse_document_frequency").numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_validation_cells_are_watched(measured, encoded, tmp_path):
    split = Split(np.arange(150), np.arange(150, 200), np.arange(200, 300), unit="cell")
    task = make(measured, training={**TRAINING, "max_epochs": 2})
    trained, outcome = task.train(Start(encoded.model, False, 0), encoded.cells, split, place=TrainingPlace(tmp_path))
    assert outcome.validation_loss is not None and len(trained.truth) == 200


def test_ranks_over_cells_are_left_out_where_there_are_too_many(measured, encoded, monkeypatch, caplog):
    task = make(measured)
    with caplog.at_level(logging.INFO, logger="selfcell"):
        task.usable(SPLIT.test, reference=SPLIT.train)
        assert not caplog.text
        monkeypatch.setattr(task_module, "_MOST_RANKED", 10)
        task.usable(SPLIT.test, reference=SPLIT.train)
    assert "Spearman's correlation of each target is left out: ranking" in caplog.text
    scores = task.score(task.predict(encoded, SPLIT, regime="probe", seed=0), SPLIT, UNITS)
    assert "spearman_per_feature" not in scores.values and "spearman_per_cell" in scores.values


def test_fewer_cells_than_neighbors_are_all_averaged(measured, encoded):
    split = Split(np.arange(3), np.array([], dtype=np.int64), np.arange(200, 210), unit="cell")
    found = make(measured).predict(encoded, split, regime="zero_shot", seed=0).dense()
    expected = np.log1p(measured.obsm["protein_counts"][:3]).mean(axis=0)
    np.testing.assert_allclose(found, np.tile(expected, (10, 1)), rtol=1e-5)


def test_a_target_must_be_named_and_there(measured):
    with pytest.raises(InputError, match=r"needs the key of obsm .* there is atac_counts, protein_counts"):
        make(measured, target=None)
    with pytest.raises(
        InputError, match=r"nothing in obsm\['protein_count'\] to predict. Did you mean 'protein_counts'"
    ):
        make(measured, target="protein_count")
    with pytest.raises(InputError, match="TfIdf is for chromatin_counts, but"):
        make(measured, transform="tfidf")
    single = measured.copy()
    single.obsm["protein_counts"] = measured.obsm["protein_counts"][:, :1]
    single.uns["protein_names"] = measured.uns["protein_names"][:1]
    with pytest.raises(InputError, match=r"has 1 column, but at least 2 targets are needed"):
        make(single)


def test_what_a_manifest_holds_names_the_targets(measured):
    about = make(measured).about()
    assert about["target"] == "protein_counts" and about["transform"] == "log1p"
    assert about["target_names"] == [f"CD{place}" for place in range(1, 13)]
