import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.utils.class_weight import compute_class_weight

from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.data.loader import cell_loader
from selfcell.data.source import encode
from selfcell.data.splits import Split
from selfcell.downstream import REGIMES
from selfcell.downstream.base import EncodedCells
from selfcell.downstream.cell_type import (
    CellTypeSettings,
    CellTypeTask,
    label_classes,
)
from selfcell.downstream.logistic_regression import fit_logistic_regression
from selfcell.downstream.resampling import TestUnits
from selfcell.downstream.supervised import Start, TrainingPlace
from selfcell.downstream.type_classifier import CellTypeClassifier, class_weight, weighted_cross_entropy
from selfcell.training.fit import FitOutcome

QUICK = build(
    CellTypeSettings, {"training": {"max_epochs": 15, "minibatch_size": 32, "device": "cpu", "learning_rate": 0.01}}
)
NONE = np.array([], dtype=np.int64)


@pytest.fixture
def task(cells):
    labels = cells.obs["cell_type"].astype(str)
    classes = label_classes(labels.to_list(), key="cell_type")
    return CellTypeTask(QUICK, label_code=encode(labels, classes), classes=classes)


@pytest.fixture
def encoded(cells, model):
    return EncodedCells.of(model, cells)


@pytest.mark.parametrize("regime", list(REGIMES))
def test_every_regime_finds_the_simulated_types(task, encoded, regime):
    split = Split(np.arange(200), NONE, np.arange(200, 300), unit="cell")
    predicted = task.predict(encoded, split, regime=regime, seed=0)
    assert predicted.shape == (100,)
    scores = task.score(predicted, split, TestUnits.of(np.repeat(["a", "b"], 50)))
    assert scores.values["macro_f1"] > 0.8


@pytest.mark.parametrize("regime", list(REGIMES))
def test_answers_do_not_depend_on_the_labels_of_test_cells(task, encoded, regime):
    split = Split(np.arange(200), NONE, np.arange(200, 300), unit="cell")
    honest = task.predict(encoded, split, regime=regime, seed=0)
    spoiled = task.label_code.copy()
    spoiled[200:] = (spoiled[200:] + 1) % 3
    cheated = CellTypeTask(QUICK, label_code=spoiled, classes=task.classes)
    assert (cheated.predict(encoded, split, regime=regime, seed=0) == honest).all()


def test_fine_tuning_and_training_from_scratch_differ_in_the_encoders_start_only(task, encoded, monkeypatch, tmp_path):
    starts = {}

    def remember(objective, settings, **rest):
        starts[len(starts)] = ({k: v.clone() for k, v in objective.state_dict().items()}, settings)
        return FitOutcome(epochs=1, steps=1, kept_epoch=1, validation_loss=None, seconds=0.0)

    monkeypatch.setattr("selfcell.downstream.supervised.fit", remember)
    split = Split(np.arange(200), NONE, np.arange(200, 300), unit="cell")
    for from_scratch in (False, True):
        start = Start(encoded.model, from_scratch, seed=3)
        task.train(start, encoded.cells, split, place=TrainingPlace(tmp_path))
    (tuned, settings), (scratch, same_settings) = starts[0], starts[1]
    assert settings == same_settings
    assert all(torch.equal(tuned[f"encoder.{name}"], weight) for name, weight in encoded.encoder.state_dict().items())
    assert all(torch.equal(tuned[name], scratch[name]) for name in tuned if name.startswith("head."))
    assert not torch.equal(tuned["encoder.layers.0.weight"], scratch["encoder.layers.0.weight"])


def test_fine_tuning_leaves_the_pretrained_encoder_alone(task, encoded):
    before = {name: weight.clone() for name, weight in encoded.encoder.state_dict().items()}
    task.predict(encoded, Split(np.arange(50), NONE, np.arange(60, 70), unit="cell"), regime="fine_tuned", seed=0)
    assert all(torch.equal(before[name], weight) for name, weight in encoded.encoder.state_dict().items())


