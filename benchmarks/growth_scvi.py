"""Steps of scvi-tools' SCVI on the same cells: an arm of benchmarks/growth.py, run in an interpreter of its own."""

import anndata
import scipy.sparse as sp
import scvi
from step_timing import HIDDEN_SIZES, N_LATENT, StepClock, StepRequest, run

MOST_EPOCHS = 10_000


def train(request: StepRequest, counts: sp.csr_matrix, clock: StepClock) -> None:
    """Train with the package's own loader on all cells in memory, every setting but the sizes at its default."""
    cells = anndata.AnnData(counts)
    scvi.model.SCVI.setup_anndata(cells)
    model = scvi.model.SCVI(cells, n_hidden=int(HIDDEN_SIZES[0] * request.width), n_latent=N_LATENT)
    model.train(
        max_epochs=MOST_EPOCHS,
        accelerator="cpu",
        train_size=1.0,
        batch_size=request.minibatch,
        callbacks=[clock],
        enable_progress_bar=False,
    )


if __name__ == "__main__":
    run(train, package=f"scvi-tools {scvi.__version__}")
