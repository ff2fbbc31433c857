"""Integration as a user types it, on simulated cells, end to end."""

import anndata
import numpy as np
import pandas as pd

SMALL = ["--set", "network.hidden_sizes=[64]", "--set", "network.n_latent=16", "--set", "training.device=cpu"]
QUICK = ["--set", "training.max_epochs=2", "--set", "training.device=cpu"]


def test_finetune_for_integration_embed_and_evaluate(run, file, tmp_path, adata):
    base, integrated = tmp_path / "mae", tmp_path / "integrated"
    fit = ["--set", "training.max_epochs=3", "--set", "training.minibatch_size=64", "--set", "data.test_fraction=0.3"]
    assert run("pretrain", file, "--out", base, "--donor", "donor", *fit, *SMALL)[0] == 0

    code, out, _ = run(
        "finetune", base, file, "--task", "integration", "--batch", "batch", "--donor", "donor", "--out", integrated,
        *QUICK,
    )  # fmt: skip
    assert code == 0 and f"selfcell embed {integrated} CELLS.h5ad --out integrated.h5ad" in out
    adata.obs = adata.obs.drop(columns=["batch", "cell_type"])
    adata.write_h5ad(tmp_path / "new.h5ad")
    assert run("embed", integrated, tmp_path / "new.h5ad", "--out", tmp_path / "embedded.h5ad")[0] == 0
    embedded = [anndata.read_h5ad(tmp_path / "embedded.h5ad").obsm["X_selfcell"]]
    assert run("embed", base, tmp_path / "new.h5ad", "--out", tmp_path / "embedded.h5ad", "--overwrite")[0] == 0
    embedded.append(anndata.read_h5ad(tmp_path / "embedded.h5ad").obsm["X_selfcell"])
    assert embedded[0].shape == (300, 16) and not np.allclose(*embedded)

    code, out, _ = run(
        "evaluate", base, file, "--task", "integration", "--label", "cell_type", "--batch", "batch", "--donor", "donor",
        "--seeds", "2", "--jobs", "1", "--out", tmp_path / "judged", *QUICK,
    )  # fmt: skip
    assert code == 0 and "Total score of integration" in out and (tmp_path / "judged" / "report.html").exists()


def test_embeddings_of_any_model_are_scored_side_by_side(run, tmp_path, adata):
    rng = np.random.default_rng(0)
    adata.obsm["X_mine"] = rng.normal(size=(adata.n_obs, 5))
    adata.obsm["X_other"] = np.eye(2)[adata.obs["batch"].astype("category").cat.codes.to_numpy() % 2] * 9
    adata.obsm["X_other"] = adata.obsm["X_other"] + rng.normal(size=(adata.n_obs, 2))
    adata.write_h5ad(tmp_path / "embedded.h5ad")
    asked = [tmp_path / "embedded.h5ad", "--embedding", "X_mine", "--embedding", "X_other", "--label", "cell_type"]
    code, out, _ = run("score", *asked, "--batch", "batch", "--out", tmp_path / "scores.csv")
    assert code == 0 and "X_mine" in out and "batch_correction" in out
    table = pd.read_csv(tmp_path / "scores.csv", index_col="embedding")
    assert table.at["X_mine", "batch_correction"] > table.at["X_other", "batch_correction"]
    code, out, _ = run("score", *asked)
    assert code == 0 and "bio_conservation" in out and "batch_correction" not in out
    code, _, errors = run("score", *asked, "--by", "scib-metrics")
    assert code == 1 and "--batch" in errors


def test_what_integration_lacks_is_said(run, file, tmp_path):
    base = tmp_path / "mae"
    run("pretrain", file, "--out", base, "--set", "training.max_epochs=1", *SMALL)
    code, _, errors = run("finetune", base, file, "--task", "integration", "--out", tmp_path / "r")
    assert code == 1 and "--batch COLUMN" in errors
    unnamed = anndata.read_h5ad(file)
    unnamed.obs = unnamed.obs.rename(columns={"cell_type": "kind"})
    unnamed.write_h5ad(file)
    code, _, errors = run("evaluate", base, file, "--task", "integration", "--batch", "batch", "--out", tmp_path / "r")
    assert code == 1 and "--label COLUMN" in errors and not (tmp_path / "r").exists()
