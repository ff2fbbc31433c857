import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from selfcell.core.errors import InputError
from selfcell.downstream.integration_scores import (
    BATCH_CORRECTION,
    BIO_CONSERVATION,
    check_integration,
    graph_connectivity,
    integration_scores,
    kmeans_agreement,
    pcr_comparison,
)

N_CELLS, N_BATCHES, N_LABELS = 600, 3, 4


def cells(*, batch_effect=0.0, label_effect=6.0, seed=0):
    """Give an embedding, batches and labels."""
    rng = np.random.default_rng(seed)
    batch, label = rng.integers(N_BATCHES, size=N_CELLS), rng.integers(N_LABELS, size=N_CELLS)
    centers = rng.normal(size=(N_BATCHES + N_LABELS, 10))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    means = batch_effect * centers[batch] + label_effect * centers[N_BATCHES + label]
    return rng.normal(size=(N_CELLS, 10)) + means, batch, label


def score(embedding, batch, label, **options):
    return integration_scores(embedding, batch_code=batch, label_code=label, **options)


def test_every_score_is_near_one_where_types_are_apart_and_batches_mixed():
    before, batch, label = cells(batch_effect=20)
    after, *_ = cells(label_effect=30)
    scores = score(after, batch, label, unintegrated=before)
    assert all(scores[name] > 0.8 for name in (*BIO_CONSERVATION, *BATCH_CORRECTION)) and scores["total"] > 0.9


def test_batches_that_lie_apart_are_scored_low():
    embedding, batch, label = cells(batch_effect=30, label_effect=30)
    scores = score(embedding, batch, label, unintegrated=embedding)
    assert scores["ilisi"] < 0.01 and scores["pcr_comparison"] == 0 and scores["bras"] < 0.7
    assert scores["graph_connectivity"] < 0.5 and scores["clisi"] == pytest.approx(1)


def test_noise_conserves_nothing():
    _, batch, label = cells()
    scores = score(np.random.default_rng(5).normal(size=(N_CELLS, 10)), batch, label)
    assert scores["nmi_kmeans"] < 0.05 and abs(scores["ari_kmeans"]) < 0.05 and scores["clisi"] < 0.25


def test_batch_and_label_have_their_roles():
    embedding, batch, label = cells(batch_effect=3)
    scores, swapped = score(embedding, batch, label), score(embedding, label, batch)
    for name in (*BIO_CONSERVATION, "bras", "ilisi", "graph_connectivity"):
        assert scores[name] != pytest.approx(swapped[name], abs=0.01), name


def test_means_and_total_are_those_of_the_scores():
    embedding, batch, label = cells(batch_effect=3)
    scores = score(embedding, batch, label, unintegrated=embedding[:, ::-1])
    assert tuple(scores) == (*BIO_CONSERVATION, *BATCH_CORRECTION, "bio_conservation", "batch_correction", "total")
    assert scores["bio_conservation"] == pytest.approx(np.mean([scores[name] for name in BIO_CONSERVATION]))
    assert scores["batch_correction"] == pytest.approx(np.mean([scores[name] for name in BATCH_CORRECTION]))
    assert scores["total"] == pytest.approx(0.6 * scores["bio_conservation"] + 0.4 * scores["batch_correction"])


def test_without_an_embedding_before_integration_there_is_no_comparison():
    embedding, batch, label = cells(batch_effect=3)
    scores = score(embedding, batch, label)
    assert "pcr_comparison" not in scores
    assert scores["batch_correction"] == pytest.approx(np.mean([scores[name] for name in BATCH_CORRECTION[:3]]))


def test_numbers_of_codes_and_order_of_cells_do_not_matter():
    embedding, batch, label = cells(batch_effect=3)
    order = np.random.default_rng(0).permutation(N_CELLS)
    expected = score(embedding, batch, label)
    changed = score(embedding[order], 10 * batch[order] + 2, 7 - label[order])
    for name in ("silhouette_label", "clisi", "bras", "ilisi", "graph_connectivity"):
        assert changed[name] == pytest.approx(expected[name], abs=1e-6), name


def test_the_same_seed_gives_the_same_scores():
    embedding, batch, label = cells(batch_effect=3, label_effect=1)
    assert score(embedding, batch, label, seed=4) == score(embedding, batch, label, seed=4)


