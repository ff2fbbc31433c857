import logging

import anndata
import numpy as np
import pandas as pd
import pytest

from selfcell.core.errors import InputError
from selfcell.data.simulate import simulate_cells
from selfcell.data.source import open_cells
from selfcell.data.splits import Split
from selfcell.downstream.annotate import annotate
from selfcell.downstream.base import Columns, EncodedCells
from selfcell.downstream.cell_type import CellTypeSettings, CellTypeTask
from selfcell.downstream.embed import embed_counts
from selfcell.downstream.finetune import finetune
from selfcell.downstream.rejection import auroc_of_unseen
from selfcell.training.pretrain import pretrain
from selfcell.training.run_folder import load

QUICK = {"training": {"max_epochs": 12, "minibatch_size": 32, "device": "cpu", "learning_rate": 0.01}}


@pytest.fixture
def halves(adata):
    return adata[:200].copy(), adata[200:].copy()


def test_types_and_confidence_come_from_the_reference(halves, model, tmp_path):
    reference, query = halves
    before = query.copy()
    annotate(query, model, reference=reference, label_key="cell_type", key_added="guess")
    assert (query.obs["guess"].astype(str) == query.obs["cell_type"].astype(str)).mean() > 0.8
    assert query.obs["guess"].dtype == "category" and query.obs["guess_confidence"].between(0, 1).all()
    added = {"guess", "guess_confidence", "guess_is_unknown", "guess_distance", "guess_familiarity", "guess_set"}
    assert set(query.obs) - set(before.obs) == added and list(query.obsm) == []
    assert query.uns["selfcell"]["guess"]["by"] == "knn"
    sets = query.obs["guess_set"].astype(str).str.split(" | ", regex=False)
    assert set(sets.explode()) <= {*reference.obs["cell_type"].unique(), ""}
    holds_truth = [str(truth) in names for truth, names in zip(query.obs["cell_type"], sets, strict=True)]
    assert np.mean(holds_truth) > 0.9 and query.obs.loc[(sets.str.join("") == ""), "guess_is_unknown"].all()
    query.write_h5ad(tmp_path / "annotated.h5ad")
    assert anndata.read_h5ad(tmp_path / "annotated.h5ad").uns["selfcell"]["guess"]["label"] == "cell_type"


def test_the_distance_is_the_mean_of_those_to_the_neighbors(halves, model):
    reference, query = halves
    annotate(query, model, reference=reference, label_key="cell_type", n_neighbors=4)
    known, asked = (embed_counts(model.encoder, cells.X) for cells in (reference, query))
    apart = np.sqrt(((asked[:, None] - known[None]) ** 2).sum(axis=2))
    expected = np.sort(apart, axis=1)[:, :4].mean(axis=1)
    np.testing.assert_allclose(query.obs["predicted_type_distance"], expected, rtol=1e-3)


def test_the_confident_cells_are_right_more_often(halves, model):
    reference, query = halves
    annotate(query, model, reference=reference, label_key="cell_type", n_neighbors=15)
    right = (query.obs["predicted_type"].astype(str) == query.obs["cell_type"].astype(str)).to_numpy()
    confident = query.obs["predicted_type_confidence"].to_numpy() > 0.9
    assert right[confident].mean() >= right.mean()


def test_a_fine_tuned_model_needs_no_reference(halves, model, tmp_path):
    reference, query = halves
    tuned = finetune(
        model,
        reference,
        label_key="cell_type",
        donor_key="donor",
        settings=QUICK,
        out=tmp_path / "run",
        show_progress=False,
    )
    assert tuned.labels == ("type 0", "type 1", "type 2") and tuned.manifest["kind"] == "fine-tuned"
    annotate(query, str(tmp_path / "run"))
    assert (query.obs["predicted_type"].astype(str) == query.obs["cell_type"].astype(str)).mean() > 0.8
    assert query.uns["selfcell"]["predicted_type"]["by"] == "classifier"


