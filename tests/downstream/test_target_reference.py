import anndata
import numpy as np
import pytest

import selfcell
from selfcell.benchmark.query import joined_cells
from selfcell.benchmark.study_plan import StudyPlan
from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.data.atlas.build import build_atlas
from selfcell.data.simulate import simulate_cells
from selfcell.data.source import open_cells
from selfcell.downstream.base import EncodedCells
from selfcell.downstream.cross_modality import CrossModalitySettings, CrossModalityTask
from selfcell.downstream.finetune import finetune
from selfcell.downstream.predict_modality import predict_modality

REGIMES = {"ridge": "probe", "knn": "zero_shot"}


@pytest.fixture(scope="module")
def measured():
    return simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, n_proteins=12, n_peaks=40, seed=0)


@pytest.fixture
def reference(measured):
    return measured[:200].copy()


@pytest.fixture
def query(measured):
    new = measured[200:]
    return anndata.AnnData(X=new.X.copy(), obs=new.obs.copy(), var=new.var.copy())


@pytest.mark.parametrize("by", ["ridge", "knn"])
@pytest.mark.parametrize(
    "settings", [{"target": "protein_counts", "transform": "clr"}, {"target": "atac_counts", "rank": 4}]
)
def test_predictions_are_those_of_the_regimes(by, settings, model, measured, reference, query, tmp_path):
    more = {"n_neighbors": 7, "weights": "distance"} if by == "knn" else {}
    donors = {"donor_key": "donor"} if by == "ridge" else {}
    target = settings["target"]
    key = predict_modality(query, model, reference=reference, by=by, settings={**settings, **more}, **donors)
    assert key == f"predicted_{target}" and query.obsm[key].dtype == np.float32

    built = build(CrossModalitySettings, {**settings, **more})
    plan = StudyPlan(task="cross_modality", donor_key="donor", settings=built)
    test = measured[200:].copy()
    cells, split = joined_cells(open_cells(reference), open_cells(test), plan, model.genes, allow_low_overlap=False)
    task = CrossModalityTask.of(built, cells, plan.columns)
    expected = task.predict(EncodedCells.of(model, cells), split, regime=REGIMES[by], seed=0)
    np.testing.assert_allclose(query.obsm[key], expected.dense(), rtol=1e-4, atol=1e-5)

    scores = selfcell.evaluate(
        model, reference, query=test, task="cross_modality", donor_key="donor", regimes=[REGIMES[by]], jobs=1,
        baselines=["means"], settings=built, n_seeds=1, show_progress=False,
    )  # fmt: skip
    mse = scores.query("metric == 'mse' and method == @REGIMES[@by]")["value"].item()
    truth = task.space(split.train).values(task.targets.subset(split.test))
    truth = truth if isinstance(truth, np.ndarray) else truth.toarray()
    assert np.mean((query.obsm[key] - truth) ** 2) == pytest.approx(mse, rel=1e-4)


def test_what_was_done_is_written_with_it(model, reference, query, tmp_path):
    reference.write_h5ad(tmp_path / "cite.h5ad")
    common = {"reference": tmp_path / "cite.h5ad", "target": "protein_counts", "names": ["cd3", "CD1"]}
    assert predict_modality(query, model, key_added="ridge", donor_key="donor", **common) == "ridge"
    predict_modality(query, model, key_added="knn", by="knn", **common)
    query.write_h5ad(tmp_path / "predicted.h5ad")
    found = anndata.read_h5ad(tmp_path / "predicted.h5ad")
    assert found.obsm["ridge"].shape == (100, 2) and list(found.uns["ridge_names"]) == ["CD3", "CD1"]
    assert not np.allclose(found.obsm["ridge"], found.obsm["knn"])
    how = found.uns["selfcell"]["ridge"]
    assert {name: how[name] for name in ("target", "transform", "by", "reference", "donor")} == {
        "target": "protein_counts", "transform": "log1p", "by": "ridge", "reference": "cite.h5ad", "donor": "donor",
    }  # fmt: skip
    assert how["reference_fingerprint"] == open_cells(reference).aligned_to(model.genes).fingerprint()
    assert found.uns["selfcell"]["knn"]["n_neighbors"] == 30 and found.uns["selfcell"]["knn"]["weights"] == "uniform"


