import logging

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from selfcell.baselines import usual_baselines
from selfcell.benchmark.evaluate import evaluate
from selfcell.benchmark.results import CONFUSION_COLUMNS, SCORE_COLUMNS, UNFINISHED, read_results, trial_id
from selfcell.benchmark.study import Study
from selfcell.benchmark.study_plan import LabelBudget, StudyPlan
from selfcell.benchmark.trials import Workplace
from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.data.simulate import simulate_cells
from selfcell.data.source import open_cells
from selfcell.downstream import REGIMES
from selfcell.downstream.cell_type import CellTypeSettings, CellTypeTask
from selfcell.downstream.finetune import finetune
from selfcell.downstream.metrics import CLASSIFICATION_METRICS
from selfcell.downstream.resampling import N_DRAWS
from selfcell.reporting.html import write_report
from selfcell.training.pretrain import pretrain

SMALL_RUN = {
    "data": {"donor_key": "donor", "test_fraction": 0.2},
    "network": {"hidden_sizes": [16], "n_latent": 8},
    "training": {"max_epochs": 1, "minibatch_size": 64, "device": "cpu"},
}
QUICK = {"training": {"max_epochs": 2, "minibatch_size": 64, "device": "cpu"}}
CHEAP = {"regimes": ("zero_shot",), "baselines": ("pca_knn",), "jobs": 1, "show_progress": False}


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "judged"
    cells = simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, seed=0)
    evaluate(
        model, cells, label_key="cell_type", donor_key="donor", batch_key="batch", labelled_donors=(1, None), n_seeds=2,
        settings=QUICK, out=out, jobs=1, show_progress=False,
    )  # fmt: skip
    return out


def test_every_method_budget_and_seed_has_its_rows(folder):
    scores = read_results(folder).scores
    assert list(scores) == list(SCORE_COLUMNS)
    n_trials = (len(REGIMES) + len(usual_baselines("cell_type"))) * 2 * 2
    assert len(scores) == n_trials * len(CLASSIFICATION_METRICS)
    assert scores["trial_id"].nunique() == n_trials
    assert scores.groupby(["method", "budget"])["finetune_seed"].nunique().eq(2).all()
    assert scores["value"].between(0, 1).all() and scores["peak_memory_mb"].gt(0).all()


def test_scores_follow_from_the_confusion_table(folder):
    results = read_results(folder)
    assert list(results.confusion) == list(CONFUSION_COLUMNS)
    for trial, table in results.confusion.groupby("trial_id"):
        rows = results.scores[(results.scores["trial_id"] == trial) & (results.scores["metric"] == "micro_f1")]
        right = table.loc[table["truth"] == table["predicted"], "n_cells"].sum()
        assert rows["value"].item() == pytest.approx(right / table["n_cells"].sum(), rel=1e-5)
        assert table["n_cells"].sum() == rows["n_cells"].item()


def test_class_scores_average_to_macro_f1(folder):
    scores = read_results(folder).scores
    classes = pd.read_csv(folder / "classes.csv")
    macro = scores[scores["metric"] == "macro_f1"].set_index("trial_id")["value"]
    recall = scores[scores["metric"] == "balanced_accuracy"].set_index("trial_id")["value"]
    pd.testing.assert_series_equal(
        classes.groupby("trial_id")["f1"].mean().reindex(macro.index), macro, check_names=False, rtol=1e-4
    )
    pd.testing.assert_series_equal(
        classes.groupby("trial_id")["recall"].mean().reindex(recall.index), recall, check_names=False, rtol=1e-4
    )
    assert classes.groupby("trial_id")["n_cells"].sum().eq(scores["n_cells"].iloc[0]).all()


