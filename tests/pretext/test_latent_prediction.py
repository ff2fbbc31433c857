import numpy as np
import pytest
import torch

from selfcell.core.errors import InputError
from selfcell.data.programs import GenePrograms
from selfcell.network.target import cosine_momentum
from selfcell.pretext.latent_prediction import LatentPrediction, LatentPredictionSettings
from selfcell.pretext.masks import draw_exact_mask

PROGRAMS = GenePrograms(
    names=("a", "b", "c", "d"),
    genes=(np.arange(0, 10), np.arange(5, 20), np.arange(20, 30), np.arange(40, 55)),
    n_genes=60,
)


@pytest.fixture
def by_programs(encoder):
    settings = LatentPredictionSettings(programs="four", mask_fraction=0.5)
    return LatentPrediction(settings, encoder=encoder, programs=PROGRAMS)


def seen_by(network):
    seen = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    return seen


def test_loss_and_gradients_agree_with_the_written_out_formula(encoder, minibatch, agree):
    task = LatentPrediction(LatentPredictionSettings(mask_fraction=0.3), encoder=encoder).double().eval()
    minibatch.values = minibatch.values.double()
    total = task.compute_loss(minibatch, generator=torch.Generator().manual_seed(5)).total
    mask = draw_exact_mask(32, 60, 0.3, generator=torch.Generator().manual_seed(5))
    expression = minibatch.expression()
    predicted = task.predictor(task.encoder(torch.where(mask, 0.0, expression)))
    expected = 0
    for row, full in zip(predicted, expression, strict=True):
        target = task.target_network(full[None])[0]
        mean = sum(target) / 8
        spread = torch.sqrt(sum((t - mean) ** 2 for t in target) / 8 + 1e-5)
        expected = expected + sum((p - (t - mean) / spread) ** 2 for p, t in zip(row, target, strict=True)) / (32 * 8)
    agree(total, expected, [parameter for parameter in task.parameters() if parameter.requires_grad])


def test_the_encoder_sees_the_rest_and_the_target_network_the_whole_cell(encoder, minibatch):
    task = LatentPrediction(LatentPredictionSettings(), encoder=encoder).eval()
    visible, whole = seen_by(task.encoder), seen_by(task.target_network)
    task.compute_loss(minibatch, generator=torch.Generator().manual_seed(0))
    assert torch.equal(whole[0], minibatch.expression())
    assert ((visible[0] == 0) | (visible[0] == whole[0])).all()
    assert (visible[0] != whole[0]).any(dim=1).all()


def test_whole_programmes_are_hidden_and_nothing_else(by_programs, minibatch):
    task = by_programs.eval()
    visible = seen_by(task.encoder)
    task.compute_loss(minibatch, generator=torch.Generator().manual_seed(0))
    drawn = draw_exact_mask(32, 4, 0.5, generator=torch.Generator().manual_seed(0))
    expected = minibatch.expression()
    for cell, row in enumerate(drawn):
        assert row.sum() == 2
        for program in row.nonzero()[:, 0]:
            expected[cell, PROGRAMS.genes[program]] = 0.0
    assert torch.equal(visible[0], expected)


def test_the_predictor_is_told_which_programmes_are_hidden(by_programs, minibatch):
    task = by_programs.eval()
    told, embedded = seen_by(task.predictor), []
    task.encoder.register_forward_hook(lambda _module, _inputs, output: embedded.append(output))
    task.compute_loss(minibatch, generator=torch.Generator().manual_seed(0))
    drawn = draw_exact_mask(32, 4, 0.5, generator=torch.Generator().manual_seed(0))
    vectors = task.program_vectors.weight.T
    for cell, row in enumerate(drawn):
        hidden = row.nonzero()[:, 0]
        torch.testing.assert_close(told[0][cell] - embedded[0][cell], vectors[hidden].mean(dim=0), atol=1e-5, rtol=1e-4)


def test_every_weight_learns_with_programmes_too(by_programs, minibatch):
    by_programs.train().compute_loss(minibatch, generator=torch.Generator().manual_seed(0)).total.backward()
    matrices = [p for p in by_programs.parameters() if p.requires_grad and p.ndim == 2]
    assert all(matrix.grad.abs().max() > 1e-6 for matrix in matrices)


def test_the_target_is_the_moving_average_of_the_encoder(encoder, minibatch, train):
    task = LatentPrediction(LatentPredictionSettings(target_momentum=0.8), encoder=encoder).train()
    expected = [p.detach().clone() for p in encoder.parameters()]

    def average():
        momentum = cosine_momentum(0.8, average.step / 5)
        average.step += 1
        for old, new in zip(expected, encoder.parameters(), strict=True):
            old.copy_(momentum * old + (1 - momentum) * new.detach())

    average.step = 0
    train(task, [minibatch] * 5, after_step=average, progress=lambda step: step / 5)
    for found, weight in zip(task.target_network.parameters(), expected, strict=True):
        torch.testing.assert_close(found, weight)
        assert found.grad is None


def test_programmes_that_are_not_there_are_an_error(encoder):
    with pytest.raises(InputError, match=r"hide gene programmes, but there are none.*program_min_genes"):
        LatentPrediction(LatentPredictionSettings(programs="four"), encoder=encoder)


def test_programmes_are_used_only_if_they_are_named():
    assert LatentPredictionSettings(programs="four").uses_programs and not LatentPredictionSettings().uses_programs
