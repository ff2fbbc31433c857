"""What stands on a model's card, and that nothing which comes from data can be more than text there."""

import copy
import dataclasses
import json
import re
import shutil

import pytest
import yaml

import selfcell
from selfcell.core.errors import InputError
from selfcell.publishing.card_scores import read_scores
from selfcell.publishing.markdown import as_text
from selfcell.publishing.model_card import write_card


@pytest.fixture(scope="module")
def judged(model, tmp_path_factory):
    """The model judged on its own held-out donors, in few epochs."""
    out = tmp_path_factory.mktemp("judged") / "results"
    selfcell.evaluate(
        model, selfcell.data.simulate.simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, seed=0),
        label_key="cell_type", donor_key="donor", out=out, n_seeds=2, jobs=1, show_progress=False,
        settings={"training": {"max_epochs": 1, "device": "cpu"}}, regimes=("zero_shot", "fine_tuned", "from_scratch"),
        baselines=("pca_knn",),
    )  # fmt: skip
    return out


def card_of(model, **how):
    return write_card(model, "lab/blood", license_id="cc-by-4.0", **how)


def with_manifest(model, **changes):
    return dataclasses.replace(model, manifest=model.manifest | changes)


def front_matter(card):
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def test_the_front_matter_is_what_the_hub_expects(model):
    head = front_matter(card_of(model))
    assert head["library_name"] == "selfcell" and head["license"] == "cc-by-4.0"
    assert head["pipeline_tag"] == "feature-extraction" and "model-index" not in head
    assert {"biology", "genomics", "single-cell", "scRNA-seq", "masked-autoencoder"} <= set(head["tags"])


def test_a_card_says_what_the_model_is_and_what_it_was_trained_on(model):
    card = card_of(model, trained_on="Simulated blood")
    assert "# blood\n" in card and "from 60 genes of a cell to 16 numbers, pre-trained without labels" in card
    assert "| Cells, as said by who published it | Simulated blood |" in card
    data = model.manifest["data"]
    assert f"| Cells | 300: {data['n_train']} to learn from, {data['n_validation']} to watch the loss on, " in card
    assert "| Donors | 3 to learn from, 1 to watch the loss on, 1 set aside |" in card
    assert "| Layers | 60-64-16, fully connected," in card and "| Pretext task | masked\\_autoencoder |" in card
    assert f"| torch | {as_text(model.manifest['versions']['torch'])} |" in card
    assert 'model = selfcell.load("lab/blood")\nselfcell.embed(adata, model)' in card
    assert "It was published without results" in card and "`cc-by-4.0`, as said by who published it" in card
    assert "cannot say whether test cells were trained on" in card
    assert "cannot say whether" not in card_of(model, with_cells=True)


def test_a_card_says_which_tissues_the_cells_are_of(model):
    of = {"tissue": {"blood": 290, "bone <marrow>": 1}}
    told = dataclasses.replace(model, manifest=model.manifest | {"composition": of})
    assert f"| Tissue | blood (290 cells), {as_text('bone <marrow>')} (1 cell) |" in card_of(told)
    assert "| Tissue |" not in card_of(model)


def test_a_card_names_no_donor(model, judged):
    donors = [donor for part in model.split["donors"].values() for donor in part]
    for card in (card_of(model), card_of(model, scores=read_scores(judged, model), with_cells=True)):
        assert donors and not any(as_text(donor) in card or donor in card for donor in donors)


def test_scores_come_with_intervals_and_what_they_mean(model, judged):
    card = card_of(model, scores=read_scores(judged, model))
    assert "Macro F1 on " in card and "test cells of 1 donor" in card and "never seen before" in card
    assert "| method | all donors |\n|---|---|\n" in card
    for method in ("zero-shot", "fine-tuned", "from scratch", "PCA + neighbors"):
        assert f"\n| {method} | " in card
    assert "Against the same network" in card or "No evidence that" in card or "cannot be told" in card
    assert "All seeds share one pre-training" in card and "published without results" not in card