def test_the_closer_look_that_only_the_page_shows_is_not_taken_without_a_folder(adata, model, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr(CellTypeTask, "examine", refuse)
    assert len(evaluate(model, adata, label_key="cell_type", **CHEAP))


def test_the_donors_that_the_run_set_aside_are_judged_on(folder, model):
    assert set(read_results(folder).confusion["donor"]) == set(model.split["donors"]["test"])


def test_a_label_budget_labels_so_many_donors_and_another_for_each_seed(folder):
    scores = read_results(folder).scores
    few = scores[scores["budget"] == "1 donor"]
    assert set(few["n_labelled_donors"]) == {1}
    assert few.groupby("finetune_seed")["n_labelled_cells"].first().nunique() == 2
    everyone = scores[scores["budget"] == "all donors"]
    assert set(everyone["n_labelled_donors"]) == {4}


def test_the_map_and_the_curves_are_there(folder):
    results = read_results(folder)
    assert set(results.cell_map["space"]) == {"frozen embedding", "PCA"}
    assert results.cell_map.groupby("space").size().eq(results.about["split"]["test"]["n_cells"]).all()
    assert {"epoch", "train_loss", "validation_loss", "pretrain_seed"} <= set(results.curves)


def test_scores_are_the_same_however_many_processes_share_the_work(adata, model):
    arguments = {"label_key": "cell_type", "donor_key": "donor", "settings": QUICK, "n_seeds": 2}
    first, again = (evaluate(model, adata, jobs=jobs, show_progress=False, **arguments) for jobs in (1, 2))
    timing = ["seconds", "peak_memory_mb"]
    pd.testing.assert_frame_equal(first.drop(columns=timing), again.drop(columns=timing))


def test_without_a_saved_split_donors_are_drawn_and_the_leak_is_told(adata, small_settings, tmp_path, caplog):
    whole = pretrain(adata, small_settings, out=tmp_path / "run", show_progress=False)
    with caplog.at_level(logging.WARNING, logger="selfcell"):
        scores = evaluate(whole, adata, label_key="cell_type", donor_key="donor", n_seeds=1, **CHEAP)
    assert "Pre-training was given at least 127 of the 127 test cells and cells of 2 test donors" in caplog.text
    assert scores["n_cells"].iloc[0] >= 0.3 * 300


def test_without_donors_cells_are_split_one_by_one(adata, model):
    scores = evaluate(model, adata, label_key="cell_type", n_seeds=2, test_fraction=0.25, **CHEAP)
    assert set(scores["split"]) == {"by cell"} and set(scores["n_cells"]) == {75}


def test_bad_requests_are_refused_before_work_begins(adata, model, tmp_path):
    arguments = {"label_key": "cell_type", "donor_key": "donor", **CHEAP}
    with pytest.raises(InputError, match=r"Unknown regime 'zeroshot'\. Did you mean 'zero_shot'\?"):
        evaluate(model, adata, **{**arguments, "regimes": ("zeroshot",)})
    with pytest.raises(InputError, match=r"Unknown baseline of cell_type 'pca'\. Did you mean"):
        evaluate(model, adata, **{**arguments, "baselines": ("pca",)})
    with pytest.raises(InputError, match=r"Unknown downstream task 'celltype'\. Did you mean 'cell_type'\?"):
        evaluate(model, adata, task="celltype", **arguments)
    with pytest.raises(
        InputError, match=r"9 labelled donors are asked for \(--labelled-donors\), but only 4 are not held out"
    ):
        evaluate(model, adata, labelled_donors=(9,), **arguments)
    with pytest.raises(InputError, match="Label budgets count donors, so a donor column is needed"):
        evaluate(model, adata, labelled_donors=(1,), **{**arguments, "donor_key": None})
    with pytest.raises(InputError, match="A label budget is asked for twice: 2 donors, 2 donors"):
        evaluate(model, adata, labelled_donors=(2, 2), **arguments)
    with pytest.raises(InputError, match=r"training\.patience must be 0 here"):
        evaluate(model, adata, settings={"training": {"patience": 2}}, **arguments)
    with pytest.raises(InputError, match="All cells have the same label"):
        evaluate(model, adata[adata.obs["cell_type"] == "type 1"].copy(), **arguments)
    with pytest.raises(InputError, match=r"There is no column 'batches' in obs to use as batch"):
        evaluate(model, adata, batch_key="batches", **arguments)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match=r"'file' is in it, and no \.selfcell\. Nothing in it is touched"):
        evaluate(model, adata, out=tmp_path / "full", **arguments)
    (tmp_path / "full" / ".selfcell").touch()
    with pytest.raises(InputError, match="exists already"):
        evaluate(model, adata, out=tmp_path / "full", **arguments)


