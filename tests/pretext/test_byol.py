import pytest
import torch
from pydantic import ValidationError
from torch import nn

from selfcell.network.target import cosine_momentum
from selfcell.pretext.byol import Byol, ByolSettings, prediction_error


def trained_weights(task):
    return [p.detach().clone() for p in nn.Sequential(task.encoder, task.projector).parameters()]


def test_loss_and_gradients_agree_with_the_written_out_formula(draw, agree):
    prediction, target = draw(0), draw(1)
    distances = []
    for p, t in zip(prediction, target, strict=True):
        distances.append(sum((a / p.norm() - b / t.norm()) ** 2 for a, b in zip(p, t, strict=True)))
    agree(prediction_error(prediction, target), sum(distances) / len(distances), [prediction, target])


def test_predictions_that_agree_but_in_length_have_no_error(draw):
    prediction = draw(0)
    assert abs(prediction_error(prediction, 3 * prediction)) < 1e-12
    assert abs(prediction_error(prediction, -prediction) - 4) < 1e-12


def test_the_loss_is_both_errors_of_the_views(encoder, minibatch):
    task = Byol(ByolSettings(), encoder=encoder).eval()
    loss = task.compute_loss(minibatch, generator=torch.Generator().manual_seed(0))
    first, second = task.views(minibatch, generator=torch.Generator().manual_seed(0))
    head = nn.Sequential(task.encoder, task.projector, task.predictor)
    expected = prediction_error(head(first), task.target_network(second)) + prediction_error(
        head(second), task.target_network(first)
    )
    torch.testing.assert_close(loss.total, expected)
    assert torch.equal(loss.embedding, task.encoder(first))


def test_the_target_starts_as_the_trained_network_and_is_its_moving_average(encoder, minibatch, train):
    task = Byol(ByolSettings(target_momentum=0.8), encoder=encoder).train()
    expected = trained_weights(task)
    steps = 6

    def average():
        momentum = cosine_momentum(0.8, average.step / steps)
        average.step += 1
        for old, new in zip(expected, trained_weights(task), strict=True):
            old.copy_(momentum * old + (1 - momentum) * new)

    average.step = 0
    train(task, [minibatch] * steps, after_step=average, progress=lambda step: step / steps)
    for found, weight in zip(task.target_network.parameters(), expected, strict=True):
        torch.testing.assert_close(found, weight)
        assert found.grad is None


@pytest.mark.parametrize(("momentum", "moves"), [(0.99, True), (1.0, False)])
def test_the_target_network_moves_unless_it_is_frozen(encoder, minibatch, train, momentum, moves):
    """A target that kept its random weights went unnoticed in released code."""
    task = Byol(ByolSettings(target_momentum=momentum), encoder=encoder).train()
    before = [parameter.clone() for parameter in task.target_network.parameters()]
    train(task, [minibatch] * 3)
    changed = [not torch.equal(a, b) for a, b in zip(before, task.target_network.parameters(), strict=True)]
    assert all(changed) if moves else not any(changed)


def test_a_momentum_beyond_one_is_refused():
    with pytest.raises(ValidationError):
        ByolSettings(target_momentum=1.1)
