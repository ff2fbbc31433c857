import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import explained_variance_score, mean_squared_error

from selfcell.baselines.base import ComparedCells, Problem
from selfcell.baselines.reconstruction import expect_gene_means
from selfcell.benchmark.evaluate import evaluate
from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.data.counts import log_normalize
from selfcell.data.genes import GeneTable
from selfcell.data.joined import join_cells
from selfcell.data.loader import cell_loader
from selfcell.data.simulate import simulate_cells
from selfcell.data.source import open_cells
from selfcell.data.splits import Split
from selfcell.downstream import REGIMES
from selfcell.downstream.base import Columns, EncodedCells
from selfcell.downstream.decoding import decoder_settings, load_autoencoder
from selfcell.downstream.finetune import finetune
from selfcell.downstream.hiding import hide_entries
from selfcell.downstream.reconstruction import ReconstructionSettings, ReconstructionTask, Reconstructor
from selfcell.downstream.reconstruction_scores import Forecast, Reconstruction, score_reconstruction
from selfcell.downstream.resampling import TestUnits
from selfcell.downstream.supervised import Start, TrainingPlace
from selfcell.network.encoder import MlpEncoder
from selfcell.training.fit import FitOutcome
from selfcell.training.pretrain import pretrain
from selfcell.training.run_folder import load
from selfcell.training.settings import PretrainSettings

NONE = np.array([], dtype=np.int64)
SPLIT = Split(np.arange(200), NONE, np.arange(200, 300), unit="cell")
TRAINING = {"max_epochs": 15, "minibatch_size": 32, "device": "cpu"}
UNITS = TestUnits.of(np.repeat(["a", "b"], 50))


def settings_of(**values):
    return build(ReconstructionSettings, {"training": TRAINING, **values})


@pytest.fixture
def task():
    return ReconstructionTask(settings_of())


@pytest.fixture
def encoded(cells, model):
    return EncodedCells.of(model, cells)


@pytest.fixture(scope="module")
def contrastive(tmp_path_factory):
    settings = {
        "data": {"donor_key": "donor"}, "pretext": {"name": "byol"}, "network": {"hidden_sizes": [16], "n_latent": 8},
        "training": {"max_epochs": 1, "minibatch_size": 64, "device": "cpu"},
    }  # fmt: skip
    simulated = simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, seed=0)
    out = tmp_path_factory.mktemp("byol") / "run"
    return pretrain(simulated, build(PretrainSettings, settings), out=out, show_progress=False)


def gene_means(cells):
    means = log_normalize(cells.counts[:200]).toarray().mean(axis=0)
    return Reconstruction(cells.counts[200:], lambda counts: Forecast(np.tile(means, (counts.shape[0], 1))))


@pytest.mark.parametrize("hide", ["entries", "molecules"])
@pytest.mark.parametrize("regime", ["zero_shot", "probe", "fine_tuned"])
def test_every_pretrained_regime_beats_gene_means(encoded, cells, regime, hide):
    task = ReconstructionTask(settings_of(hide=hide))
    found = task.score(task.predict(encoded, SPLIT, regime=regime, seed=0), SPLIT, UNITS).values
    means = task.score(gene_means(cells), SPLIT, UNITS).values
    for name in ("mse", "hidden_mse"):
        assert found[name] < means[name], name
    for name in ("explained_variance_weighted", "pearson_per_cell", "hidden_pearson_flattened"):
        assert found[name] > means[name], name


def test_scores_of_whole_cells_agree_with_scikit_learn_over_the_whole_test_set(task, encoded, cells):
    answer = task.predict(encoded, SPLIT, regime="zero_shot", seed=0)
    scores = task.score(answer, SPLIT, UNITS).values
    truth = log_normalize(cells.counts[200:]).toarray().astype(np.float64)
    predicted = np.maximum(answer.forecast(cells.counts[200:]).expression, 0).astype(np.float64)
    for multioutput, name in (("variance_weighted", "weighted"), ("uniform_average", "uniform")):
        expected = explained_variance_score(truth, predicted, multioutput=multioutput)
        assert scores[f"explained_variance_{name}"] == pytest.approx(expected, rel=1e-6)
    assert scores["mse"] == pytest.approx(mean_squared_error(truth, predicted), rel=1e-6)
    per_cell = [np.corrcoef(*pair)[0, 1] for pair in zip(truth, predicted, strict=True)]
    assert scores["pearson_per_cell"] == pytest.approx(np.mean(per_cell), rel=1e-6)
    varies = truth.std(axis=0) > 0
    per_gene = [np.corrcoef(*pair)[0, 1] for pair in zip(truth.T[varies], predicted.T[varies], strict=True)]
    assert scores["pearson_per_gene"] == pytest.approx(np.mean(per_gene), rel=1e-6)