def test_a_model_trained_with_labels_is_refused(adata, model, tmp_path):
    tuned = finetune(model, adata, label_key="cell_type", settings=QUICK, out=tmp_path / "run", show_progress=False)
    with pytest.raises(InputError, match="was fine-tuned for cell_type, perhaps on the test cells"):
        evaluate(tuned, adata, label_key="cell_type", donor_key="donor", **CHEAP)


def test_a_subset_of_the_cells_that_were_trained_on_is_told_too(adata, small_settings, tmp_path, caplog):
    whole = pretrain(adata, small_settings, out=tmp_path / "run", show_progress=False)
    with caplog.at_level(logging.WARNING, logger="selfcell"):
        evaluate(whole, adata[::2].copy(), label_key="cell_type", donor_key="donor", n_seeds=1, **CHEAP)
    assert "Pre-training was given" in caplog.text


def test_only_held_out_donors_are_refused(adata, model):
    held_out = adata[adata.obs["donor"].isin(model.split["donors"]["test"])].copy()
    with pytest.raises(InputError, match="there must be both, to label by and to judge on"):
        evaluate(model, held_out, label_key="cell_type", donor_key="donor", **CHEAP)


def test_trial_ids_tell_label_columns_apart(adata, model):
    adata.obs["other"] = adata.obs["cell_type"].to_numpy()[::-1]
    ids = [set(evaluate(model, adata, label_key=key, n_seeds=1, **CHEAP)["trial_id"]) for key in ("cell_type", "other")]
    assert not ids[0] & ids[1]


def test_a_folder_without_results_is_refused(tmp_path, folder):
    with pytest.raises(InputError, match=r"has no study\.json, so it is not a results folder"):
        read_results(tmp_path)


def test_a_trial_id_is_a_function_of_what_determines_it():
    assert trial_id(a=1, b="x") == trial_id(b="x", a=1) != trial_id(a=2, b="x")
    assert len(trial_id(a=np.int64(3))) == 13


def test_ids_of_trials_are_never_taken_for_numbers(tmp_path):
    ids = [trial_id(place=place) for place in range(3_000)]
    pd.DataFrame({"trial_id": ids}).to_csv(tmp_path / "ids.csv", index=False)
    assert pd.read_csv(tmp_path / "ids.csv")["trial_id"].tolist() == ids


def test_scores_on_draws_of_donors_are_kept(folder):
    results = read_results(folder)
    drawn = results.resamples[results.resamples["metric"] == "macro_f1"].set_index("trial_id").drop(columns="metric")
    assert set(drawn.index) == set(results.scores["trial_id"]) and drawn.notna().all(axis=None)
    # One test donor was set aside, so that every draw is this donor.
    values = results.scores[results.scores["metric"] == "macro_f1"].set_index("trial_id")["value"]
    assert drawn.shape[1] == N_DRAWS
    np.testing.assert_allclose(drawn.mean(axis=1), values.reindex(drawn.index), atol=1e-5)


def test_crossed_seeds_run_every_model_with_every_seed(adata, model, tmp_path):
    other = pretrain(adata, {**SMALL_RUN, "training": {**SMALL_RUN["training"], "seed": 1}}, out=tmp_path / "other",
                     show_progress=False)  # fmt: skip
    same = pretrain(adata, SMALL_RUN, out=tmp_path / "same", show_progress=False)
    scores = evaluate([same, other], adata, label_key="cell_type", donor_key="donor", n_seeds=2, crossed=True,
                      settings=QUICK, **{**CHEAP, "regimes": ("zero_shot", "from_scratch")})  # fmt: skip
    rows = scores[scores["metric"] == "macro_f1"]
    assert rows.groupby("method").size().eq(4).all()
    assert set(zip(rows["pretrain_seed"], rows["finetune_seed"], strict=True)) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    scratch = rows[rows["method"] == "from_scratch"].pivot(
        index="pretrain_seed", columns="finetune_seed", values="value"
    )
    assert (scratch.loc[0] == scratch.loc[1]).all()


