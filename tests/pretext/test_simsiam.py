import torch

from selfcell.pretext.simsiam import SimSiam, SimSiamSettings, negative_cosine


def test_loss_and_gradients_agree_with_the_written_out_formula(draw, agree):
    prediction, projection = draw(0), draw(1)
    cosines = [
        sum(a * b for a, b in zip(p, z.detach(), strict=True)) / (p.norm() * z.detach().norm())
        for p, z in zip(prediction, projection, strict=True)
    ]
    agree(negative_cosine(prediction, projection), -sum(cosines) / len(cosines), [prediction])


def test_no_gradient_flows_into_the_projection(draw):
    prediction, projection = draw(0), draw(1)
    negative_cosine(prediction, projection).backward()
    assert prediction.grad.abs().sum() > 0 and projection.grad is None


def test_the_gradient_is_that_of_targets_computed_before_and_held_fixed(encoder, minibatch):
    """Through the whole task: as if the other view's projections were numbers from a file."""
    task = SimSiam(SimSiamSettings(), encoder=encoder).double().eval()
    minibatch.values = minibatch.values.double()
    weights = [parameter for parameter in task.parameters() if parameter.requires_grad]
    total = task.compute_loss(minibatch, generator=torch.Generator().manual_seed(0)).total
    first, second = task.views(minibatch, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        fixed_first, fixed_second = (task.projector(task.encoder(view)).clone() for view in (first, second))
    one_way, other_way = (
        -torch.stack([torch.dot(p / p.norm(), z / z.norm()) for p, z in zip(predicted, fixed, strict=True)]).mean()
        for predicted, fixed in (
            (task.predictor(task.projector(task.encoder(first))), fixed_second),
            (task.predictor(task.projector(task.encoder(second))), fixed_first),
        )
    )
    expected = (one_way + other_way) / 2
    torch.testing.assert_close(total, expected)
    for found, gradient in zip(
        torch.autograd.grad(total, weights), torch.autograd.grad(expected, weights), strict=True
    ):
        torch.testing.assert_close(found, gradient)