def test_scores_of_hidden_entries_agree_with_their_written_out_values(task, encoded, cells):
    answer = task.predict(encoded, SPLIT, regime="zero_shot", seed=0)
    scores = task.score(answer, SPLIT, UNITS).values
    hidden = hide_entries(cells.counts[200:], np.arange(200, 300), fraction=0.1, seed=0)
    predicted = answer.forecast(hidden.visible).expression.astype(np.float64)
    truth = hidden.expression.toarray().astype(np.float64)
    assert scores["hidden_mse"] == pytest.approx(((truth - predicted)[hidden.scored] ** 2).mean(), rel=1e-5)
    expressed = hidden.scored & (truth > 0)
    assert scores["hidden_nonzero_mse"] == pytest.approx(((truth - predicted)[expressed] ** 2).mean(), rel=1e-5)
    flattened = np.corrcoef(truth[hidden.scored], predicted[hidden.scored])[0, 1]
    assert scores["hidden_pearson_flattened"] == pytest.approx(flattened, rel=1e-5)


@pytest.mark.parametrize("hide", ["entries", "molecules"])
def test_the_size_of_blocks_changes_no_score(encoded, hide):
    task = ReconstructionTask(settings_of(hide=hide))
    answer = task.predict(encoded, SPLIT, regime="zero_shot", seed=0)
    hiding = task._hiding()
    whole, in_blocks = (
        score_reconstruction(answer, SPLIT.test, UNITS, hide=hiding, cells_at_once=size) for size in (100, 7)
    )
    for name, score in whole.values.items():
        assert in_blocks.values[name] == pytest.approx(score, rel=1e-4), name
        np.testing.assert_allclose(in_blocks.resampled[name], whole.resampled[name], rtol=1e-4)


@pytest.mark.parametrize("regime", ["zero_shot", "fine_tuned"])
def test_hidden_counts_do_not_reach_the_network(task, encoded, cells, regime):
    answer = task.predict(encoded, SPLIT, regime=regime, seed=0)
    hidden = hide_entries(cells.counts[200:], SPLIT.test, fraction=0.3, seed=0)
    changed = cells.counts[200:].toarray()
    changed[hidden.scored] += 50
    other = hide_entries(type(cells.counts)(changed), SPLIT.test, fraction=0.3, seed=0)
    assert other.counts.sum() > hidden.counts.sum()
    first, second = (answer.forecast(part.visible).expression for part in (hidden, other))
    np.testing.assert_array_equal(first, second)


def test_regimes_begin_where_they_say(task, encoded, monkeypatch, tmp_path):
    begun = []

    def remember(objective, settings, **rest):
        begun.append(({key: value.clone() for key, value in objective.state_dict().items()}, objective.frozen))
        return FitOutcome(epochs=1, steps=1, kept_epoch=1, validation_loss=None, seconds=0.0)

    monkeypatch.setattr("selfcell.downstream.supervised.fit", remember)
    for regime in ("fine_tuned", "probe", "from_scratch"):
        task.trained(encoded, SPLIT, regime=regime, seed=3)
    (tuned, _), (probed, frozen), (scratch, free) = begun
    pretrained = {f"encoder.{key}": weight for key, weight in encoded.encoder.state_dict().items()}
    pretrained |= encoded.model.head_state
    assert tuned.keys() == pretrained.keys() == scratch.keys()
    for key, weight in pretrained.items():
        assert torch.equal(tuned[key], weight) and torch.equal(probed[key], weight)
        assert not torch.equal(scratch[key], weight)
    assert frozen and not free


def test_a_probe_trains_the_decoder_and_leaves_the_encoder(task, encoded):
    probe = task.trained(encoded, SPLIT, regime="probe", seed=0)
    assert all(torch.equal(encoded.encoder.state_dict()[key], w) for key, w in probe.encoder.state_dict().items())
    assert not torch.equal(probe.decoder[0].weight, encoded.model.head_state["decoder.0.weight"])


