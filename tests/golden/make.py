"""Write golden run folders of the present format: ``python tests/golden/make.py``.

They are made once, by the code that brings a format, and then kept as they are: every later version must read them and
give what ``expected.npz`` holds.
"""

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

import anndata
import numpy as np

import selfcell
from selfcell.data.simulate import simulate_cells
from selfcell.training.run_folder import FORMAT_VERSION

HERE = Path(__file__).parent
LOCAL = ("tensorboard", "checkpoints")
NETWORK = {"hidden_sizes": [8], "n_latent": 4}
PRETEXT = {
    "masked": {"name": "masked_autoencoder"},
    "counts": {"name": "masked_autoencoder", "likelihood": "negative_binomial"},
    "byol": {"name": "byol", "projector_sizes": [8, 4], "predictor_sizes": [8]},
    "barlow_twins": {"name": "barlow_twins", "projector_sizes": [8, 4]},
}
TASKS = {
    "cell_type": ({}, {"label_key": "cell_type"}),
    "cross_modality": ({"target": "protein_counts"}, {}),
    "integration": ({}, {"batch_key": "batch"}),
    "reconstruction": ({}, {}),
}
TRAINING = {"max_epochs": 2, "minibatch_size": 32}


def answers(model: Path, adata: anndata.AnnData) -> dict[str, np.ndarray]:
    """Give all that a model says of some cells."""
    adata, kind = adata.copy(), model.name
    selfcell.embed(adata, str(model))
    found = {"embedding": adata.obsm["X_selfcell"]}
    if kind == "cell_type":
        selfcell.annotate(adata, str(model))
        found["type"] = adata.obs["predicted_type"].to_numpy(dtype=str)
        found["confidence"] = adata.obs["predicted_type_confidence"].to_numpy()
    if kind == "cross_modality":
        selfcell.predict_modality(adata, str(model))
        found["proteins"] = adata.obsm["predicted_protein_counts"]
    if kind in {"masked", "counts", "reconstruction"}:
        selfcell.impute(adata, str(model))
        found["expression"] = adata.layers["imputed"]
    return found


def train(adata: anndata.AnnData, place: Path) -> list[Path]:
    """Train one small model of each kind."""
    for name, pretext in PRETEXT.items():
        settings = {"network": NETWORK, "pretext": pretext, "training": TRAINING, "data": {"donor_key": "donor"}}
        selfcell.pretrain(adata, settings, out=place / name)
    for task, (settings, columns) in TASKS.items():
        selfcell.finetune(
            place / "masked", adata, donor_key="donor", task=task, settings=settings | {"training": TRAINING},
            out=place / task, validation_fraction=0.3, **columns,
        )  # fmt: skip
    return [place / name for name in (*PRETEXT, *TASKS)]


def main(folder: Path) -> None:
    """Make the models, and keep them with what they say."""
    adata = simulate_cells(n_cells=240, n_genes=30, n_types=3, n_donors=4, mean_counts=200.0, n_proteins=5, seed=7)
    asked = anndata.AnnData(adata.X[:12].copy(), var=adata.var.copy())
    folder.mkdir()
    expected = {}
    # From within, so that no manifest names a folder of this machine.
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        for model in train(adata, Path()):
            shutil.copytree(model, folder / model.name, ignore=shutil.ignore_patterns(*LOCAL))
            expected |= {f"{model.name}/{key}": value for key, value in answers(folder / model.name, asked).items()}
    np.savez_compressed(
        folder / "expected.npz", counts=asked.X.toarray(), genes=asked.var_names.to_numpy(str), **expected
    )


if __name__ == "__main__":
    target = HERE / f"format_{FORMAT_VERSION}"
    if target.exists():
        sys.exit(f"{target} is kept as it is.")
    main(target)