def test_a_share_of_the_cells_may_be_labelled(adata, model):
    scores = evaluate(model, adata, label_key="cell_type", donor_key="donor", labelled_fractions=(0.1,), n_seeds=2,
                      labelled_donors=(), **CHEAP)  # fmt: skip
    few = scores[scores["budget"] == "0.1 of the cells"]
    assert set(few["n_labelled_cells"]) == {round(0.1 * (300 - few["n_cells"].iloc[0]))}


def test_the_cells_to_judge_on_may_be_named_by_a_query(adata, model, caplog):
    with caplog.at_level(logging.WARNING):
        scores = evaluate(model, adata, label_key="cell_type", donor_key="donor", test_where="batch == 'batch 1'",
                          n_seeds=1, **CHEAP)  # fmt: skip
    assert set(scores["n_cells"]) == {int((adata.obs["batch"] == "batch 1").sum())}
    assert "Pre-training was given" in caplog.text
    with pytest.raises(InputError, match="these are none of 300 cells"):
        evaluate(model, adata, label_key="cell_type", test_where="batch == 'no'", **CHEAP)


def test_cells_of_another_data_set_are_judged_on_with_their_labels_mapped(adata, model, caplog):
    query = simulate_cells(n_cells=120, n_genes=60, n_types=3, n_donors=5, seed=0)
    query.obs["cell_type"] = query.obs["cell_type"].astype(str).replace({"type 0": "Typ null", "type 1": "unheard of"})
    with caplog.at_level(logging.WARNING):
        scores = evaluate(model, adata, query=query, label_key="cell_type", donor_key="donor", n_seeds=1,
                          label_map={"Typ null": "type 0"}, **CHEAP)  # fmt: skip
    assert set(scores["n_cells"]) == {int((query.obs["cell_type"] != "unheard of").sum())}
    assert set(scores["n_labelled_cells"]) == {300} and set(scores["n_units"]) == {5}
    assert "are of types that no labelled cell has, and are left out: unheard of" in caplog.text
    query.obs["cell_type"] = "A" + query.obs["cell_type"].astype(str)
    with pytest.raises(InputError, match="No type of the cells to judge on is among those of the labelled cells"):
        evaluate(model, adata, query=query, label_key="cell_type", n_seeds=1, **CHEAP)


def test_genes_that_a_query_lacks_are_told_and_kept_from_the_baselines(adata, model, tmp_path, caplog):
    query = simulate_cells(n_cells=120, n_genes=60, n_types=3, n_donors=5, seed=0)[:, 6:].copy()
    asked = {"label_key": "cell_type", "donor_key": "donor", "n_seeds": 1, **CHEAP}
    with caplog.at_level(logging.INFO, logger="selfcell"):
        scores = evaluate(model, adata, query=query, out=tmp_path / "judged", **asked)
    n_measured = int(np.isin(model.genes.ids, query.var_names).sum())
    assert n_measured < len(model.genes)
    assert f"measure {n_measured} of the encoder's {len(model.genes)} genes" in caplog.text
    assert read_results(tmp_path / "judged").about["n_measured_genes"] == n_measured
    told = f"{n_measured} of the model's {len(model.genes)} are measured in both data sets"
    assert told.replace("'", "&#39;") in write_report(tmp_path / "judged").read_text()
    reference = adata.copy()
    reference.X = sp.csr_matrix(reference.X.multiply(np.isin(adata.var_names, query.var_names)))
    known = scores.query("method == 'pca_knn'").set_index("metric")["value"]
    without = evaluate(model, reference, query=query, **asked).query("method == 'pca_knn'").set_index("metric")["value"]
    assert known.to_dict() == pytest.approx(without.to_dict())


