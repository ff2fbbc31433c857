import math

import pytest
import torch
from torch import nn

from selfcell.network.heads import projection_head
from selfcell.network.target import TargetNetwork, cosine_momentum


@pytest.fixture
def source():
    torch.manual_seed(0)
    return projection_head([5, 4, 3]).double()


def moved(source, seed):
    """The source after an optimizer step, as it were."""
    with torch.no_grad():
        for tensor in [*source.parameters(), *source.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(seed)))
    return {name: tensor.clone() for name, tensor in source.state_dict().items()}


def test_the_target_is_the_closed_form_of_the_moving_average(source):
    target = TargetNetwork(source)
    states = [{name: tensor.clone() for name, tensor in source.state_dict().items()}]
    momenta = [0.9, 0.5, 0.99, 0.0, 0.7]
    for step, momentum in enumerate(momenta):
        states.append(moved(source, step))
        target.update(source, momentum=momentum)
    for name, found in target.network.state_dict().items():
        if found.is_floating_point():
            weights = [math.prod(momenta)] + [
                (1 - momentum) * math.prod(momenta[step + 1 :]) for step, momentum in enumerate(momenta)
            ]
            expected = sum(weight * state[name] for weight, state in zip(weights, states, strict=True))
            torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("momentum", "follows"), [(1.0, "itself"), (0.0, "the source")])
def test_the_extremes_are_exact(source, momentum, follows):
    target = TargetNetwork(source)
    before = [parameter.clone() for parameter in target.parameters()]
    moved(source, 3)
    target.update(source, momentum=momentum)
    expected = before if follows == "itself" else list(source.parameters())
    assert all(torch.equal(a, b) for a, b in zip(target.parameters(), expected, strict=True))


def test_no_gradient_reaches_the_target_or_its_input(source):
    target = TargetNetwork(source)
    cells = torch.rand(6, 5, dtype=torch.float64, requires_grad=True)
    assert not target(cells).requires_grad
    assert not any(parameter.requires_grad for parameter in target.parameters())
    assert all(parameter.requires_grad for parameter in source.parameters())


def test_using_the_target_while_training_does_not_move_it(source):
    target = TargetNetwork(source).train()
    before = {name: t.clone() for name, t in target.state_dict().items() if t.is_floating_point()}
    target(torch.rand(6, 5, dtype=torch.float64))
    assert all(torch.equal(target.state_dict()[name], tensor) for name, tensor in before.items())


def test_the_target_normalizes_as_the_source_does_in_either_mode(source):
    cells = torch.rand(6, 5, dtype=torch.float64)
    target = TargetNetwork(source)
    torch.testing.assert_close(target.train()(cells), source.train()(cells))
    target.update(source, momentum=0.0)
    torch.testing.assert_close(target.eval()(cells), source.eval()(cells))


def test_integer_buffers_are_those_of_the_source(source):
    target = TargetNetwork(source).train()
    for _ in range(3):
        source(torch.rand(6, 5, dtype=torch.float64))
    target.update(source, momentum=0.99)
    assert target.network[1].num_batches_tracked == 3


def test_networks_of_another_shape_are_refused(source):
    shorter = nn.Sequential(nn.Linear(5, 4, bias=False)).double()
    with pytest.raises(ValueError, match="zip"):
        TargetNetwork(source).update(shorter, momentum=0.5)


def test_momentum_rises_to_one_on_a_half_cosine():
    assert cosine_momentum(0.99, 0.0) == pytest.approx(0.99)
    assert cosine_momentum(0.99, 0.5) == pytest.approx(0.995)
    assert cosine_momentum(0.99, 1.0) == 1.0
    assert cosine_momentum(1.0, 0.3) == 1.0
    rising = [cosine_momentum(0.9, place / 20) for place in range(21)]
    assert rising == sorted(rising)
