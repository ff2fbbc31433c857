import logging
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import selfcell
from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.data.simulate import simulate_cells
from selfcell.data.source import open_cells
from selfcell.data.splits import Split
from selfcell.downstream import integration
from selfcell.downstream.base import Columns, EncodedCells
from selfcell.downstream.embed import embed
from selfcell.downstream.finetune import finetune
from selfcell.downstream.integration import (
    MAX_SCORED,
    IntegrationSettings,
    IntegrationTask,
    IntegrationTrainingSettings,
    likelihood_of,
)
from selfcell.downstream.integration_scores import integration_scores
from selfcell.downstream.neighbors import vote_of_neighbors
from selfcell.downstream.resampling import TestUnits
from selfcell.downstream.supervised import Start, TrainingPlace
from selfcell.training.pretrain import pretrain
from selfcell.training.run_folder import load

NONE = np.array([], dtype=np.int64)
SPLIT = Split(np.arange(260), NONE, np.arange(260, 400), unit="cell")
UNITS = TestUnits.of(np.repeat(["a", "b"], 70))
QUICK = {"max_epochs": 12, "minibatch_size": 64, "device": "cpu"}
COLUMNS = Columns("cell_type", "donor", "batch")


def simulated(*, n_batches=2, seed=1, kept=0.2):
    """Cells of which each batch loses most counts of some genes of its own."""
    cells = simulate_cells(n_cells=400, n_genes=60, n_types=3, n_batches=n_batches, seed=seed)
    rng = np.random.default_rng(0)
    share = np.where(rng.random((n_batches, 60)) < 0.3, kept, 1.0)
    code = cells.obs["batch"].str[-1].astype(int).to_numpy()
    cells.X = sp.csr_matrix(rng.binomial(cells.X.toarray().astype(int), share[code]).astype(np.float32))
    return cells


def settings_of(**values):
    return build(IntegrationSettings, {"training": QUICK} | values)


@pytest.fixture(scope="module")
def adata():
    return simulated()


@pytest.fixture(scope="module")
def pretrained(adata, small_settings, tmp_path_factory):
    training = small_settings.training.model_copy(update={"max_epochs": 15, "minibatch_size": 64})
    settings = small_settings.model_copy(update={"training": training})
    return pretrain(adata, settings, out=tmp_path_factory.mktemp("integration") / "run", show_progress=False)


@pytest.fixture
def task(adata):
    return IntegrationTask.of(settings_of(), open_cells(adata), COLUMNS)


@pytest.fixture
def encoded(adata, pretrained):
    return EncodedCells.of(pretrained, open_cells(adata))


def test_fine_tuning_mixes_batches_better_and_keeps_types(task, encoded):
    scores = {"zero_shot": task.score(encoded.embedding, SPLIT, UNITS).values}
    for weight in (0.0, 1.0):
        weighted = task.with_settings(settings_of(mmd_weight=weight))
        scores[weight] = task.score(weighted.predict(encoded, SPLIT, regime="fine_tuned", seed=0), SPLIT, UNITS).values
    before, after = scores["zero_shot"], scores[1.0]
    assert after["ilisi"] > before["ilisi"] + 0.1 and after["all_ilisi"] > before["all_ilisi"] + 0.1
    assert after["bio_conservation"] > before["bio_conservation"] - 0.05
    assert after["total"] > before["total"] + 0.05
    assert scores[0.0]["total"] > before["total"] and after["all_total"] > scores[0.0]["all_total"]