def test_the_loss_agrees_with_the_written_out_formula(encoder, cells):
    weight = torch.tensor([1.0, 3.0, 0.5])
    classifier = CellTypeClassifier(encoder, class_weight=weight).eval()
    codes = np.random.default_rng(0).integers(3, size=300)
    minibatch = next(iter(cell_loader(cells.counts, codes={"label": codes}, minibatch_size=16)))
    loss = classifier.compute_loss(minibatch, generator=torch.Generator())
    hidden = torch.selu(encoder(minibatch.expression()))
    linear = classifier.head[2]
    logits = hidden @ linear.weight.T + linear.bias
    log_probability = logits - logits.exp().sum(dim=1, keepdim=True).log()
    picked = torch.stack([log_probability[cell, code] for cell, code in enumerate(codes[:16])])
    cell_weight = weight[codes[:16]]
    torch.testing.assert_close(loss.total, -(cell_weight * picked).sum() / cell_weight.sum())
    assert loss.terms["accuracy"] == (logits.argmax(dim=1).numpy() == codes[:16]).mean()


def test_held_out_cells_of_types_without_weight_give_no_loss_and_not_nan(encoder, cells):
    classifier = CellTypeClassifier(encoder, class_weight=torch.tensor([1.0, 0.0]))
    minibatch = next(iter(cell_loader(cells.counts[:4], codes={"label": np.ones(4, dtype=np.int64)}, minibatch_size=4)))
    assert classifier.compute_loss(minibatch, generator=torch.Generator()).total == 0


def test_balanced_weights_are_scikit_learns_and_absent_classes_weigh_nothing():
    codes = np.array([0, 0, 0, 2, 2, 3])
    weight = class_weight(codes, n_classes=5, kind="balanced")
    expected = compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=codes)
    np.testing.assert_allclose(weight[[0, 2, 3]], expected, rtol=1e-12)
    assert weight[1] == weight[4] == 0
    assert class_weight(codes, n_classes=5, kind="none").tolist() == [1, 0, 1, 1, 0]


@pytest.mark.parametrize("kind", ["balanced", "root", "none"])
def test_weights_are_one_in_the_mean_over_cells(kind):
    codes = np.repeat([0, 1, 3], [90, 9, 1])
    weight = class_weight(codes, n_classes=4, kind=kind)
    assert weight[codes].mean() == pytest.approx(1)
    assert weight[1] / weight[0] == pytest.approx({"balanced": 10, "root": 10**0.5, "none": 1}[kind])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_smoothed_labels_is_the_mean_over_labels_drawn_so(smoothing):
    rng = np.random.default_rng(0)
    logits, codes = torch.from_numpy(rng.normal(size=(6, 4))), torch.tensor([0, 1, 3, 3, 0, 1])
    weight = torch.tensor([0.5, 2.0, 0.0, 4.0], dtype=torch.float64)
    loss = weighted_cross_entropy(logits, codes, weight=weight, label_smoothing=smoothing)
    target = torch.zeros(6, 4, dtype=torch.float64)
    for cell, code in enumerate(codes):
        target[cell, [0, 1, 3]] += smoothing / 3
        target[cell, code] += 1 - smoothing
    of_cell = -(target * torch.log_softmax(logits, dim=1)).sum(dim=1)
    expected = sum(weight[code] * one for code, one in zip(codes, of_cell, strict=True)) / weight[codes].sum()
    torch.testing.assert_close(loss, expected)
    if not smoothing:
        torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, codes, weight=weight))


def test_logistic_regression_on_one_class_says_that_class():
    codes = np.array([4, 4, 4])
    for train, test in ((np.zeros((3, 2)), np.zeros((2, 2))), (sp.csr_matrix((3, 2)), sp.csr_matrix((2, 2)))):
        found = fit_logistic_regression(train, codes, test, class_weights="none", inverse_penalty=1.0)
        assert found.tolist() == [4, 4]


def test_a_single_class_is_refused():
    with pytest.raises(InputError, match=r"All cells have the same label in obs\['cell_type'\] \('B'\)"):
        label_classes(["B", "B"], key="cell_type")