def test_a_pretrained_model_without_a_reference_is_refused(halves, model):
    with pytest.raises(InputError, match=r"has no cell-type classifier\. .*--reference FILE --label COLUMN"):
        annotate(halves[1], model)


def test_a_column_of_the_users_own_is_never_overwritten_but_ours_is(halves, model):
    reference, query = halves
    with pytest.raises(InputError, match=r"obs\['cell_type'\] is there already and was not written by selfcell"):
        annotate(query, model, reference=reference, label_key="cell_type", key_added="cell_type")
    for _ in range(2):
        annotate(query, model, reference=reference, label_key="cell_type")


def test_donors_that_pre_training_set_aside_are_left_out_of_fine_tuning(adata, model, tmp_path):
    tuned = finetune(
        model,
        adata,
        label_key="cell_type",
        donor_key="donor",
        settings=QUICK,
        out=tmp_path / "run",
        show_progress=False,
    )
    held_out = set(model.split["donors"]["test"])
    trained = {donor for part in ("train", "validation") for donor in tuned.split["donors"][part]}
    assert trained == set(adata.obs["donor"]) - held_out and set(tuned.split["donors"]["test"]) == held_out
    again = finetune(
        tuned, adata, label_key="cell_type", donor_key="donor", settings=QUICK, out=tmp_path / "again",
        show_progress=False,
    )  # fmt: skip
    assert again.manifest["data"]["n_cells"] == tuned.manifest["data"]["n_cells"] < len(adata)
    assert tuned.manifest["fit"]["validation_loss"] is None


def test_a_column_with_a_value_for_each_cell_is_no_label(halves, model, tmp_path):
    halves[0].obs["depth"] = np.arange(200) / 7
    with pytest.raises(InputError, match=r"obs\['depth'\] has 157 different values for 157 cells"):
        finetune(model, halves[0], label_key="depth", out=tmp_path / "run")


def test_a_label_goes_with_a_reference_that_has_it_or_cell_type(halves, model, tmp_path, caplog):
    with pytest.raises(InputError, match=r"label_key .* but there is no reference"):
        annotate(halves[1], model, label_key="cell_type")
    with caplog.at_level("INFO", "selfcell"):
        annotate(halves[1], model, reference=halves[0])
    assert "Types are those of obs['cell_type'], as no column is named" in caplog.text
    halves[0].obs = halves[0].obs.rename(columns={"cell_type": "kind"})
    with pytest.raises(InputError, match=r"--label COLUMN \(label_key\), as there is no obs\['cell_type'\].*kind"):
        annotate(halves[1], model, reference=halves[0])
    with pytest.raises(InputError, match=r"needs the column of obs with the types: --label COLUMN"):
        finetune(model, halves[0], out=tmp_path / "run")


def test_a_reference_of_one_type_is_refused(halves, model):
    one = halves[0][halves[0].obs["cell_type"] == "type 1"].copy()
    with pytest.raises(InputError, match="All cells have the same label"):
        annotate(halves[1], model, reference=one, label_key="cell_type")


def test_nothing_is_written_when_the_query_is_bad(halves, model):
    reference, query = halves
    query.X = query.X.toarray() + 0.5
    with pytest.raises(InputError):
        annotate(query, model, reference=reference, label_key="cell_type")
    assert list(query.obs) == ["cell_type", "donor", "batch"] and not query.uns


def test_fine_tuning_in_two_sessions_comes_to_the_same_weights(halves, model, tmp_path, monkeypatch):
    reference, _ = halves
    arguments = {"label_key": "cell_type", "donor_key": "donor", "show_progress": False}
    whole = finetune(model, reference, settings=QUICK, out=tmp_path / "whole", **arguments)
    half = {"training": {**QUICK["training"], "max_epochs": 5}}
    finetune(model, reference, settings=half, out=tmp_path / "run", **arguments)
    resumed = finetune(model, reference, settings=QUICK, out=tmp_path / "run", resume=True, **arguments)
    assert all((whole.head_state[name] == weight).all() for name, weight in resumed.head_state.items())