def test_the_closer_look_takes_the_epochs_of_the_largest_budget(adata, model, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(CellTypeTask, "examine", lambda task, *_, **__: taken.append(task.settings.training) or {})
    plan = StudyPlan(
        label_key="cell_type",
        budgets=(LabelBudget(fraction=0.5, max_epochs=9), LabelBudget(max_epochs=2)),
        regimes=("zero_shot",),
        baselines=(),
        seeds=(0,),
        maps=False,
        settings=build(CellTypeSettings, {"training": {"max_epochs": 7}}),
    )
    Study(plan, open_cells(adata), [model]).run(Workplace(jobs=1, show_progress=False))
    assert [training.max_epochs for training in taken] == [2]


def test_a_map_of_labels_must_fit(adata, model):
    with pytest.raises(InputError, match="The map of labels names none of the types"):
        evaluate(model, adata, label_key="cell_type", label_map={"x": "y"}, **CHEAP)
    with pytest.raises(InputError, match="A map of labels needs the column of labels"):
        evaluate(model, adata, label_map={"x": "y"}, task="reconstruction", **{**CHEAP, "baselines": ()})


def test_why_the_cell_ontology_is_left_out_is_said(adata, model, caplog):
    cells = adata.copy()
    names = {"type 0": "T cell", "type 1": "B cell", "type 2": "cells of ours"}
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).map(names)
    with caplog.at_level(logging.INFO, logger="selfcell"):
        evaluate(model, cells, label_key="cell_type", n_seeds=1, **CHEAP)
    assert "it does not know 1 of the 3 types (cells of ours)" in caplog.text


def test_types_of_the_cell_ontology_are_scored_by_it_too(adata, model):
    names = {"type 0": "T cell", "type 1": "CD4-positive, alpha-beta T cell", "type 2": "B cell"}
    adata.obs["cell_type"] = adata.obs["cell_type"].map(names)
    scores = evaluate(model, adata, label_key="cell_type", donor_key="donor", n_seeds=1, **CHEAP)
    values = scores.set_index(["method", "metric"])["value"]
    assert values["zero_shot", "micro_f1_ontology"] >= values["zero_shot", "micro_f1"]


def test_names_of_ones_own_are_scored_by_the_ids_of_the_cellxgene_schema(adata, model, caplog):
    ids = {"type 0": "CL:0000084", "type 1": "CL:0000624", "type 2": "CL:0000236"}
    adata.obs["cell_type_ontology_term_id"] = adata.obs["cell_type"].astype(str).map(ids)
    with_ids = evaluate(model, adata, label_key="cell_type", donor_key="donor", n_seeds=1, **CHEAP)
    names = {"type 0": "T cell", "type 1": "CD4-positive, alpha-beta T cell", "type 2": "B cell"}
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).map(names)
    by_name = evaluate(model, adata, label_key="cell_type", donor_key="donor", n_seeds=1, **CHEAP)
    lenient = [one.query("metric == 'micro_f1_ontology'")["value"].tolist() for one in (with_ids, by_name)]
    assert lenient[0] and lenient[0] == lenient[1]
    adata.obs["cell_type_ontology_term_id"] = "unknown"
    adata.obs["cell_type"] = adata.obs["cell_type"].replace({"T cell": "cells of ours"})
    with caplog.at_level(logging.INFO, logger="selfcell"):
        neither = evaluate(model, adata, label_key="cell_type", donor_key="donor", n_seeds=1, **CHEAP)
    assert "micro_f1_ontology" not in set(neither["metric"]) and "(cells of ours)" in caplog.text


def test_ids_of_the_cellxgene_schema_count_on_another_data_set_too(adata, model):
    ids = {"type 0": "CL:0000084", "type 1": "CL:0000624", "type 2": "CL:0000236"}
    query = simulate_cells(n_cells=120, n_genes=60, n_types=3, n_donors=5, seed=1)
    adata.obs["cell_type_ontology_term_id"] = adata.obs["cell_type"].astype(str).map(ids)
    scores = evaluate(model, adata, query=query, label_key="cell_type", n_seeds=1, **CHEAP)
    assert "micro_f1_ontology" in set(scores["metric"])
    # Ids are of the types as they were.
    names = {"type 0": "a", "type 1": "b", "type 2": "c"}
    scores = evaluate(model, adata, query=query, label_key="cell_type", label_map=names, n_seeds=1, **CHEAP)
    assert "micro_f1_ontology" not in set(scores["metric"])


