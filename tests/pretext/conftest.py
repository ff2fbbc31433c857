"""Projections in float64, a minibatch, and how a loss is held against its formula."""

import pytest
import torch

from selfcell.data.loader import cell_loader
from selfcell.pretext.base import TargetNetworkTask


@pytest.fixture
def minibatch(cells):
    return next(iter(cell_loader(cells.counts, minibatch_size=32)))


@pytest.fixture
def draw():
    """Make some projections: n_cells x n_units, seeded, with gradients."""

    def make(seed, n_cells=6, n_units=5):
        source = torch.Generator().manual_seed(seed)
        return torch.randn(n_cells, n_units, generator=source, dtype=torch.float64).requires_grad_()

    return make


@pytest.fixture
def agree():
    """Check that a loss has the value and gradients of what is written out."""

    def check(loss, written_out, inputs):
        torch.testing.assert_close(loss, written_out, rtol=1e-10, atol=1e-12)
        found = torch.autograd.grad(loss, inputs, retain_graph=True)
        for gradient, expected in zip(found, torch.autograd.grad(written_out, inputs), strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)

    return check


@pytest.fixture
def train():
    """Train a task for some steps, as training does: loss, step of the optimizer, update of the target."""

    def steps(task, minibatches, *, learning_rate=3e-3, after_step=lambda: None, progress=lambda _: 0.0):
        trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=learning_rate)
        for step, minibatch in enumerate(minibatches):
            torch.manual_seed(step)
            loss = task.compute_loss(minibatch, generator=torch.Generator().manual_seed(step)).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if isinstance(task, TargetNetworkTask):
                task.update_target(progress=progress(step))
            after_step()

    return steps