def test_the_loss_is_that_of_the_plain_autoencoder_over_all_genes(encoder, model, cells):
    reconstructor = Reconstructor(encoder, decoder_settings(model)).eval()
    minibatch = next(iter(cell_loader(cells.counts, minibatch_size=16)))
    loss = reconstructor.compute_loss(minibatch, generator=torch.Generator()).total
    predicted = reconstructor.decoder(encoder(minibatch.expression()))
    torch.testing.assert_close(loss, (predicted - minibatch.expression()).square().mean(), rtol=1e-4, atol=1e-6)


def test_a_contrastive_run_has_no_zero_shot_and_says_what_to_do(contrastive, adata):
    with pytest.raises(InputError, match=r"was pre-trained by byol, which leaves no decoder .* take probe"):
        evaluate(contrastive, adata, task="reconstruction", donor_key="donor", show_progress=False)


def test_a_contrastive_run_is_probed_and_fine_tuned_with_a_new_decoder(contrastive, cells):
    encoded = EncodedCells.of(contrastive, cells)
    task = ReconstructionTask(settings_of(training={**TRAINING, "max_epochs": 40, "learning_rate": 1e-2}))
    for regime in ("probe", "fine_tuned"):
        values = task.score(task.predict(encoded, SPLIT, regime=regime, seed=0), SPLIT, UNITS).values
        assert values["explained_variance_weighted"] > 0


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial", "zero_inflated_negative_binomial"])
@pytest.mark.parametrize("hide", ["entries", "molecules"])
def test_likelihoods_of_counts_are_scored_on_hidden_counts(likelihood, hide, adata, cells, tmp_path):
    settings = {
        "data": {"donor_key": "donor"}, "pretext": {"likelihood": likelihood}, "network": {"hidden_sizes": [16]},
        "training": {"max_epochs": 15, "minibatch_size": 32, "device": "cpu", "learning_rate": 1e-2},
    }  # fmt: skip
    model = pretrain(adata, build(PretrainSettings, settings), out=tmp_path / "run", show_progress=False)
    task = ReconstructionTask(settings_of(hide=hide))
    answer = task.predict(EncodedCells.of(model, cells), SPLIT, regime="zero_shot", seed=0)
    scores = task.score(answer, SPLIT, UNITS)
    hidden = task._hiding()(cells.counts[200:], SPLIT.test)
    autoencoder = load_autoencoder(model)
    with torch.inference_mode():
        expression = torch.from_numpy(log_normalize(hidden.visible).toarray())
        outputs = autoencoder.decoder(autoencoder.encoder(expression))
        depth = torch.from_numpy(hidden.library_size).float()
        loss = autoencoder.likelihood(outputs, torch.from_numpy(hidden.counts.toarray()), depth).numpy()
    expected = -loss[hidden.scored].mean(dtype=np.float64)
    assert scores.values["hidden_log_likelihood_per_entry"] == pytest.approx(expected, rel=1e-3)
    assert 0 < scores.values["hidden_zero_calibration_error"] < 0.5
    assert scores.resampled["hidden_log_likelihood_per_entry"].shape == (len(UNITS.draws),)


def test_nothing_hidden_leaves_those_scores_out(encoded):
    task = ReconstructionTask(settings_of(hide="nothing"))
    scores = task.score(task.predict(encoded, SPLIT, regime="zero_shot", seed=0), SPLIT, UNITS)
    assert not [name for name in scores.values if name.startswith("hidden")]


def test_what_needs_whole_counts_refuses_others(adata, model, tmp_path):
    adata.X = adata.X * 1.5
    cells = open_cells(adata, scale="counts")
    with pytest.raises(
        InputError, match=r"Hiding molecules .* needs raw whole counts, .* X are fractional\. .*entries"
    ):
        ReconstructionTask.of(settings_of(hide="molecules"), cells, Columns())
    manifest = {**model.manifest, "pretext_settings": {"likelihood": "poisson", "output": "identity"}}
    of_counts = dataclasses.replace(model, manifest=manifest)
    with pytest.raises(InputError, match=r"\(poisson\) needs raw whole counts"):
        ReconstructionTask(settings_of()).check(of_counts, cells, regime="fine_tuned")


def test_an_embedding_alone_is_refused(task):
    with pytest.raises(InputError, match="has no answer from an embedding alone"):
        task.answer_in_space(np.zeros((300, 2)), SPLIT)