def test_cells_of_a_batch_never_seen_are_mapped_among_the_others(pretrained, caplog):
    adata = simulated(n_batches=3)
    longer = settings_of(training={**QUICK, "max_epochs": 40})
    task = IntegrationTask.of(longer, open_cells(adata), COLUMNS)
    is_new = (adata.obs["batch"] == "batch 2").to_numpy()
    split = Split(np.flatnonzero(~is_new), NONE, np.flatnonzero(is_new), unit="batch")
    with caplog.at_level(logging.INFO):
        assert (task.usable(split.test, reference=split.train) == split.test).all()
    assert "No training cell is of 'batch 2': those test cells are mapped unseen." in caplog.text
    assert "All test cells are of one batch, 'batch 2'" in caplog.text
    encoded = EncodedCells.of(pretrained, open_cells(adata))
    units = TestUnits.of_cells(len(split.test))
    right = {}
    for regime in ("zero_shot", "fine_tuned"):
        space = task.predict(encoded, split, regime=regime, seed=0)
        values = task.score(space, split, units).values
        assert values["total"] == values["all_total"]
        voted = vote_of_neighbors(space[split.train], task.label_code[split.train], space[split.test], n_neighbors=5)
        right[regime] = (voted.label_code == task.label_code[split.test]).mean()
    assert right["fine_tuned"] > right["zero_shot"] + 0.05


def test_scores_are_those_of_the_test_cells_and_of_all(task, encoded):
    scores = task.score(encoded.embedding, SPLIT, UNITS)
    for prefix, rows in (("", SPLIT.test), ("all_", np.arange(400))):
        expected = integration_scores(
            encoded.embedding[rows],
            batch_code=task.batch_code[rows],
            label_code=task.label_code[rows],
            unintegrated=task.unintegrated[rows],
            max_cells=MAX_SCORED,
        )
        assert {name: scores.values[prefix + name] for name in expected} == expected
    assert not scores.resampled


@pytest.mark.slow
def test_scib_metrics_judges_where_it_is_asked_for(adata, encoded):
    task = IntegrationTask.of(settings_of(scorer="scib-metrics"), open_cells(adata), COLUMNS)
    scores = task.score(encoded.embedding, SPLIT, UNITS).values
    some = anndata.AnnData(obs=adata.obs.iloc[SPLIT.test])
    some.obsm["X_mine"], some.obsm["X_pca"] = encoded.embedding[SPLIT.test], task.unintegrated[SPLIT.test]
    asked = {"label_key": "cell_type", "batch_key": "batch", "unintegrated": "X_pca", "by": "scib-metrics"}
    expected = selfcell.score_embeddings(some, ["X_mine"], **asked).loc["X_mine"].to_dict()
    assert {"kbet", "isolated_labels", "total"} <= expected.keys()
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    assert scores.keys() == {*expected, *(f"all_{name}" for name in expected)}


def test_the_scorer_is_given_the_cells_that_are_judged_on_and_no_more_than_are_drawn(
    adata, encoded, pretrained, monkeypatch
):
    monkeypatch.setattr(integration, "check_scib", lambda _: None)
    monkeypatch.setattr(integration, "scib_scores", lambda space, **_: {"total": float(len(space)), "kbet": 0.5})
    monkeypatch.setattr(integration, "MAX_SCORED", 300)
    task = IntegrationTask.of(settings_of(scorer="scib-metrics"), open_cells(adata), COLUMNS)
    scores = task.score(encoded.embedding, SPLIT, UNITS).values
    assert scores == {"total": 140.0, "kbet": 0.5, "all_total": 300.0, "all_kbet": 0.5}
    judged = selfcell.evaluate(
        pretrained, adata, task="integration", label_key="cell_type", batch_key="batch", donor_key="donor", jobs=1,
        regimes=["zero_shot"], baselines=["pca"], n_seeds=1, settings={"scorer": "scib-metrics"}, show_progress=False,
    )  # fmt: skip
    assert set(judged["metric"]) == scores.keys() and set(judged["method"]) == {"zero_shot", "pca"}