def test_fine_tuning_is_not_resumed_under_other_settings(halves, model, tmp_path, caplog):
    arguments = {"label_key": "cell_type", "out": tmp_path / "run", "show_progress": False}
    finetune(model, halves[0], settings=QUICK, **arguments)
    with pytest.raises(InputError, match=r"its setting cell_type\.class_weights was root, but now none is given"):
        finetune(model, halves[0], settings={**QUICK, "class_weights": "none"}, resume=True, **arguments)
    with pytest.raises(InputError, match=r"its start was .*, but now random weights is given"):
        finetune(model, halves[0], settings=QUICK, from_scratch=True, resume=True, **arguments)
    with caplog.at_level("INFO"):
        finetune(model, halves[0], resume=True, **arguments)
    assert "finished already" in caplog.text


def test_from_scratch_is_recorded(halves, model, tmp_path):
    tuned = finetune(
        model,
        halves[0],
        label_key="cell_type",
        settings=QUICK,
        out=tmp_path / "run",
        from_scratch=True,
        show_progress=False,
    )
    assert tuned.manifest["start"] == "random weights" and load(tmp_path / "run").labels is not None


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_a_validation_share_out_of_range_is_refused(halves, model, tmp_path, fraction):
    with pytest.raises(InputError, match="validation_fraction must lie between 0 and 1"):
        finetune(model, halves[0], label_key="cell_type", out=tmp_path / "run", validation_fraction=fraction)


def test_probabilities_are_confidences(halves, model, tmp_path):
    finetune(model, halves[0], label_key="cell_type", settings=QUICK, out=tmp_path / "run", show_progress=False)
    annotate(halves[1], str(tmp_path / "run"))
    confidence = halves[1].obs["predicted_type_confidence"].to_numpy()
    assert ((confidence > 1 / 3 - 1e-6) & (confidence <= 1 + 1e-6)).all() and np.isfinite(confidence).all()


@pytest.mark.parametrize("by", ["knn", "logistic"])
def test_confidence_is_about_how_often_types_are_right(model, by):
    cells = simulate_cells(n_cells=2000, n_genes=60, n_types=3, n_donors=8, seed=0, type_effect=0.35)
    is_new = cells.obs["donor"].isin(["donor 6", "donor 7"]).to_numpy()
    reference, query = cells[~is_new].copy(), cells[is_new].copy()
    annotate(query, model, reference=reference, label_key="cell_type", donor_key="donor", by=by)
    right = (query.obs["predicted_type"].astype(str) == query.obs["cell_type"].astype(str)).mean()
    assert query.obs["predicted_type_confidence"].mean() == pytest.approx(right, abs=0.08)
    assert query.obs["predicted_type_is_unknown"].mean() < 0.2


def test_a_regression_names_types_as_the_regime_probe_does(halves, model):
    reference, query = halves
    annotate(query, model, reference=reference, label_key="cell_type", donor_key="donor", by="logistic")
    both = open_cells(anndata.concat([reference, query]))
    task = CellTypeTask.of(CellTypeSettings(), both, Columns("cell_type", "donor", None))
    split = Split(np.arange(200), np.array([], dtype=np.int64), np.arange(200, 300), unit="data set")
    expected = task.predict(EncodedCells.of(model, both), split, regime="probe", seed=0)
    assert list(query.obs["predicted_type"]) == [task.classes[code] for code in expected]
    how = query.uns["selfcell"]["predicted_type"]
    assert how["by"] == "logistic" and how["temperature"] > 0
    nearest = halves[1].copy()
    annotate(nearest, model, reference=reference, label_key="cell_type", donor_key="donor")
    assert (nearest.obs["predicted_type_distance"] == query.obs["predicted_type_distance"]).all()
    assert not np.allclose(nearest.obs["predicted_type_confidence"], query.obs["predicted_type_confidence"])