def test_cells_whose_targets_are_known_are_told_and_all_of_them_refused(model, measured, reference, caplog):
    asked = {"reference": reference, "target": "protein_counts"}
    predict_modality(measured[190:].copy(), model, key_added="mine", **asked)
    assert "10 of the 110 cells are in the reference too" in caplog.text
    caplog.clear()
    predict_modality(measured[200:].copy(), model, key_added="mine", **asked)
    assert "in the reference" not in caplog.text
    with pytest.raises(InputError, match=r"All cells of adata are in the reference, .* nothing to predict"):
        predict_modality(measured[:50].copy(), model, **asked)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"by": "knn"}, r"by is for a reference \(--reference\), but there is none"),
        ({"target": "protein_counts", "settings": {"rank": 2}}, r"target and settings \(--set\) is for a reference"),
        ({"reference": "cite"}, r"needs the key of obsm .* In obsm of adata there is atac_counts, protein_counts"),
        ({"reference": "cite", "target": "protein"}, r"nothing in obsm\['protein'\].*Did you mean 'protein_counts'"),
        ({"reference": "cite", "target": "protein_counts", "by": "pca"}, r"by \(--by\) is ridge or knn, but is 'pca'"),
        (
            {"reference": "cite", "target": "protein_counts", "settings": {"hidden_size": 3, "training": {}}},
            "Nothing is trained with a reference: leave the settings hidden_size and training out",
        ),
        (
            {"reference": "cite", "target": "protein_counts", "settings": {"n_neighbors": 3}},
            "A ridge regression has no neighbors: leave the settings n_neighbors out",
        ),
        (
            {"reference": "cite", "target": "protein_counts", "by": "knn", "donor_key": "donor"},
            "are for the penalty of a ridge regression",
        ),
        (
            {"reference": "cite", "target": "protein_counts", "names": ["CD13"]},
            r"adata \(the reference\) does not predict 'CD13'\. Did you mean",
        ),
    ],
)
def test_what_cannot_be_asked_of_a_reference_is_refused(given, message, model, reference, query):
    if "reference" in given:
        given = {**given, "reference": reference}
    before = query.copy()
    with pytest.raises(InputError, match=message):
        predict_modality(query, model, **given)
    assert not query.obsm and list(query.uns) == list(before.uns)


def test_an_atlas_is_no_reference(model, reference, query, tmp_path):
    reference.write_h5ad(tmp_path / "cite.h5ad")
    build_atlas([tmp_path / "cite.h5ad"], tmp_path / "atlas")
    with pytest.raises(InputError, match=r"is an atlas, which keeps counts and obs alone"):
        predict_modality(query, model, reference=tmp_path / "atlas", target="protein_counts")


def test_a_model_that_was_fine_tuned_for_targets_takes_no_reference_and_others_are_warned_of(
    model, reference, query, tmp_path, caplog
):
    quick = {"training": {"max_epochs": 1, "device": "cpu"}}
    told = {"settings": {**quick, "target": "protein_counts"}, "task": "cross_modality", "out": tmp_path / "proteins"}
    tuned = finetune(model, reference, show_progress=False, **told)
    with pytest.raises(InputError, match="was fine-tuned to predict protein_counts and answers without a reference"):
        predict_modality(query, tuned, reference=reference, target="protein_counts")
    typed = finetune(
        model, reference, label_key="cell_type", settings=quick, out=tmp_path / "typed", show_progress=False
    )
    predict_modality(query, typed, reference=reference, target="protein_counts")
    assert "was fine-tuned for cell_type" in caplog.text