def test_a_part_of_the_cells_keeps_the_share_of_each_pair_and_scores_alike(caplog):
    embedding, batch, label = cells(batch_effect=2)
    with caplog.at_level(logging.INFO):
        part = score(embedding, batch, label, max_cells=400)
    assert "scored on 400 of 600 cells" in caplog.text
    assert part["silhouette_label"] == pytest.approx(score(embedding, batch, label)["silhouette_label"], abs=0.02)


def test_few_cells_have_smaller_neighborhoods_and_it_is_said(caplog):
    embedding, batch, label = cells()
    scores = score(embedding[:40], batch[:40], label[:40])
    assert "has 40 cells, fewer than the 90 neighbors asked for" in caplog.text
    assert all(np.isfinite(value) for value in scores.values())


def test_clusters_that_are_the_types_agree_fully():
    embedding, _, label = cells(label_effect=50)
    assert kmeans_agreement(embedding, label_code=label, seed=0) == (pytest.approx(1), pytest.approx(1))


def test_graph_connectivity_is_the_largest_strongly_connected_share():
    indices = np.array([[0, 1], [1, 0], [2, 1], [3, 4], [4, 3], [5, 0]])  # 2 reaches 1, but nothing reaches 2
    label = np.array([0, 0, 0, 1, 1, 1])
    assert graph_connectivity(indices, label_code=label) == pytest.approx(2 / 3)
    assert graph_connectivity(indices, label_code=np.zeros(6, dtype=int)) == pytest.approx(2 / 6)


@given(st.integers(2, 4), st.integers(0, 10_000))
def test_the_comparison_is_that_of_principal_component_regressions(n_batches, seed):
    rng = np.random.default_rng(seed)
    batch = np.arange(50) % n_batches
    before = rng.normal(size=(50, 4)) + 3 * rng.normal(size=(n_batches, 4))[batch]
    after = rng.normal(size=(50, 3))

    def explained(table):
        pca = PCA().fit(table)
        components, one_hot = pca.transform(table), np.eye(n_batches)[batch]
        shares = [LinearRegression().fit(one_hot, one).score(one_hot, one) for one in components.T]
        return np.average(shares, weights=pca.explained_variance_)

    expected = (explained(before) - explained(after)) / explained(before)
    assert pcr_comparison(before, after, batch_code=batch) == pytest.approx(max(expected, 0))


def test_nothing_to_take_away_is_no_success():
    table = np.array([[1.0], [2.0], [1.0], [2.0]])
    assert pcr_comparison(table, table, batch_code=np.array([0, 0, 1, 1])) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": np.zeros(N_CELLS, dtype=int)}, "All cells are of one batch. Integration needs at least two"),
        ({"label": np.zeros(N_CELLS, dtype=int)}, "All cells are of one cell type"),
        ({"batch": np.full(N_CELLS, -1)}, "batch_code is negative for 600 cells, as pandas codes what is missing"),
        ({"label": np.r_[-1, np.zeros(N_CELLS - 1, dtype=int)]}, "label_code is negative for 1 cells"),
        ({"embedding": np.full((N_CELLS, 2), np.nan)}, "embedding has values that are not finite"),
        ({"embedding": np.ones((N_CELLS, 2))}, "embedding is the same for all 600 cells"),
        ({"max_cells": 0}, "max_cells must be 1 or more, but is 0"),
    ],
)
def test_what_cannot_be_scored_is_refused(change, message):
    embedding, batch, label = cells()
    arguments = {"embedding": embedding, "batch": batch, "label": label} | change
    with pytest.raises(InputError, match=message):
        score(**arguments)


@pytest.mark.parametrize("name", ["batch_code", "label_code", "unintegrated"])
def test_arrays_of_other_cells_are_refused(name):
    embedding, batch, label = cells()
    arguments = {"batch_code": batch, "label_code": label, "unintegrated": embedding}
    with pytest.raises(InputError, match=f"{name} has 5 cells, but the embedding has 600"):
        check_integration(embedding, **arguments | {name: arguments[name][:5]})


def test_batches_that_are_the_cell_types_are_refused():
    embedding, batch, _ = cells()
    with pytest.raises(InputError, match=r"No cell type is found in two batches.*Choose another batch column"):
        score(embedding, batch, batch)