def test_that_scib_metrics_is_absent_is_said_before_anything_is_trained(adata, pretrained, monkeypatch, tmp_path):
    monkeypatch.setattr(IntegrationTask, "train", lambda *_, **__: pytest.fail("it was trained"))
    monkeypatch.setitem(sys.modules, "scib_metrics.benchmark", None)
    monkeypatch.setitem(sys.modules, "scib_metrics", None)
    message = r"Scoring by the reference needs scib_metrics: in a clone of selfcell, pip install '\.\[scib\]'"
    with pytest.raises(InputError, match=message):
        selfcell.evaluate(
            pretrained, adata, task="integration", label_key="cell_type", batch_key="batch", donor_key="donor", jobs=1,
            settings={"scorer": "scib-metrics", "training": QUICK}, out=tmp_path / "judged", show_progress=False,
        )  # fmt: skip
    assert not (tmp_path / "judged").exists()


def test_too_few_cells_for_scib_metrics_are_refused_before_anything_is_trained(adata):
    task = IntegrationTask.of(settings_of(scorer="scib-metrics"), open_cells(adata), COLUMNS)
    with pytest.raises(InputError, match=r"scib-metrics needs more than 90 cells, but there are 60"):
        task.usable(np.arange(60), reference=np.arange(60, 400))


def test_swapped_batches_and_types_change_the_scores():
    cells = open_cells(simulated(kept=0.9))
    right = IntegrationTask.of(settings_of(), cells, COLUMNS)
    wrong = IntegrationTask.of(settings_of(), cells, Columns("batch", "donor", "cell_type"))
    good, bad = (one.score(right.unintegrated, SPLIT, UNITS).values["total"] for one in (right, wrong))
    assert good > 0.6 > bad


def test_preparing_computes_what_scores_compare_with_and_lets_go_of_the_cells(task, encoded):
    before = task.score(encoded.embedding, SPLIT, UNITS).values
    task.prepare()
    assert (
        task._counts is None
        and task.with_settings(settings_of()).score(encoded.embedding, SPLIT, UNITS).values == before
    )


def test_the_probe_moves_the_last_layer_of_the_encoder_alone(task, encoded):
    trained = task.trained(encoded, SPLIT, regime="probe", seed=0)
    start, end = encoded.encoder.state_dict(), trained.encoder.state_dict()
    moved = {name for name in start if not start[name].equal(end[name])}
    assert moved == {"layers.3.weight", "layers.3.bias"}


def test_batches_of_test_cells_do_not_move_the_training(adata, task, encoded):
    other = adata.copy()
    other.obs["batch"] = np.where(np.arange(400) < 260, adata.obs["batch"], "batch 0")
    blind = IntegrationTask.of(settings_of(), open_cells(other), COLUMNS)
    answers = [one.predict(encoded, SPLIT, regime="fine_tuned", seed=0) for one in (task, blind)]
    np.testing.assert_array_equal(*answers)


def test_the_likelihood_is_that_of_the_pretext_unless_another_is_named(pretrained, adata, tmp_path):
    assert likelihood_of(settings_of(), pretrained) == ("squared_error", "identity")
    assert likelihood_of(settings_of(likelihood="poisson"), pretrained) == ("poisson", "identity")
    of_counts = {
        "pretext": {"likelihood": "negative_binomial"},
        "network": {"hidden_sizes": [16], "n_latent": 8},
        "training": {"max_epochs": 1, "device": "cpu"},
    }
    model = pretrain(adata, of_counts, out=tmp_path / "run", show_progress=False)
    assert likelihood_of(settings_of(), model) == ("negative_binomial", "identity")


def test_a_run_needs_no_labels_and_embeds_any_cells(adata, pretrained, tmp_path):
    unlabelled = adata.copy()
    del unlabelled.obs["cell_type"]
    trained = finetune(
        pretrained,
        unlabelled,
        out=tmp_path / "run",
        task="integration",
        batch_key="batch",
        settings={"training": {"max_epochs": 1, "device": "cpu"}},
        show_progress=False,
    )
    assert trained.manifest["task"] == "integration" and trained.manifest["batches"] == ["batch 0", "batch 1"]
    new = simulated(n_batches=5, seed=2)
    embed(new, load(tmp_path / "run"))
    assert new.obsm["X_selfcell"].shape == (400, 16)


