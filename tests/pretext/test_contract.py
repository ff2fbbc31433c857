"""What must hold for every pretext task; a new one is tested by being in the table."""

import itertools

import pytest
import torch

from selfcell.data.loader import cell_loader
from selfcell.data.simulate import simulate_cells
from selfcell.data.source import open_cells
from selfcell.network.encoder import EncoderSettings, MlpEncoder
from selfcell.network.view_pair import ViewPair
from selfcell.pretext import PRETEXT_TASKS
from selfcell.pretext.base import TargetNetworkTask
from selfcell.pretext.two_views import TwoViews


@pytest.fixture(params=list(PRETEXT_TASKS))
def task(request, encoder):
    torch.manual_seed(1)
    task_class = PRETEXT_TASKS[request.param]
    return task_class(task_class.Settings(), encoder=encoder).eval()


def generator(seed=7):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("training", [False, True])
def test_the_same_seed_gives_the_same_loss(task, minibatch, training):
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        losses.append(task.train(training).compute_loss(minibatch, generator=generator()).total)
    assert losses[0] == losses[1]


def test_another_seed_gives_another_loss(task, minibatch):
    assert (
        task.compute_loss(minibatch, generator=generator(1)).total
        != task.compute_loss(minibatch, generator=generator(2)).total
    )


@pytest.mark.parametrize("training", [False, True])
def test_the_loss_reaches_every_parameter(task, minibatch, training):
    """Batch norm takes the gradient of a bias before it away, so only of matrices must it be other than zero."""
    task.train(training).compute_loss(minibatch, generator=generator()).total.backward()
    trained = {name: parameter for name, parameter in task.named_parameters() if parameter.requires_grad}
    assert not [name for name, parameter in trained.items() if parameter.grad is None]
    assert not [name for name, parameter in trained.items() if parameter.ndim > 1 and not parameter.grad.any()]
    assert task.encoder.layers[-1].weight.grad.abs().max() > 1e-6


def test_the_minibatch_is_left_as_it_was(task, minibatch):
    before = minibatch.values.clone(), minibatch.gene_index.clone()
    task.compute_loss(minibatch, generator=generator())
    assert torch.equal(minibatch.values, before[0]) and torch.equal(minibatch.gene_index, before[1])


def test_logged_terms_are_scalars_without_a_graph(task, minibatch):
    terms = task.compute_loss(minibatch, generator=generator()).terms
    assert all(term.ndim == 0 and not term.requires_grad for term in terms.values())


def test_a_logged_embedding_is_one_a_cell_without_a_graph(task, minibatch):
    embedding = task.compute_loss(minibatch, generator=generator()).embedding
    if embedding is not None:
        assert embedding.shape == (32, 8) and not embedding.requires_grad


def test_training_lowers_the_loss_and_finds_types(training_task):
    """What is lowered is the loss of held views, in evaluation mode, from when queues and centers hold cells.

    A queue of random directions is easy to tell from cells and has no neighbors to learn from, so two epochs without
    learning come first. Of DINO's loss the teacher's entropy is taken off, as the teacher sharpens and blurs.
    """
    task, cells = training_task
    train_epochs(task, cells.counts, range(2), learning_rate=0.0)
    before = held_loss(task, cells.counts)
    train_epochs(task, cells.counts, range(2, 20), learning_rate=3e-3)
    after = held_loss(task, cells.counts)
    assert before - after > 0.1 * max(abs(before), 1)
    assert share_of_nearest_with_the_same_type(task, cells) > 0.8


@pytest.fixture(params=list(PRETEXT_TASKS))
def training_task(request):
    """A task with little to remember, and cells of eight types."""
    torch.manual_seed(0)
    encoder = MlpEncoder(EncoderSettings(hidden_sizes=(64,), n_latent=16), n_genes=200)
    task_class = PRETEXT_TASKS[request.param]
    short = {"queue_size": 128} if "queue_size" in task_class.Settings.model_fields else {}
    adata = simulate_cells(n_cells=300, n_genes=200, n_types=8, n_donors=5, seed=0)
    return task_class(task_class.Settings(**short), encoder=encoder).train(), open_cells(adata)


def train_epochs(task, counts, epochs, *, learning_rate):
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=learning_rate)
    for epoch in epochs:
        for step, minibatch in enumerate(cell_loader(counts, minibatch_size=50)):
            torch.manual_seed(100 * epoch + step)
            loss = task.compute_loss(minibatch, generator=generator(100 * epoch + step)).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if isinstance(task, TargetNetworkTask):
                task.update_target(progress=epoch / 20)


