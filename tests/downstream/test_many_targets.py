"""As many peaks as there are in chromatin: nothing of cells x peaks is made dense."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

from selfcell.data.simulate import simulate_cells
from selfcell.downstream.finetune import finetune
from selfcell.downstream.predict_modality import predict_modality

N_CELLS, N_PEAKS = 300, 136_771


@pytest.mark.slow
def test_many_peaks_are_learned_and_told_without_a_dense_copy(model, tmp_path):
    cells = simulate_cells(n_cells=N_CELLS, n_genes=60, n_types=3, n_donors=5, seed=1)
    peaks = sp.random(N_CELLS, N_PEAKS, density=0.005, format="csr", rng=np.random.default_rng(0), dtype=np.float32)
    peaks.data = np.ceil(3 * peaks.data)
    cells.obsm["atac_counts"] = peaks
    cells.uns["atac_names"] = np.array([f"chr1:{1000 * place}-{1000 * place + 500}" for place in range(N_PEAKS)])
    settings = {"target": "atac_counts", "training": {"max_epochs": 1, "minibatch_size": 512, "device": "cpu"}}
    tracemalloc.start()
    try:
        tuned = finetune(
            model, cells, task="cross_modality", settings=settings, out=tmp_path / "tuned", show_progress=False
        )
        key = predict_modality(cells, tuned, names=list(cells.uns["atac_names"][:3]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert tuned.manifest["fit"]["epochs"] == 1 and len(tuned.manifest["target_names"]) == N_PEAKS
    assert tuned.head_state["head.components"].shape == (50, N_PEAKS)
    assert cells.obsm[key].shape == (N_CELLS, 3) and np.isfinite(cells.obsm[key]).all()
    # Half of a dense copy in float64 is one in float32, and not even that is made.
    assert peak < 0.9 * N_CELLS * N_PEAKS * 4