def test_what_the_ontology_calls_types_is_a_part_of_what_trials_are(adata, model):
    plan = StudyPlan(label_key="cell_type", regimes=("zero_shot",), baselines=())
    ids = {"type 0": "CL:0000084", "type 1": "CL:0000624", "type 2": "CL:0000236"}
    found = []
    for of_first in ("", "CL:0000084", "CL:0000542"):
        adata.obs["cell_type_ontology_term_id"] = adata.obs["cell_type"].astype(str).map({**ids, "type 0": of_first})
        study = Study(plan, open_cells(adata), [model])
        found.append(study.work_id(study.trials[0]))
    assert len(set(found)) == 3


def test_fewer_labelled_cells_than_neighbors_are_told(adata, model, caplog):
    arguments = {"label_key": "cell_type", "n_seeds": 1, "settings": {"n_neighbors": 50}, **CHEAP}
    evaluate(model, adata, labelled_fractions=[0.1], **arguments)
    assert "labelled cells, fewer than the 50 neighbors that are asked" in caplog.text
    assert caplog.text.count("fewer than the 50 neighbors") == 1


def test_donors_that_were_set_aside_and_are_not_named_are_told(adata, tmp_path, caplog):
    model = pretrain(adata, SMALL_RUN, out=tmp_path / "mae", show_progress=False)
    evaluate(model, adata, label_key="cell_type", n_seeds=1, **CHEAP)
    assert "Its run has set cells aside (by the donors in obs['donor'])" in caplog.text


def test_what_was_seen_and_left_out_is_kept_and_shown(adata, model, small_settings, tmp_path):
    whole = pretrain(adata, small_settings, out=tmp_path / "run", show_progress=False)
    query = simulate_cells(n_cells=120, n_genes=60, n_types=3, n_donors=5, seed=0)
    query.obs["cell_type"] = query.obs["cell_type"].astype(str).replace({"type 1": "unheard of"})
    query.obs["donor"] = "other " + query.obs["donor"].astype(str)
    arguments = {"label_key": "cell_type", "donor_key": "donor", "n_seeds": 2, **CHEAP}
    evaluate(model, adata, out=tmp_path / "aside", **arguments)
    evaluate(whole, adata, out=tmp_path / "seen", **arguments)
    evaluate(whole, query, query=adata, out=tmp_path / "seen query", **arguments)
    evaluate(model, adata, query=query, out=tmp_path / "unseen query", **arguments)
    seen = {name: read_results(tmp_path / name).about["has_seen"] for name in ("aside", "unseen query", "seen")}
    assert seen == {"aside": False, "unseen query": False, "seen": True}
    assert read_results(tmp_path / "seen query").about["has_seen"]
    n_left_out = int((query.obs["cell_type"] == "unheard of").sum())
    page = write_report(tmp_path / "unseen query").read_text()
    assert (
        f"{n_left_out} more are of types that no labelled cell has: unheard of" in page and "never seen before" in page
    )
    page = write_report(tmp_path / "seen").read_text()
    assert "To judge, seen without labels in pre-training" in page and "never seen before" not in page
    assert "Two seeds say little" in page


def test_donors_that_pre_training_was_not_given_may_be_labelled(adata, small_settings, tmp_path):
    data = small_settings.data.model_copy(update={"test_fraction": 0.2, "train_donor_fraction": 0.01})
    run = pretrain(adata, small_settings.model_copy(update={"data": data}), out=tmp_path / "run", show_progress=False)
    assert len(run.split["donors"]["train"]) == 1 and len(run.split["donors"]["left_out"]) == 2
    scores = evaluate(run, adata, label_key="cell_type", donor_key="donor", n_seeds=1, out=tmp_path / "out", **CHEAP)
    assert set(scores["n_labelled_donors"]) == {4}
    assert read_results(tmp_path / "out").about["has_seen"] is False


def test_a_share_to_judge_on_is_refused_where_the_run_has_set_cells_aside(adata, model):
    with pytest.raises(InputError, match=r"The run set \d+ of these cells aside .*Leave --test-fraction"):
        evaluate(model, adata, label_key="cell_type", donor_key="donor", test_fraction=0.5, **CHEAP)