def held_loss(task, counts):
    task.eval()
    total = 0.0
    for place, minibatch in enumerate(cell_loader(counts, minibatch_size=100)):
        loss = task.compute_loss(minibatch, generator=generator(10_000 + place))
        total += loss.total.item() - float(loss.terms.get("teacher_entropy", 0.0))
    task.train()
    return total / 3


def share_of_nearest_with_the_same_type(task, cells):
    with torch.no_grad():
        embedding = task.eval().encoder(next(iter(cell_loader(cells.counts, minibatch_size=300))).expression())
    nearest = torch.cdist(embedding, embedding).fill_diagonal_(float("inf")).argmin(dim=1)
    types = cells.obs["cell_type"].to_numpy()
    return (types == types[nearest.numpy()]).mean()


def test_few_cells_are_enough(task, cells):
    """One cell, or two where cells are compared with each other; while training and after."""
    n_cells = 2 if task.compares_cells else 1
    minibatch = next(iter(cell_loader(cells.counts[:n_cells], minibatch_size=n_cells)))
    for training in (True, False):
        assert torch.isfinite(task.train(training).compute_loss(minibatch, generator=generator()).total)


def test_two_cells_give_gradients_that_are_numbers(task, cells):
    minibatch = next(iter(cell_loader(cells.counts[:2], minibatch_size=2)))
    task.train().compute_loss(minibatch, generator=generator()).total.backward()
    assert all(torch.isfinite(p.grad).all() for p in task.parameters() if p.requires_grad)


def test_a_task_that_does_not_compare_cells_has_no_batch_norm(task):
    if not task.compares_cells:
        assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in task.modules())


def test_what_moves_is_in_the_state(task, minibatch, cells):
    """A task that goes on from the state of another makes the very same steps."""
    if not isinstance(task, TargetNetworkTask):
        return
    torch.manual_seed(5)
    encoder = MlpEncoder(task.encoder.settings, n_genes=60)
    resumed = type(task)(task.settings, encoder=encoder)
    losses = []
    train_epochs(task.train(), cells.counts, range(1), learning_rate=1e-3)
    resumed.load_state_dict(task.state_dict())
    for each in (task.train(), resumed.train()):
        torch.manual_seed(0)
        each.compute_loss(minibatch, generator=generator()).total.backward()
        each.update_target(progress=0.5)
        losses.append(each.compute_loss(minibatch, generator=generator(8)).total)
    states = [dict(itertools.chain(each.named_parameters(), each.named_buffers())) for each in (task, resumed)]
    assert losses[0] == losses[1]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_task_with_something_to_update_says_that_its_target_moves(task):
    assert task.moving_target or not isinstance(task, TargetNetworkTask)


@pytest.fixture(params=list(PRETEXT_TASKS))
def quiet_task(request, encoder, monkeypatch):
    """A task with nothing left to chance: no views, no mask, or the same mask for every cell."""
    same = torch.arange(60) % 2 == 0
    monkeypatch.setattr(
        "selfcell.pretext.latent_prediction.draw_exact_mask", lambda n_cells, *_, **__: same.expand(n_cells, -1)
    )
    settings = PRETEXT_TASKS[request.param].Settings
    monkeypatch.setattr(TwoViews, "forward", lambda _, minibatch, **__: ViewPair(*(minibatch.expression(),) * 2))
    values = {"mask": "none"} if "mask" in settings.model_fields else {}
    torch.manual_seed(1)
    task = PRETEXT_TASKS[request.param](settings.model_validate(values), encoder=encoder)
    for module in task.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return task.double()


def test_a_permutation_of_the_cells_permutes_nothing_else(quiet_task, cells):
    order = torch.randperm(32, generator=generator()).numpy()
    losses, gradients, embeddings = [], [], []
    for rows in (slice(32), order):
        minibatch = next(iter(cell_loader(cells.counts[:32][rows], minibatch_size=32)))
        minibatch.values = minibatch.values.double()
        loss = quiet_task.compute_loss(minibatch, generator=generator())
        losses.append(loss.total)
        embeddings.append(loss.embedding)
        trained = [parameter for parameter in quiet_task.parameters() if parameter.requires_grad]
        gradients.append(torch.autograd.grad(loss.total, trained))
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(embeddings[0][order], embeddings[1])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-9)
