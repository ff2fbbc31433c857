"""Prediction of proteins and chromatin from the command line, end to end on simulated cells."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest

import selfcell
from selfcell.benchmark.evaluate import evaluate
from selfcell.core.errors import InputError
from selfcell.data.atlas.build import build_atlas
from selfcell.data.simulate import simulate_cells

QUICK = ["--set", "training.max_epochs=3", "--set", "training.device=cpu", "--set", "hidden_size=16"]
SOME = ["--regime", "probe", "--regime", "fine_tuned", "--regime", "from_scratch", "--seeds", "2", "--jobs", "1"]


@pytest.fixture
def measured(tmp_path):
    adata = simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, n_proteins=12, n_peaks=30, seed=0)
    path = tmp_path / "cite.h5ad"
    adata.write_h5ad(path)
    return path


def test_finetune_predict_evaluate_report(run, measured, model, tmp_path):
    tuned = tmp_path / "proteins"
    task = ["--task", "cross_modality", "--target", "protein_counts", "--donor", "donor"]
    code, out, _ = run("finetune", model.path, measured, *task, "--out", tuned, *QUICK)
    assert code == 0 and "Done: 3 epochs" in out and f"selfcell predict {tuned}" in out

    predicted = tmp_path / "predicted.h5ad"
    code, out, _ = run("predict", tuned, measured, "--out", predicted, "--only", "CD3", "--only", "CD1")
    assert code == 0 and "2 targets, on the scale log1p" in out
    found = anndata.read_h5ad(predicted)
    assert found.obsm["predicted_protein_counts"].shape == (300, 2)
    assert list(found.uns["predicted_protein_counts_names"]) == ["CD3", "CD1"]

    judged = tmp_path / "judged"
    code, out, _ = run("evaluate", model.path, measured, *task, "--out", judged, *SOME, *QUICK)
    assert code == 0 and "Pearson correlation of each cell" in out and "ridge regression on genes" in out
    assert "Fine-tuned against from scratch" in out
    scores = pd.read_csv(judged / "scores.csv")
    assert {"pearson_per_cell", "pearson_per_feature", "pearson_flattened", "spearman_per_cell", "mse"} <= set(
        scores["metric"]
    )
    assert json.loads((judged / "study.json").read_text())["headline_metric"] == "pearson_per_cell"
    page = (judged / "report.html").read_text()
    assert "How much there is of each target" in page and "Each of what is predicted" in page and "<td>CD3</td>" in page
    features = pd.read_csv(judged / "features.csv.gz")
    assert len(features) == 12 * scores["method"].nunique()
    by_method = features.groupby("method")["pearson"].mean()
    of_all = scores[scores["metric"] == "pearson_per_feature"].groupby("method")["value"].mean()
    np.testing.assert_allclose(by_method.sort_index(), of_all.sort_index(), rtol=1e-4, atol=1e-6)


def test_predict_from_a_reference(run, measured, model, tmp_path):
    whole = anndata.read_h5ad(measured)
    whole[:200].write_h5ad(tmp_path / "reference.h5ad")
    new = anndata.AnnData(X=whole.X[200:], obs=whole.obs[200:], var=whole.var)
    new.write_h5ad(tmp_path / "new.h5ad")
    asked = ["--reference", tmp_path / "reference.h5ad", "--target", "protein_counts", "--only", "CD3"]
    for by, more in (("ridge", ["--donor", "donor"]), ("knn", ["--set", "n_neighbors=5", "--set", "transform=clr"])):
        out = tmp_path / f"{by}.h5ad"
        code, said, errors = run("predict", model.path, tmp_path / "new.h5ad", *asked, "--by", by, *more, "--out", out)
        transform = {"ridge": "log1p", "knn": "clr"}[by]
        assert code == 0 and f"1 target, on the scale {transform}" in said, errors
        found = anndata.read_h5ad(out)
        settings = {"n_neighbors": 5, "transform": "clr"} if by == "knn" else None
        key = selfcell.predict_modality(
            new, model, reference=whole[:200].copy(), target="protein_counts", by=by, names=["CD3"], key_added=by,
            donor_key="donor" if by == "ridge" else None, settings=settings,
        )  # fmt: skip
        np.testing.assert_allclose(found.obsm["predicted_protein_counts"], new.obsm[key], rtol=1e-5, atol=1e-6)
    code, _, errors = run("predict", model.path, tmp_path / "new.h5ad", "--by", "knn", "--out", tmp_path / "p.h5ad")
    assert code == 1 and "by is for a reference (--reference), but there is none" in errors


def test_judged_on_another_data_set_shared_proteins_are_used(run, measured, model, tmp_path):
    other = simulate_cells(n_cells=120, n_genes=60, n_types=3, n_donors=2, n_proteins=9, seed=0)
    other.uns["protein_names"] = np.array([f"cd-{place}" for place in range(4, 13)], dtype=object)
    other.write_h5ad(tmp_path / "other.h5ad")
    code, _, errors = run(
        "evaluate", model.path, measured, "--query", tmp_path / "other.h5ad", "--task", "cross_modality", "--target",
        "protein_counts", "--donor", "donor", "--out", tmp_path / "judged", "--baseline", "gene_ridge", *SOME, *QUICK,
    )  # fmt: skip
    assert code == 0 and "9 of 12 columns of the one and 9 of the other data set are shared and used" in errors
    assert set(pd.read_csv(tmp_path / "judged" / "scores.csv")["n_cells"]) == {120}


def test_a_target_that_is_missing_or_not_named_is_told_before_work(run, measured, file, model, tmp_path):
    out = ["--out", tmp_path / "r"]
    for arguments, message in (
        (("finetune", model.path, measured, "--task", "cross_modality", *out), "there is atac_counts, protein_counts"),
        (
            ("finetune", model.path, measured, "--task", "cross_modality", "--target", "protein", *out),
            "Did you mean 'protein_counts'?",
        ),
        (
            ("evaluate", model.path, file, "--task", "cross_modality", "--target", "protein_counts", *out),
            "There is nothing in obsm['protein_counts'] to predict",
        ),
        (("predict", model.path, file, "--out", tmp_path / "p.h5ad"), "was not trained to predict another modality"),
    ):
        code, _, errors = run(*arguments)
        assert code == 1 and message in errors and "Traceback" not in errors, (arguments, errors)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("target", [["--target", "protein_counts"], []])
def test_an_atlas_has_nothing_to_predict_and_the_file_is_asked_for(run, measured, model, tmp_path, target):
    build_atlas([measured], tmp_path / "atlas")
    task = ["--task", "cross_modality", *target, "--out", tmp_path / "r"]
    for command in (
        ["finetune", model.path, tmp_path / "atlas"],
        ["evaluate", model.path, tmp_path / "atlas"],
        ["evaluate", model.path, measured, "--query", tmp_path / "atlas"],
    ):
        code, _, errors = run(*command, *task)
        assert code == 1 and "atlas is an atlas, which keeps counts and obs alone" in errors, errors
        assert "Give the .h5ad or .h5mu file that it was built of" in errors
    settings = {"target": "protein_counts"} if target else {}
    with pytest.raises(InputError, match="atlas is an atlas, which keeps counts and obs alone"):
        evaluate(model, tmp_path / "atlas", task="cross_modality", settings=settings, show_progress=False)
    assert not (tmp_path / "r").exists()


def test_predict_has_help(run):
    code, out, _ = run("predict", "--help")
    assert code == 0 and "Usage: selfcell predict" in out