def test_a_query_may_name_its_types_in_another_column(adata, model):
    query = simulate_cells(n_cells=120, n_genes=60, n_types=3, n_donors=5, seed=0)
    query.obs = query.obs.rename(columns={"cell_type": "louvain"})
    arguments = {"label_key": "cell_type", "donor_key": "donor", "n_seeds": 1, **CHEAP}
    scores = evaluate(model, adata, query=query, query_label_key="louvain", **arguments)
    assert set(scores["n_cells"]) == {120}
    with pytest.raises(InputError, match="adata: There is no column 'Louvain' in obs to use as label"):
        evaluate(model, adata, query=query, query_label_key="Louvain", **arguments)
    with pytest.raises(InputError, match="names a column of the cells of --query, which are not given"):
        evaluate(model, adata, query_label_key="louvain", **arguments)
    unlabelled = {**arguments, "label_key": None}
    by_default = evaluate(model, adata, query=query, query_label_key="louvain", **unlabelled)
    assert by_default["value"].tolist() == scores["value"].tolist()
    with pytest.raises(InputError, match="needs the reference's column of labels too"):
        evaluate(model, adata, query=query, query_label_key="louvain", task="reconstruction",
                 **{**unlabelled, "baselines": ()})  # fmt: skip


def test_a_query_may_name_its_donors_and_batches_in_other_columns(adata, model, caplog):
    query = simulate_cells(n_cells=120, n_genes=60, n_types=3, n_donors=5, seed=0)
    query.obs = query.obs.rename(columns={"donor": "patient", "batch": "site"})
    arguments = {"label_key": "cell_type", "donor_key": "donor", "batch_key": "batch", "n_seeds": 1, **CHEAP}
    scores = evaluate(model, adata, query=query, query_donor_key="patient", query_batch_key="site", **arguments)
    assert set(scores["n_units"]) == {5} and "count as one" not in caplog.text
    scores = evaluate(model, adata, query=query, **arguments)
    assert set(scores["n_units"]) == {1}
    assert "There is no obs['donor'] in adata, so all of its cells count as one donor" in caplog.text
    with pytest.raises(InputError, match=r"There is no column 'patients' in obs\. Did you mean 'patient'"):
        evaluate(model, adata, query=query, query_donor_key="patients", **arguments)
    with pytest.raises(InputError, match=r"--query-batch .* names a column of the cells of --query"):
        evaluate(model, adata, query_batch_key="site", **arguments)


def test_a_query_must_be_other_cells_that_have_what_is_predicted(adata, model, tmp_path):
    with pytest.raises(InputError, match="300 of the 300 cells of adata are in adata too"):
        evaluate(model, adata, query=adata.copy(), label_key="cell_type", **CHEAP)
    measured = simulate_cells(n_cells=120, n_genes=60, n_types=3, n_donors=5, n_proteins=12, seed=0)
    measured.write_h5ad(tmp_path / "measured.h5ad")
    adata.write_h5ad(tmp_path / "query.h5ad")
    arguments = {"task": "cross_modality", "settings": {"target": "protein_counts"}, **CHEAP}
    with pytest.raises(InputError, match=r"query\.h5ad: There is no obsm\['protein_counts'\]"):
        evaluate(model, tmp_path / "measured.h5ad", query=tmp_path / "query.h5ad", **arguments)


def test_usual_baselines_go_with_others(adata, model):
    adata.obsm["X_other"] = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    baselines = ("obsm:X_other", "usual", "pca_knn")
    scores = evaluate(
        model, adata, label_key="cell_type", donor_key="donor", n_seeds=1, **{**CHEAP, "baselines": baselines}
    )
    assert list(scores["method"].unique()) == ["zero_shot", "obsm:X_other", *usual_baselines("cell_type")]


def test_an_unknown_baseline_is_told_before_cells_are_read(model, tmp_path):
    with pytest.raises(InputError, match="Unknown baseline of cell_type 'scvii'"):
        evaluate(model, tmp_path / "none.h5ad", label_key="cell_type", **{**CHEAP, "baselines": ("scvii",)})