@pytest.mark.parametrize("by", ["knn", "logistic"])
def test_a_type_that_one_donor_alone_has_is_named_and_calibration_goes_on_without_it(halves, model, by):
    reference, query = halves
    reference.obs["cell_type"] = reference.obs["cell_type"].astype(str)
    reference.obs.loc[reference.obs["donor"] == "donor 0", "cell_type"] = "rare"
    annotate(query, model, reference=reference, label_key="cell_type", donor_key="donor", by=by)
    assert "rare" in query.obs["predicted_type"].cat.categories
    assert query.obs["predicted_type_confidence"].between(0, 1).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"by": "ridge"}, r"by \(--by\) is knn or logistic, but is 'ridge'"),
        ({"by": "logistic", "weights": "distance"}, r"no votes to be weighted: leave --weights \(weights\) out"),
        (
            {"reference": None, "label_key": None, "by": "knn"},
            r"say how a reference answers, but there is none",
        ),
    ],
)
def test_what_is_not_used_is_refused(halves, model, given, message):
    reference, query = halves
    with pytest.raises(InputError, match=message):
        annotate(query, model, **{"reference": reference, "label_key": "cell_type", **given})
    assert list(query.obs) == list(reference.obs)


def test_cells_of_a_type_that_the_reference_lacks_are_less_familiar(halves, model):
    reference, query = halves
    known = reference[reference.obs["cell_type"] != "type 2"].copy()
    annotate(query, model, reference=known, label_key="cell_type", donor_key="donor", mark_unknown=True)
    unseen = (query.obs["cell_type"] == "type 2").to_numpy()
    assert auroc_of_unseen(-query.obs["predicted_type_familiarity"].to_numpy(float), unseen) > 0.65
    unknown = (query.obs["predicted_type"] == "unknown").to_numpy()
    assert (unknown == query.obs["predicted_type_is_unknown"].to_numpy()).all()
    assert unknown[unseen].mean() > unknown[~unseen].mean()


def test_a_classifier_is_calibrated_on_what_its_training_held_out(halves, model, tmp_path, caplog):
    reference, query = halves
    tuned = finetune(model, reference, label_key="cell_type", donor_key="donor", settings=QUICK, out=tmp_path / "run",
                     validation_fraction=0.3, show_progress=False)  # fmt: skip
    learned = tuned.manifest["calibration"]
    assert learned["temperature"] > 0 and set(learned["least_probability"]) == {"0.01", "0.05", "0.1", "0.2"}
    annotate(query, tuned)
    assert query.uns["selfcell"]["predicted_type"]["temperature"] == learned["temperature"]
    with pytest.raises(InputError, match=r"knows alpha 0.01, 0.05, 0.1, 0.2, but 0.3 is asked for"):
        annotate(query, tuned, alpha=0.3)


def test_a_classifier_without_held_out_cells_says_that_it_is_not_calibrated(halves, model, tmp_path, caplog):
    finetune(model, halves[0], label_key="cell_type", settings=QUICK, out=tmp_path / "run", show_progress=False)
    with caplog.at_level("WARNING"):
        annotate(halves[1], str(tmp_path / "run"))
    assert "its confidence is not calibrated and no cell is called unknown" in caplog.text
    assert not halves[1].obs["predicted_type_is_unknown"].any()


def test_cells_without_a_label_are_left_out_and_told(halves, model, tmp_path, caplog):
    reference, query = halves
    partly, kept = reference.copy(), reference[20:].copy()
    partly.obs["cell_type"] = partly.obs["cell_type"].astype(object)
    partly.obs.loc[partly.obs_names[:20], "cell_type"] = None
    again = query.copy()
    with caplog.at_level(logging.INFO, logger="selfcell"):
        annotate(query, model, reference=partly, label_key="cell_type")
    assert "20 of 200 cells have no value in obs['cell_type'], used as label, and are left out." in caplog.text
    annotate(again, model, reference=kept, label_key="cell_type")
    np.testing.assert_array_equal(query.obs["predicted_type_confidence"], again.obs["predicted_type_confidence"])
    tuned = finetune(model, partly, label_key="cell_type", settings=QUICK, out=tmp_path / "run", show_progress=False)
    n_aside = int(kept.obs["donor"].isin(model.split["donors"]["test"]).sum())
    assert tuned.manifest["data"]["n_cells"] == 180 - n_aside
    partly.obs["cell_type"] = None
    with pytest.raises(InputError, match=r"adata: No cell has a value in obs\['cell_type'\], used as label"):
        annotate(query, model, reference=partly, label_key="cell_type")


