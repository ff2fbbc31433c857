"""Reconstruction as a user types it: judged, fine-tuned, and used to impute."""

import anndata
import pandas as pd
import pytest

SMALL = ["--set", "network.hidden_sizes=[32]", "--set", "network.n_latent=8", "--set", "training.device=cpu"]
QUICK = ["--set", "training.max_epochs=2", "--set", "training.minibatch_size=64", "--set", "training.device=cpu"]


@pytest.fixture
def base(run, file, tmp_path):
    out = tmp_path / "mae"
    code, *_ = run(
        "pretrain", file, "--out", out, "--donor", "donor", "--set", "training.max_epochs=5", "--set",
        "data.test_fraction=0.2", *SMALL,
    )  # fmt: skip
    assert code == 0
    return out


def test_evaluate_tells_regimes_and_baselines_of_reconstruction(run, file, base, tmp_path):
    judged = tmp_path / "judged"
    code, out, errors = run(
        "evaluate", base, file, "--task", "reconstruction", "--donor", "donor", "--out", judged, "--seeds", "2",
        "--jobs", "1", *QUICK,
    )  # fmt: skip
    assert code == 0, errors
    for text in ("Explained variance", "fine-tuned", "gene means", "neighbors' mean", "Zero-shot against PCA"):
        assert text in out
    scores = pd.read_csv(judged / "scores.csv")
    assert {"zero_shot", "probe", "fine_tuned", "from_scratch", "gene_means", "pca", "knn_smoothing"} == set(
        scores["method"]
    )
    assert {"explained_variance_weighted", "hidden_mse", "hidden_pearson_per_cell"} <= set(scores["metric"])
    page = (judged / "report.html").read_text()
    assert "Does the network as pre-training left it do better than PCA?" in page


def test_a_fine_tuned_decoder_imputes(run, file, base, tmp_path):
    tuned, imputed = tmp_path / "tuned", tmp_path / "imputed.h5ad"
    code, out, errors = run("finetune", base, file, "--task", "reconstruction", "--out", tuned, *QUICK)
    assert code == 0 and f"Next: selfcell impute {tuned}" in out, errors
    code, out, errors = run("impute", tuned, file, "--out", imputed, "--gene", "GENE1", "--gene", "GENE5")
    assert code == 0 and "300 cells x 2 genes" in out, errors
    assert list(anndata.read_h5ad(imputed).var_names) == ["GENE1", "GENE5"]


def test_impute_writes_all_genes_and_refuses_what_is_there(run, file, base, tmp_path):
    out = tmp_path / "imputed.h5ad"
    code, said, _ = run("impute", base, file, "--out", out, "--layer-added", "mean", "--as-counts")
    assert code == 0 and 'layers["mean"]: counts' in said
    assert anndata.read_h5ad(out).layers["mean"].shape == (300, 60)
    code, _, errors = run("impute", base, file, "--out", out)
    assert code == 1 and "exists already" in errors
    code, _, errors = run("impute", base, file, "--out", tmp_path / "x.h5ad", "--gene", "GENE")
    assert code == 1 and "There is no gene 'GENE'" in errors
    assert run("impute", "--help")[0] == 0
