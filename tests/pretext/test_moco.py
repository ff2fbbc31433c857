import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from selfcell.data.loader import cell_loader
from selfcell.pretext.moco import Moco, MocoSettings, queue_cross_entropy


def test_loss_and_gradients_agree_with_the_written_out_formula(draw, agree):
    query, key, queue = draw(0), draw(1), F.normalize(draw(2, 9).detach(), dim=1)
    total = 0
    for q, k in zip(query, key, strict=True):
        q, k = q / q.norm(), k / k.norm()
        own = torch.exp(torch.dot(q, k) / 0.2)
        total = total - torch.log(own / (own + sum(torch.exp(torch.dot(q, u) / 0.2) for u in queue)))
    agree(queue_cross_entropy(query, key, queue=queue, temperature=0.2), total / 6, [query, key])


def test_the_order_of_cells_and_of_the_queue_does_not_matter(draw):
    query, key, queue = draw(0), draw(1), F.normalize(draw(2, 9).detach(), dim=1)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(
        queue_cross_entropy(query[order], key[order], queue=queue.flip(0), temperature=0.2),
        queue_cross_entropy(query, key, queue=queue, temperature=0.2),
    )


def test_the_target_is_the_moving_average_with_constant_momentum(encoder, minibatch, train):
    task = Moco(MocoSettings(target_momentum=0.7), encoder=encoder).train()
    trained = nn.Sequential(task.encoder, task.projector)
    states = [[p.detach().clone() for p in trained.parameters()]]
    train(
        task,
        [minibatch] * 4,
        after_step=lambda: states.append([p.detach().clone() for p in trained.parameters()]),
        progress=lambda step: step / 4,
    )
    weights = [0.7**4] + [0.3 * 0.7 ** (3 - step) for step in range(4)]
    for place, found in enumerate(task.target_network.parameters()):
        expected = sum(weight * state[place] for weight, state in zip(weights, states, strict=True))
        torch.testing.assert_close(found, expected)
        assert found.grad is None


def test_the_keys_of_a_step_enter_the_queue_after_it_in_order(encoder, cells):
    task = Moco(MocoSettings(queue_size=10), encoder=encoder).train()
    for module in task.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    keys = []
    for step, minibatch in enumerate(list(cell_loader(cells.counts, minibatch_size=4))[:5]):
        before = task.queue.projections.clone()
        task.compute_loss(minibatch, generator=torch.Generator().manual_seed(step))
        assert torch.equal(task.queue.projections, before)
        _, second = task.views(minibatch, generator=torch.Generator().manual_seed(step))
        keys.append(F.normalize(task.target_network(second), dim=1))
        task.update_target(progress=0.0)
    torch.testing.assert_close(
        torch.roll(task.queue.projections, -int(task.queue.place), dims=0), torch.cat(keys)[-10:]
    )


def test_validation_leaves_the_queue_alone(encoder, minibatch):
    task = Moco(MocoSettings(), encoder=encoder).eval()
    before = task.queue.projections.clone()
    task.compute_loss(minibatch, generator=torch.Generator().manual_seed(0))
    task.update_target(progress=0.0)
    assert torch.equal(task.queue.projections, before)
