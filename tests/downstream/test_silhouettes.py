import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import pairwise_distances, silhouette_samples

from selfcell.downstream import silhouettes as module
from selfcell.downstream.silhouettes import bras, silhouette_label, silhouettes


def codes_of_all(rng, n_cells, n_codes):
    """Draw codes of which each occurs."""
    return rng.permutation(np.concatenate([np.arange(n_codes), rng.integers(n_codes, size=n_cells - n_codes)]))


def bras_by_hand(embedding, batch, label):
    """Written out over pairs of cells, as defined."""
    distances = pairwise_distances(embedding.astype(np.float64), metric="cosine")
    scores = []
    for kind in np.unique(label):
        cells = np.flatnonzero(label == kind)
        if not 1 < len(np.unique(batch[cells])) < len(cells):
            continue
        silhouette = []
        for cell in cells:
            own = [j for j in cells if batch[j] == batch[cell] and j != cell]
            other = [j for j in cells if batch[j] != batch[cell]]
            within, between = distances[cell, own].mean() if own else np.nan, distances[cell, other].mean()
            silhouette.append((between - within) / max(within, between) if own else 0)
        scores.append(np.mean(1 - np.abs(silhouette)))
    return np.mean(scores)


@given(st.integers(2, 5), st.integers(8, 60), st.integers(0, 10_000))
def test_silhouettes_are_scikit_learns(n_codes, n_cells, seed):
    rng = np.random.default_rng(seed)
    embedding, code = rng.normal(size=(n_cells, 6)), codes_of_all(rng, n_cells, n_codes)
    assert silhouettes(embedding, code) == pytest.approx(silhouette_samples(embedding, code), abs=1e-5)


def test_blocks_change_no_silhouette(monkeypatch):
    rng = np.random.default_rng(0)
    embedding, code = rng.normal(size=(500, 8)).astype(np.float32) + 100, codes_of_all(rng, 500, 7)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 64)
    monkeypatch.setattr(module, "_CELLS_AT_ONCE", 96)
    assert silhouettes(embedding, code) == pytest.approx(silhouette_samples(embedding - 100.0, code), abs=1e-4)


def test_equal_cells_and_lone_cells_have_a_silhouette_of_zero():
    embedding = np.array([[0.0], [0.0], [0.0], [5.0]])
    assert silhouettes(embedding, np.array([0, 0, 1, 2])).tolist() == pytest.approx([0, 0, 0, 0])


def test_the_silhouette_of_labels_runs_from_zero_to_one():
    rng = np.random.default_rng(0)
    code = np.repeat([0, 1], 100)
    apart = np.stack([1000.0 * code, rng.normal(size=200)], axis=1)
    assert silhouette_label(apart, label_code=code) > 0.99
    assert silhouette_label(rng.normal(size=(200, 2)), label_code=code) == pytest.approx(0.5, abs=0.02)


@given(st.integers(2, 4), st.integers(1, 3), st.integers(8, 40), st.integers(0, 10_000))
def test_bras_is_its_written_out_definition(n_batches, n_labels, n_cells, seed):
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(n_cells, 5)) + 0.5
    batch, label = codes_of_all(rng, n_cells, n_batches), codes_of_all(rng, n_cells, n_labels)
    if n_labels == 1:  # else some label may have no two batches
        assert bras(embedding, batch_code=batch, label_code=label) == pytest.approx(
            bras_by_hand(embedding, batch, label)
        )
    else:
        batch, label = np.arange(n_cells) % 2, np.arange(n_cells) // 4
        assert bras(embedding, batch_code=batch, label_code=label) == pytest.approx(
            bras_by_hand(embedding, batch, label)
        )


def test_bras_is_high_where_batches_mix_and_low_where_they_do_not():
    rng = np.random.default_rng(0)
    batch, label = np.arange(4000) % 2, np.arange(4000) // 2000
    mixed = rng.normal(size=(4000, 3)) + 5 * label[:, None]
    apart = np.stack([np.where(batch == 1, 5.0, 0.0), np.where(batch == 0, 5.0, 0.0)], axis=1)
    apart += rng.normal(scale=1e-3, size=(4000, 2))
    assert bras(mixed, batch_code=batch, label_code=label) > 0.97
    assert bras(apart, batch_code=batch, label_code=label) < 0.01


def test_a_batch_that_stays_apart_lowers_bras_though_the_others_mix():
    rng = np.random.default_rng(0)
    batch, label = np.arange(600) % 3, np.zeros(600, dtype=int)
    cells = rng.normal(size=(600, 2)) + np.array([5, 0])
    together = bras(cells, batch_code=batch, label_code=label)
    cells[batch == 2] += [-5, 5]
    assert bras(cells, batch_code=batch, label_code=label) < together - 0.3


def test_a_cell_without_a_direction_does_not_spoil_bras():
    embedding = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    score = bras(embedding, batch_code=np.array([0, 0, 1, 1]), label_code=np.zeros(4, dtype=int))
    assert 0 <= score <= 1


def test_bras_is_no_number_where_each_label_has_one_batch():
    code = np.repeat([0, 1], 5)
    assert np.isnan(bras(np.ones((10, 2)), batch_code=code, label_code=code))