def test_a_comparison_that_fails_keeps_what_was_there_and_blocks_nothing(adata, model, tmp_path, monkeypatch, caplog):
    arguments = {"label_key": "cell_type", "donor_key": "donor", "n_seeds": 1, **CHEAP}

    def fail(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("selfcell.benchmark.study.run_trials", fail)
        with pytest.raises(KeyboardInterrupt):
            evaluate(model, adata, out=tmp_path / "judged", **arguments)
    (tmp_path / "judged" / UNFINISHED).mkdir()
    (tmp_path / "judged" / UNFINISHED / "other.npz").touch()
    evaluate(model, adata, out=tmp_path / "judged", **arguments)
    assert "The 1 finished trial in " in caplog.text and "of other settings or cells" in caplog.text
    before = (tmp_path / "judged" / "scores.csv").read_bytes()
    with pytest.raises(InputError, match=r"exists already\. Name another folder, or replace what is there"):
        evaluate(model, adata, out=tmp_path / "judged", **arguments)
    with monkeypatch.context() as patch:
        patch.setattr("selfcell.benchmark.study.run_trials", fail)
        with pytest.raises(KeyboardInterrupt):
            evaluate(model, adata, out=tmp_path / "judged", overwrite=True, **arguments)
    assert (tmp_path / "judged" / "scores.csv").read_bytes() == before


def test_cells_without_a_type_are_left_out_and_counted(adata, model, caplog):
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object).where(np.arange(300) % 10 > 0)
    arguments = {"label_key": "cell_type", "donor_key": "donor", **CHEAP, "n_seeds": 1}
    with caplog.at_level(logging.INFO, logger="selfcell"):
        scores = evaluate(model, adata, **arguments)
    assert "30 of 300 cells have no value in obs['cell_type']" in caplog.text
    held_out = adata.obs["donor"].isin(model.split["donors"]["test"]) & adata.obs["cell_type"].notna()
    assert set(scores["n_cells"]) == {held_out.sum()}


def test_a_handful_of_labelled_cells_is_warned_of(adata, model, caplog):
    evaluate(model, adata, label_key="cell_type", donor_key="donor", labelled_fractions=(0.05,), n_seeds=1, **CHEAP)
    assert "training cells is 12 cells: scores at that label budget say little" in caplog.text


def test_cells_to_judge_on_are_named_once_and_embeddings_answer_what_they_can(adata, model):
    query = simulate_cells(n_cells=120, n_genes=60, n_types=3, n_donors=5, seed=0)
    with pytest.raises(InputError, match="not on both"):
        evaluate(model, adata, query=query, test_where="donor == 'donor 1'", label_key="cell_type", **CHEAP)
    with pytest.raises(InputError, match=r"has no answer from an embedding alone.*Leave obsm:X_pca out"):
        evaluate(model, adata, task="reconstruction", **{**CHEAP, "baselines": ("obsm:X_pca",)})


def test_trials_are_silent(adata, model, caplog):
    arguments = {"label_key": "cell_type", "donor_key": "donor", "settings": QUICK, "n_seeds": 1}
    with caplog.at_level(logging.INFO, logger="selfcell"):
        evaluate(model, adata, **{**arguments, **CHEAP, "regimes": ("fine_tuned",)})
    # Once of the closer look that follows the trials.
    assert caplog.text.count("Computed on the non-zero counts") <= 1


def test_models_that_are_one_or_would_not_be_used_are_refused_and_others_told(
    adata, model, small_settings, tmp_path, caplog
):
    arguments = {"label_key": "cell_type", "donor_key": "donor", **CHEAP}
    with pytest.raises(InputError, match=r"is given twice \(model, --also"):
        evaluate([model, model], adata, n_seeds=2, **arguments)
    data = small_settings.data.model_copy(update={"test_fraction": 0.2})
    other = pretrain(adata, small_settings.model_copy(update={"data": data}), out=tmp_path / "run", show_progress=False)
    with pytest.raises(InputError, match="1 seed would leave 1 of the 2 models out"):
        evaluate([model, other], adata, n_seeds=1, **arguments)
    evaluate([model, other], adata, n_seeds=2, **arguments)
    assert "differ in more than the seed" in caplog.text
