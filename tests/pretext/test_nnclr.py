import torch
import torch.nn.functional as F  # noqa: N812

from selfcell.data.loader import cell_loader
from selfcell.pretext.nnclr import Nnclr, NnclrSettings, nearest_in_queue, neighbor_cross_entropy


def test_loss_and_gradients_agree_with_the_written_out_formula(draw, agree):
    projection, prediction, queue = draw(0), draw(1), F.normalize(draw(2, 9).detach(), dim=1)
    neighbors, total = [], 0
    for z in projection.detach():
        neighbors.append(max(queue, key=lambda u, z=z: float(torch.dot(u, z) / z.norm())))
    for c, neighbor in enumerate(neighbors):
        scores = [torch.exp(torch.dot(neighbor, p / p.norm()) / 0.1) for p in prediction]
        total = total - torch.log(scores[c] / sum(scores))
    found = neighbor_cross_entropy(nearest_in_queue(projection, queue=queue), prediction, temperature=0.1)
    agree(found, total / 6, [prediction])


def test_the_nearest_is_by_direction_and_has_no_gradient(draw):
    queue = torch.eye(5, dtype=torch.float64)
    projection = (torch.eye(5, dtype=torch.float64)[[3, 0]] * 7 + 0.1).requires_grad_()
    nearest = nearest_in_queue(projection, queue=queue)
    assert torch.equal(nearest, queue[[3, 0]]) and not nearest.requires_grad


def test_the_loss_is_the_mean_of_both_ways(encoder, minibatch):
    task = Nnclr(NnclrSettings(), encoder=encoder).eval()
    loss = task.compute_loss(minibatch, generator=torch.Generator().manual_seed(0)).total
    views = task.views(minibatch, generator=torch.Generator().manual_seed(0))
    first, second = (task.projector(task.encoder(view)) for view in views)
    ways = [
        neighbor_cross_entropy(
            nearest_in_queue(one, queue=task.queue.projections), task.predictor(other), temperature=0.1
        )
        for one, other in ((first, second), (second, first))
    ]
    torch.testing.assert_close(loss, sum(ways) / 2)


def test_the_first_views_of_a_step_enter_the_queue_after_it(encoder, cells):
    task = Nnclr(NnclrSettings(queue_size=10), encoder=encoder).train()
    task.encoder.eval()
    projections = []
    for step, minibatch in enumerate(list(cell_loader(cells.counts, minibatch_size=4))[:5]):
        before = task.queue.projections.clone()
        task.compute_loss(minibatch, generator=torch.Generator().manual_seed(step))
        assert torch.equal(task.queue.projections, before)
        first, _ = task.views(minibatch, generator=torch.Generator().manual_seed(step))
        projections.append(F.normalize(task.projector(task.encoder(first)), dim=1).detach())
        task.update_target(progress=0.0)
    found = torch.roll(task.queue.projections, -int(task.queue.place), dims=0)
    torch.testing.assert_close(found, torch.cat(projections)[-10:])


def test_validation_leaves_the_queue_alone(encoder, minibatch):
    task = Nnclr(NnclrSettings(), encoder=encoder).eval()
    before = task.queue.projections.clone()
    task.compute_loss(minibatch, generator=torch.Generator().manual_seed(0))
    task.update_target(progress=0.0)
    assert torch.equal(task.queue.projections, before)
