import sys

import numpy as np
import pytest

from selfcell.core.errors import InputError
from selfcell.downstream.integration_scores import BATCH_CORRECTION, BIO_CONSERVATION, integration_scores
from selfcell.downstream.scib_scores import scib_scores


def cells():
    rng = np.random.default_rng(0)
    batch, label = np.arange(240) % 2, np.arange(240) // 2 % 3
    embedding = rng.normal(size=(240, 8)) + 2.5 * rng.normal(size=(3, 8))[label] + rng.normal(size=(2, 8))[batch]
    before = embedding + 3 * rng.normal(size=(2, 8))[batch]
    return embedding.astype(np.float32), before.astype(np.float32), batch, label


@pytest.mark.slow
def test_scores_agree_with_scib_metrics():
    embedding, before, batch, label = cells()
    ours = integration_scores(embedding, batch_code=batch, label_code=label, unintegrated=before)
    theirs = scib_scores(embedding, batch_code=batch, label_code=label, unintegrated=before)
    assert set(theirs) == set(ours) | {"isolated_labels", "kbet"}
    for name in ("silhouette_label", "clisi", "bras", "ilisi", "graph_connectivity", "pcr_comparison"):
        assert theirs[name] > 0.01
        assert ours[name] == pytest.approx(theirs[name], abs=1e-4), name
    # Theirs starts k-means once.
    assert ours["nmi_kmeans"] > theirs["nmi_kmeans"] - 0.01 and ours["ari_kmeans"] > theirs["ari_kmeans"] - 0.01
    bio = np.mean([theirs[name] for name in (*BIO_CONSERVATION, "isolated_labels")])
    correction = np.mean([theirs[name] for name in (*BATCH_CORRECTION, "kbet")])
    assert theirs["total"] == pytest.approx(0.6 * bio + 0.4 * correction)


def test_the_extra_is_named_where_scib_metrics_is_missing(monkeypatch):
    embedding, before, batch, label = cells()
    monkeypatch.setitem(sys.modules, "scib_metrics.benchmark", None)
    monkeypatch.setitem(sys.modules, "scib_metrics", None)
    with pytest.raises(InputError, match=r"needs scib_metrics: in a clone of selfcell, pip install '\.\[scib\]'"):
        scib_scores(embedding, batch_code=batch, label_code=label, unintegrated=before)


def test_too_few_cells_are_refused_before_anything_is_compiled():
    embedding, _, batch, label = cells()
    with pytest.raises(InputError, match="needs more than 90 cells, but there are 60"):
        scib_scores(embedding[:60], batch_code=batch[:60], label_code=label[:60])