def test_what_makes_confidence_too_high_is_told(halves, model, tmp_path, caplog):
    reference, query = halves
    tuned = finetune(model, reference, label_key="cell_type", settings=QUICK, out=tmp_path / "run", show_progress=False)
    with caplog.at_level(logging.INFO, logger="selfcell"):
        annotate(query.copy(), tuned, reference=reference, label_key="cell_type")
    assert "was fine-tuned with labels" in caplog.text and "leave the reference out" in caplog.text
    assert "No donor column is named" in caplog.text and "rough guess" not in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="selfcell"):
        annotate(query.copy(), model, reference=reference[:30].copy(), label_key="cell_type", donor_key="donor")
    assert "cells of the reference tell how sure to be: confidence is a rough guess" in caplog.text
    assert "No donor column is named" not in caplog.text and "was fine-tuned with labels" not in caplog.text


def test_the_cells_of_the_reference_are_not_annotated_by_themselves(halves, model):
    reference, query = halves
    with pytest.raises(InputError, match="All cells of adata are in the reference"):
        annotate(reference[50:90].copy(), model, reference=reference, label_key="cell_type")
    with pytest.raises(InputError, match="there is no reference"):
        annotate(query, model, donor_key="donor")


def test_cells_that_are_known_already_are_told(halves, adata, model, tmp_path, caplog):
    reference, _ = halves
    annotate(adata[180:260].copy(), model, reference=reference, label_key="cell_type")
    assert "20 of the 80 cells are in the reference too, so their confidence is too high" in caplog.text
    tuned = finetune(model, reference, label_key="cell_type", settings=QUICK, out=tmp_path / "run", show_progress=False)
    caplog.clear()
    annotate(adata.copy(), tuned)
    n_trained = tuned.manifest["data"]["n_cells"]
    assert f"{n_trained} of the 300 cells are among those that the classifier was trained on" in caplog.text


def test_neighbors_are_not_asked_for_without_a_reference(halves, model):
    with pytest.raises(InputError, match=r"say how a reference answers, but there is none: leave them out"):
        annotate(halves[1], model, n_neighbors=3)


def test_what_was_set_aside_is_left_out_whatever_donor_column_is_named(adata, model, small_settings, tmp_path):
    aside = adata.obs["donor"].isin(model.split["donors"]["test"]).to_numpy()
    arguments = {"label_key": "cell_type", "settings": QUICK, "show_progress": False}
    tuned = finetune(model, adata, donor_key="batch", out=tmp_path / "run", **arguments)
    assert tuned.manifest["data"]["n_cells"] == (~aside).sum()
    renamed = adata.copy()
    renamed.obs = renamed.obs.rename(columns={"donor": "patient"})
    again = finetune(tuned, renamed, out=tmp_path / "again", **arguments)
    assert again.manifest["data"]["n_cells"] == (~aside).sum()
    with pytest.raises(InputError, match="All of these cells were set aside by pre-training"):
        finetune(model, renamed[aside].copy(), out=tmp_path / "none", **arguments)


def test_where_most_cells_are_far_from_the_reference_it_is_said_what_that_means(halves, model, caplog):
    reference, query = halves
    with caplog.at_level(logging.WARNING, logger="selfcell"):
        annotate(query, model, reference=reference, label_key="cell_type")
    assert "farther from the reference" not in caplog.text
    query.X = np.random.default_rng(0).permutation(query.X.toarray().T).T.copy()
    with caplog.at_level(logging.WARNING, logger="selfcell"):
        annotate(query, model, reference=reference, label_key="cell_type", key_added="guess")
    assert query.obs["guess_is_unknown"].mean() > 0.5
    assert "go by guess_confidence and guess_set rather than by guess_is_unknown" in caplog.text