def test_cells_without_a_batch_are_a_batch_of_their_own_and_that_is_said(adata, caplog):
    other = adata.copy()
    other.obs["batch"] = adata.obs["batch"].astype(object).where(np.arange(400) >= 7, np.nan)
    task = IntegrationTask.of(settings_of(), open_cells(other), COLUMNS)
    assert task.batch_names == ("(no value)", "batch 0", "batch 1") and (task.batch_code[:7] == 0).all()
    assert "7 of 400 cells have no value in obs['batch'], used as batch" in caplog.text


@pytest.mark.parametrize(
    ("change", "columns", "message"),
    [
        (lambda obs: obs, Columns("cell_type"), r"needs the column of obs with the batch, such as the study: --batch"),
        (
            lambda obs: obs,
            Columns("cell_type", None, "Batch"),
            "no column 'Batch' in obs to use as batch. Did you mean",
        ),
        (lambda obs: obs.assign(batch="one"), COLUMNS, r"All cells are of one batch in obs\['batch'\] \('one'\)"),
        (lambda obs: obs.assign(cell_type="B"), COLUMNS, r"All cells have the same label"),
    ],
)
def test_what_cannot_be_integrated_is_refused(adata, change, columns, message):
    other = anndata.AnnData(adata.X, obs=change(adata.obs), var=adata.var)
    with pytest.raises(InputError, match=message):
        IntegrationTask.of(settings_of(), open_cells(other), columns)


def test_what_cannot_be_judged_is_refused(adata, task):
    unlabelled = IntegrationTask.of(settings_of(), open_cells(adata), Columns(None, None, "batch"))
    with pytest.raises(InputError, match=r"judged by cell types, so it needs their column in obs: --label"):
        unlabelled.usable(SPLIT.test, reference=SPLIT.train)
    of_one = np.flatnonzero(task.batch_code == 0)
    with pytest.raises(
        InputError, match=r"All training cells are of one batch \('batch 0'\), so nothing can be learned"
    ):
        task.usable(SPLIT.test, reference=of_one)


def test_batches_absent_among_the_test_cells_are_named(caplog):
    adata = simulated(n_batches=3)
    task = IntegrationTask.of(settings_of(), open_cells(adata), COLUMNS)
    rest = np.flatnonzero(task.batch_code != 1)
    task.usable(rest[:100], reference=np.arange(400))
    assert "No test cell is of 'batch 1': scores without all_ do not tell of it." in caplog.text


@pytest.mark.parametrize(("scale", "what"), [("counts", "fractional"), ("log1p", "log-normalized ones, undone")])
def test_likelihoods_of_counts_need_whole_ones(adata, pretrained, tmp_path, scale, what):
    other = adata.copy()
    other.X = other.X * 0.5 if scale == "counts" else other.X.log1p()
    task = IntegrationTask.of(settings_of(likelihood="poisson"), open_cells(other, scale=scale), COLUMNS)
    cells = open_cells(other, scale=scale)
    with pytest.raises(InputError, match=rf"The likelihood poisson needs raw whole counts, but .* are {what}"):
        task.train(Start(pretrained, from_scratch=False, seed=0), cells, SPLIT, place=TrainingPlace(tmp_path))


def test_the_training_section_has_the_rates_of_the_paper():
    settings = build(IntegrationSettings, {"training": {"max_epochs": 3}}).training
    assert isinstance(settings, IntegrationTrainingSettings)
    assert (settings.max_epochs, settings.learning_rate, settings.weight_decay) == (3, 1e-3, 0.01)


def test_facts_count_the_types_of_the_test_cells(task):
    assert task.facts(SPLIT.test) == {"n_classes": pd.unique(task.label_code[SPLIT.test]).size}