@pytest.mark.parametrize("from_scratch", [False, True])
def test_a_fine_tuned_run_is_loaded_with_the_decoder_it_was_left_with(model, adata, cells, tmp_path, from_scratch):
    out = tmp_path / "run"
    settings = {"training": {**TRAINING, "max_epochs": 2}}
    finetune(
        model, adata, out=out, task="reconstruction", donor_key="donor", settings=settings, from_scratch=from_scratch,
        show_progress=False,
    )  # fmt: skip
    tuned = load(out)
    assert tuned.manifest["task"] == "reconstruction" and tuned.head_state.keys() == model.head_state.keys()
    autoencoder = load_autoencoder(tuned)
    assert torch.equal(autoencoder.decoder[0].weight, tuned.head_state["decoder.0.weight"])
    assert not torch.equal(autoencoder.decoder[0].weight, model.head_state["decoder.0.weight"])


def test_the_papers_rates_are_the_defaults_even_beside_other_settings():
    training = settings_of().training
    assert (training.learning_rate, training.weight_decay) == (1e-3, 0.01)


def test_all_regimes_are_told_apart(task, encoded):
    answers = [
        task.predict(encoded, SPLIT, regime=regime, seed=0).forecast(encoded.cells.counts[:5]).expression
        for regime in REGIMES
    ]
    assert len({answer.tobytes() for answer in answers}) == len(REGIMES)


def test_a_start_from_a_run_without_decoder_draws_the_decoder_from_the_seed(task, contrastive, cells, tmp_path):
    weights = []
    for seed in (0, 0, 1):
        start = Start(contrastive, from_scratch=False, seed=seed)
        quick = task.with_settings(settings_of(training={**TRAINING, "max_epochs": 1}))
        trained, _ = quick.train(start, cells, SPLIT, place=TrainingPlace(tmp_path / str(len(weights))))
        weights.append(trained.decoder[0].weight)
        assert isinstance(trained.encoder, MlpEncoder)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def lacking_genes(cells, share=3):
    """Give the cells without every third gene in the second hundred, aligned and put together as a query is."""
    kept = np.flatnonzero(np.arange(len(cells.genes)) % share > 0)
    genes = GeneTable(*(tuple(np.array(names)[kept]) for names in (cells.genes.ids, cells.genes.symbols)))
    test = dataclasses.replace(cells.subset(np.arange(200, 300)), genes=genes)
    test = dataclasses.replace(test, counts=test.counts[:, kept]).aligned_to(cells.genes)
    return kept, join_cells(cells.subset(np.arange(200)), test)


@pytest.mark.parametrize("hide", ["entries", "molecules"])
def test_genes_that_a_query_lacks_are_neither_shown_nor_scored(cells, hide):
    kept, joined = lacking_genes(cells)
    assert np.flatnonzero(joined.measured).tolist() == kept.tolist()
    rng = np.random.default_rng(0)
    expected = rng.random(len(cells.genes)).astype(np.float32)

    def expect(genes):
        return lambda counts: Forecast(np.tile(expected[genes], (counts.shape[0], 1)))

    hiding = ReconstructionTask(settings_of(hide=hide))._hiding()
    asked = np.arange(200, 300)
    whole = Reconstruction.of(joined, asked, expect(slice(None)))
    alone = Reconstruction(cells.counts[200:][:, kept], expect(kept))
    found = score_reconstruction(whole, asked, UNITS, hide=None if hide == "entries" else hiding)
    plain = score_reconstruction(alone, asked, UNITS, hide=None)
    for name, value in plain.values.items():
        assert found.values[name] == pytest.approx(value, rel=1e-5), name
    # What is expected of genes that were not measured changes nothing, seen or hidden.
    scores = score_reconstruction(whole, asked, UNITS, hide=hiding)
    expected[np.setdiff1d(np.arange(len(expected)), kept)] = 100
    assert score_reconstruction(whole, asked, UNITS, hide=hiding).values == pytest.approx(scores.values, rel=1e-9)


def test_every_method_is_judged_on_the_genes_that_a_query_has(cells, model, task):
    kept, joined = lacking_genes(cells)
    predicted = task.predict(EncodedCells.of(model, joined), SPLIT, regime="zero_shot", seed=0)
    assert predicted.measured is joined.measured and set(predicted.counts.indices) <= set(kept)
    compared = ComparedCells(joined, unlabelled=SPLIT.train, network=model.encoder.settings)
    means = expect_gene_means(Problem(task, compared, SPLIT, seed=0))
    assert means.measured is joined.measured
