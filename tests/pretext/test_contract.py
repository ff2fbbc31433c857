"""What must hold for every pretext task; a new one is tested by being in the table."""

import pytest
import torch

from selfcell.data.loader import cell_loader
from selfcell.pretext import PRETEXT_TASKS


@pytest.fixture(params=list(PRETEXT_TASKS))
def task(request, encoder):
    torch.manual_seed(1)
    task_class = PRETEXT_TASKS[request.param]
    return task_class(task_class.Settings(), encoder=encoder).eval()


@pytest.fixture
def minibatch(cells):
    return next(iter(cell_loader(cells.counts, minibatch_size=32)))


def generator(seed=7):
    return torch.Generator().manual_seed(seed)


def test_the_same_seed_gives_the_same_loss(task, minibatch):
    first, second = (task.compute_loss(minibatch, generator=generator()) for _ in range(2))
    assert first.total == second.total


def test_another_seed_gives_another_loss(task, minibatch):
    assert (
        task.compute_loss(minibatch, generator=generator(1)).total
        != task.compute_loss(minibatch, generator=generator(2)).total
    )


def test_the_loss_reaches_every_parameter(task, minibatch):
    task.compute_loss(minibatch, generator=generator()).total.backward()
    unreached = [
        name for name, parameter in task.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert not unreached


def test_the_minibatch_is_left_as_it_was(task, minibatch):
    before = minibatch.values.clone(), minibatch.gene_index.clone()
    task.compute_loss(minibatch, generator=generator())
    assert torch.equal(minibatch.values, before[0]) and torch.equal(minibatch.gene_index, before[1])


def test_logged_terms_are_scalars_without_a_graph(task, minibatch):
    terms = task.compute_loss(minibatch, generator=generator()).terms
    assert all(term.ndim == 0 and not term.requires_grad for term in terms.values())


def test_training_lowers_the_loss(task, minibatch):
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        loss = task.compute_loss(minibatch, generator=generator(step)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_single_cell_is_enough(task, cells):
    minibatch = next(iter(cell_loader(cells.counts[:1], minibatch_size=1)))
    assert torch.isfinite(task.compute_loss(minibatch, generator=generator()).total)