def with_changes(folder, to, **changes):
    """Copy a results folder with other words in its study.json; None takes one out."""
    shutil.copytree(folder, to)
    about = json.loads((folder / "study.json").read_text()) | changes
    (to / "study.json").write_text(json.dumps({name: said for name, said in about.items() if said is not None}))
    return to


def test_scores_of_another_model_are_refused(model, judged, tmp_path):
    other = dataclasses.replace(model, encoder=copy.deepcopy(model.encoder))
    next(other.encoder.parameters()).data += 1
    rectified = copy.deepcopy(model.encoder)
    rectified.settings = rectified.settings.model_copy(update={"rectify_embedding": True})
    for another in (other, dataclasses.replace(model, encoder=rectified)):
        with pytest.raises(InputError, match="has results of another model than"):
            read_scores(judged, another)
    assert read_scores(judged, with_manifest(model, fit=None)).rows
    with pytest.raises(InputError, match=r"has no study\.json"):
        read_scores(judged.parent, model)
    with pytest.raises(InputError, match=r"study\.json is damaged"):
        read_scores(with_changes(judged, tmp_path / "damaged", weights=3), model)


def test_scores_of_earlier_versions_are_told_by_the_training_and_of_no_training_refused(model, judged, tmp_path):
    earlier = with_changes(judged, tmp_path / "earlier", weights=None, networks=None)
    assert read_scores(earlier, model).rows == read_scores(judged, model).rows
    of_none = with_changes(earlier, tmp_path / "none", pretraining=[None])
    for folder, another in ((earlier, {"fit": {"seconds": -1}}), (of_none, {"fit": None})):
        with pytest.raises(InputError, match=r"has results of another model than .*again if an earlier version wrote"):
            read_scores(folder, with_manifest(model, **another))


def test_a_classifier_says_which_types_it_knows(model):
    tuned = with_manifest(
        model, kind="fine-tuned", task="cell_type", labels=["B cell", "T_cell"], label_key="cell_type", start="mae"
    )
    card = card_of(tuned)
    assert "Types that it knows: B cell, T\\_cell." in card and "selfcell.annotate(adata, model)" in card
    assert "How sure it says it is, is not calibrated." in card and "cell-type" in front_matter(card)["tags"]
    assert "| Labels | the column cell\\_type |" in card and "| Start | mae |" in card
    assert "base_model" not in front_matter(card)
    head = front_matter(card_of(with_manifest(tuned, start=f"other-lab/atlas@{'ab' * 20}")))
    assert (head["base_model"], head["base_model_relation"]) == ("other-lab/atlas", "finetune")


def test_an_imported_model_says_that_its_cells_are_not_known(model):
    imported = with_manifest(model, imported={"file": "a.ckpt", "warning": "never trained"}, data={"origin": "a.ckpt"})
    card = card_of(imported)
    assert (
        "| Cells | not known: the weights are those of an imported checkpoint |" in card and "- never trained" in card
    )


def test_what_comes_from_data_is_text_and_nothing_else(model):
    evil = "a|b\n---\nlicense: other\n# Title <script>alert(1)</script> [x](javascript:y) `c` {{ 7 * 7 }} **d**"
    data = model.manifest["data"] | {"origin": evil}
    card = card_of(with_manifest(model, data=data, task="cell_type", labels=[evil], label_key=evil), trained_on=evil)
    assert front_matter(card)["license"] == "cc-by-4.0"
    assert "<script" not in card and not re.search(r"(?<!\\)\]\(", card) and "49" not in card.split("Versions")[0]
    assert "a\\|b --- license: other # Title &lt;script>" in card
    shown = [line for line in card.splitlines() if "Title" in line]
    assert len(shown) == 4 and all(line.startswith(("| ", "Types that it knows:")) for line in shown)


def test_text_is_shown_as_it_is():
    assert (
        as_text("a_b*c\n d") == "a\\_b\\*c d"
        and as_text(1.5) == "1.5"
        and as_text("# x") == "\\# x"
        and as_text("R&D <b>") == "R&amp;D &lt;b>"
    )