def test_a_reference_may_have_a_type_that_is_called_unknown(halves, model):
    reference, query = halves
    reference.obs["cell_type"] = reference.obs["cell_type"].cat.rename_categories({"type 1": "unknown"})
    annotate(query, model, reference=reference, label_key="cell_type", mark_unknown=True)
    assert list(query.obs["predicted_type"].cat.categories).count("unknown") == 1
    assert (query.obs["predicted_type"] == "unknown")[query.obs["predicted_type_is_unknown"]].all()


def test_too_few_held_out_cells_are_told(halves, model, tmp_path, caplog):
    reference, query = halves
    settings = {"training": {"max_epochs": 1, "device": "cpu"}}
    typed = finetune(
        model, reference[:60].copy(), out=tmp_path / "typed", label_key="cell_type", validation_fraction=0.2,
        settings=settings, show_progress=False,
    )  # fmt: skip
    assert "are too few to calibrate confidence on: it takes 50" in caplog.text
    annotate(query, typed)
    assert "or fewer than 50" in caplog.text


def test_a_column_called_cell_is_no_column_of_donors(adata, small_settings, tmp_path):
    data = small_settings.data.model_copy(update={"donor_key": None, "test_fraction": 0.2})
    adata.obs["cell"] = adata.obs_names
    by_cell = pretrain(
        adata, small_settings.model_copy(update={"data": data}), out=tmp_path / "run", show_progress=False
    )
    training = {"training": {"max_epochs": 1, "device": "cpu"}}
    typed = finetune(
        by_cell, adata, out=tmp_path / "typed", label_key="cell_type", settings=training, show_progress=False
    )
    assert typed.split["unit"] == "cell"


def test_a_reference_of_few_genes_of_the_encoder_is_taken_where_that_is_allowed(halves, model):
    reference, query = halves
    few = reference[:, :25].copy()
    with pytest.raises(InputError, match="--allow-low-overlap"):
        annotate(query, model, reference=few, label_key="cell_type")
    annotate(query, model, reference=few, label_key="cell_type", allow_low_overlap=True)
    assert query.obs["predicted_type"].notna().all()


def test_genes_that_either_lacks_are_not_looked_at(halves, model):
    reference, query = halves
    few = query[:, :45].copy()
    annotate(few, model, reference=reference, label_key="cell_type")
    both = [reference[:, :45].copy(), query[:, :45].copy()]
    annotate(both[1], model, reference=both[0], label_key="cell_type")
    pd.testing.assert_frame_equal(few.obs, both[1].obs)


def test_how_many_genes_both_have_is_said_and_few_are_refused(halves, model, caplog):
    reference, query = halves
    first, last = reference[:, :40].copy(), query[:, 25:].copy()
    with pytest.raises(InputError, match=r"15 of the encoder's 60 genes are in both .*--allow-low-overlap"):
        annotate(last, model, reference=first, label_key="cell_type")
    with caplog.at_level(logging.INFO, "selfcell"):
        annotate(last, model, reference=first, label_key="cell_type", allow_low_overlap=True)
    assert "15 of the encoder's 60 genes are in both the reference and the cells: only these" in caplog.text
    assert last.uns["selfcell"]["predicted_type"]["n_common_genes"] == 15


def test_a_cell_of_the_reference_without_counts_of_common_genes_is_left_out(halves, model, caplog):
    reference, query = halves
    few = query[:, :45].copy()
    counts = reference.X.toarray()
    counts[0, :45], counts[0, 45:] = 0, 3
    reference.X = type(reference.X)(counts)
    annotate(few, model, reference=reference, label_key="cell_type")
    assert "1 of 200 cells of the reference have no counts in genes that the others have too" in caplog.text
    without = query[:, :45].copy()
    annotate(without, model, reference=reference[1:].copy(), label_key="cell_type")
    pd.testing.assert_frame_equal(few.obs, without.obs)
