import math

import torch
from torch import nn

from selfcell.network.target import cosine_momentum
from selfcell.pretext.dino import Dino, DinoSettings, Prototypes, sorted_by_teacher, sorting_cross_entropy


def probabilities(logits):
    below = sum(math.exp(logit) for logit in logits)
    return [math.exp(logit) / below for logit in logits]


def test_loss_and_gradients_agree_with_the_written_out_formula(draw, agree):
    student, teacher, center = draw(0), draw(1).detach(), draw(2, 1).detach()[0]
    total = 0
    for s, t in zip(student, teacher, strict=True):
        target = probabilities([(float(a) - float(b)) / 0.04 for a, b in zip(t, center, strict=True)])
        below = sum(torch.exp(a / 0.1) for a in s)
        total = total - sum(p * torch.log(torch.exp(a / 0.1) / below) for p, a in zip(target, s, strict=True))
    found = sorting_cross_entropy(student, sorted_by_teacher(teacher, center=center, temperature=0.04), temperature=0.1)
    agree(found, total / 6, [student])


def test_prototypes_give_cosines_of_any_lengths(draw):
    layer = Prototypes(n_units=5, n_prototypes=4).double()
    projection = draw(0)
    cosines = layer(projection)
    expected = [[torch.dot(z, w) / (z.norm() * w.norm()) for w in layer.directions] for z in projection]
    torch.testing.assert_close(cosines, torch.stack([torch.stack(row) for row in expected]))
    torch.testing.assert_close(layer(9 * projection), cosines)


def test_the_center_takes_away_what_all_cells_have_in_common(draw):
    teacher = draw(0).detach()
    shift = torch.tensor([5.0, 0, -3, 1, 2], dtype=torch.float64)
    without = sorted_by_teacher(teacher, center=torch.zeros(5, dtype=torch.float64), temperature=0.04)
    torch.testing.assert_close(sorted_by_teacher(teacher + shift, center=shift, temperature=0.04), without)


def test_teacher_and_center_are_moving_averages(encoder, minibatch, train):
    task = Dino(DinoSettings(target_momentum=0.8, center_momentum=0.6, n_prototypes=7), encoder=encoder).train()
    student = nn.Sequential(task.encoder, task.projector, task.prototypes)
    expected = [p.detach().clone() for p in student.parameters()]
    center, outputs = torch.zeros(7), []
    task.target_network.network[-1].register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    steps = 5

    def average():
        momentum = cosine_momentum(0.8, average.step / steps)
        average.step += 1
        for old, new in zip(expected, student.parameters(), strict=True):
            old.copy_(momentum * old + (1 - momentum) * new.detach())
        center.copy_(0.6 * center + 0.4 * torch.cat(outputs[-2:]).mean(dim=0))

    average.step = 0
    train(task, [minibatch] * steps, after_step=average, progress=lambda step: step / steps)
    torch.testing.assert_close(task.center, center)
    for found, weight in zip(task.target_network.parameters(), expected, strict=True):
        torch.testing.assert_close(found, weight)
        assert found.grad is None


def test_the_loss_is_never_below_the_teachers_entropy(encoder, minibatch):
    task = Dino(DinoSettings(), encoder=encoder).eval()
    loss = task.compute_loss(minibatch, generator=torch.Generator().manual_seed(0))
    assert loss.total > loss.terms["teacher_entropy"] > 0


def test_validation_leaves_the_center_alone(encoder, minibatch):
    task = Dino(DinoSettings(), encoder=encoder).eval()
    task.compute_loss(minibatch, generator=torch.Generator().manual_seed(0))
    task.update_target(progress=0.0)
    assert not task.center.any()
