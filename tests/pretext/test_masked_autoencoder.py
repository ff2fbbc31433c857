import numpy as np
import pytest
import torch

from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.data.loader import cell_loader
from selfcell.data.programs import GenePrograms
from selfcell.network.compute import Compute, set_compute
from selfcell.pretext.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderSettings, _Masked
from selfcell.pretext.masks import draw_random_mask


@pytest.mark.parametrize("rescale_input", [True, False])
@pytest.mark.parametrize("mask_fraction", [0.1, 0.5, 0.9])
def test_loss_and_gradients_agree_with_the_written_out_formula_in_float64(encoder, cells, mask_fraction, rescale_input):
    settings = MaskedAutoencoderSettings(mask_fraction=mask_fraction, rescale_input=rescale_input, score_zeros="drawn")
    task = MaskedAutoencoder(settings, encoder=encoder).double().eval()
    minibatch = next(iter(cell_loader(cells.counts, minibatch_size=16)))
    minibatch.values = minibatch.values.double()

    loss = task.compute_loss(minibatch, generator=torch.Generator().manual_seed(3)).total
    gradients = torch.autograd.grad(loss, list(task.parameters()))

    mask = torch.rand((16, 60), generator=torch.Generator().manual_seed(3)) < mask_fraction
    counts = torch.tensor(cells.counts[:16].toarray(), dtype=torch.float64)
    expression = torch.log1p(counts / counts.sum(dim=1, keepdim=True) * 10_000)
    visible = torch.where(mask, 0.0, expression) / ((1 - mask_fraction) if rescale_input else 1.0)
    predicted = task.decoder(task.encoder(visible))
    expected = sum((predicted[c, g] - expression[c, g]) ** 2 for c, g in mask.nonzero()) / mask.sum()
    torch.testing.assert_close(loss, expected)
    for gradient, by_formula in zip(gradients, torch.autograd.grad(expected, list(task.parameters())), strict=True):
        torch.testing.assert_close(gradient, by_formula)


def test_the_encoder_cannot_see_what_is_hidden(encoder, cells, monkeypatch):
    """Changing hidden entries changes the target alone, never what the encoder is given."""
    seen = []
    task = make_task(encoder)
    task.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    mask = draw_random_mask(8, 60, 0.5, generator=torch.Generator().manual_seed(0))
    expression = torch.rand(8, 60)
    minibatch = next(iter(cell_loader(cells.counts, minibatch_size=8)))
    for shown in (expression, torch.where(mask, expression + 5, expression)):
        monkeypatch.setattr(type(minibatch), "expression", lambda _, shown=shown: shown)
        task.compute_loss(minibatch, generator=torch.Generator().manual_seed(0))
    assert torch.equal(seen[0], seen[1]) and (seen[0][mask] == 0).all()


def test_no_hidden_entry_gives_zero_and_not_nan(encoder, cells):
    minibatch = next(iter(cell_loader(cells.counts, minibatch_size=2)))
    for sparse in (True, False):
        task = make_task(encoder, mask_fraction=1e-9, sparse=sparse)
        assert loss_of(task, minibatch).total < 1e-6
        assert loss_of(make_task(encoder, mask_fraction=1e-9, score_zeros="drawn", sparse=sparse), minibatch).total == 0


@pytest.fixture
def regulons():
    """Eight factors, genes 0 to 7, and the targets of each among the other genes."""
    genes = tuple(
        np.sort(np.random.default_rng(place).choice(np.arange(8, 60), 6, replace=False)) for place in range(8)
    )
    return GenePrograms(tuple(f"F{place}" for place in range(8)), genes, 60, np.arange(8))


@pytest.fixture
def minibatch(cells):
    return next(iter(cell_loader(cells.counts, minibatch_size=16)))


def make_task(encoder, programs=None, *, sparse=False, **values):
    """Make a task, computed densely unless its sparse path is meant, which is tested against this one."""
    encoder.compute = Compute(sparse=sparse)
    return MaskedAutoencoder(build(MaskedAutoencoderSettings, values), encoder=encoder, programs=programs).eval()


def loss_of(task, minibatch, seed=0):
    return task.compute_loss(minibatch, generator=torch.Generator().manual_seed(seed))


def test_an_isolated_programme_does_not_know_the_genes_outside_it(encoder, regulons, minibatch, monkeypatch):
    """Neither what is predicted for it nor its loss changes when any gene outside the programme changes."""
    task = make_task(encoder, regulons, mask="isolated_program")
    outputs = []
    task.decoder.register_forward_hook(lambda *hook: outputs.append(hook[2].clone()))
    expression = minibatch.expression()
    program = torch.randint(8, (16,), generator=torch.Generator().manual_seed(0))
    outside = torch.ones(16, 60, dtype=torch.bool)
    for cell in range(16):
        outside[cell, regulons.genes[program[cell]]] = False
    losses = []
    for shown in (expression, torch.where(outside, expression + 3, expression)):
        monkeypatch.setattr(type(minibatch), "expression", lambda _, shown=shown: shown)
        losses.append(loss_of(task, minibatch).total)
    assert torch.equal(outputs[0], outputs[1]) and losses[0] == losses[1]
    expected = (outputs[0] - expression).square()[~outside].mean()
    torch.testing.assert_close(losses[0], expected)


def test_every_gene_of_an_isolated_programme_matters(encoder, regulons, minibatch, monkeypatch):
    task = make_task(encoder, regulons, mask="isolated_program")
    expression = minibatch.expression().requires_grad_()
    monkeypatch.setattr(type(minibatch), "expression", lambda _: expression)
    loss_of(task, minibatch).total.backward()
    program = torch.randint(8, (16,), generator=torch.Generator().manual_seed(0))
    for cell in range(16):
        inside = torch.zeros(60, dtype=torch.bool)
        inside[regulons.genes[program[cell]]] = True
        assert ((expression.grad[cell] != 0) == inside).all()


def test_only_the_factor_is_predicted_and_its_own_expression_does_not_reach_the_encoder(
    encoder, regulons, minibatch, monkeypatch
):
    task = make_task(encoder, regulons, mask="program_to_tf")
    seen, outputs = [], []
    task.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))

    def keep_gradient(*hook):
        hook[2].retain_grad()
        outputs.append(hook[2])

    task.decoder.register_forward_hook(keep_gradient)
    expression = minibatch.expression()
    factor = torch.randint(8, (16,), generator=torch.Generator().manual_seed(0))
    for shown in (expression, expression + torch.nn.functional.one_hot(factor, 60) * 4.0):
        monkeypatch.setattr(type(minibatch), "expression", lambda _, shown=shown: shown)
        loss_of(task, minibatch).total.backward()
    assert torch.equal(seen[0], seen[1]), "the factor reaches the encoder"
    assert (seen[0][torch.arange(16), factor] == 0).all()
    reached = outputs[0].grad != 0
    assert torch.equal(reached.nonzero()[:, 1], factor) and (reached.sum(dim=1) == 1).all()
    expected = (outputs[0] - expression)[torch.arange(16), factor].square().mean()
    torch.testing.assert_close(
        loss_of(task, minibatch).total, (outputs[0] - expression - 4.0)[torch.arange(16), factor].square().mean()
    )
    assert expected > 0


@pytest.mark.parametrize("sparse", [False, True])
def test_without_a_mask_it_is_a_plain_autoencoder(encoder, minibatch, sparse):
    task = make_task(encoder, mask="none", sparse=sparse)
    expression = minibatch.expression()
    torch.testing.assert_close(
        loss_of(task, minibatch).total, (task.decoder(task.encoder(expression)) - expression).square().mean()
    )
    assert loss_of(task, minibatch).terms["masked_fraction"] == 0


def test_the_papers_programmes_are_drawn_once_for_a_minibatch(encoder, regulons, minibatch):
    seen = []
    for per in ("minibatch", "cell"):
        task = make_task(encoder, regulons, mask="programs", mask_fraction=0.5, mask_per=per, rescale_input=False)
        hidden = task._draw(minibatch, torch.Generator().manual_seed(0)).hidden
        seen.append(len(torch.unique(hidden, dim=0)))
    assert seen[0] == 1 and seen[1] > 5


def test_input_is_rescaled_by_the_share_that_each_cell_sees(encoder, regulons, minibatch):
    inputs = []
    task = make_task(encoder, regulons, mask="programs", mask_fraction=0.5)
    task.encoder.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    loss_of(task, minibatch)
    hidden = task._draw(minibatch, torch.Generator().manual_seed(0)).hidden
    expected = minibatch.expression().masked_fill(hidden, 0.0) / (1 - hidden.float().mean(dim=1, keepdim=True))
    torch.testing.assert_close(inputs[0], expected)


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial", "zero_inflated_negative_binomial"])
@pytest.mark.parametrize("mask", ["random", "program_to_tf"])
def test_likelihoods_of_counts_are_averaged_over_what_is_predicted(encoder, regulons, minibatch, likelihood, mask):
    zeros = {"score_zeros": "drawn"} if mask == "random" else {}
    task = make_task(encoder, None if zeros else regulons, mask=mask, likelihood=likelihood, **zeros)
    generator = torch.Generator().manual_seed(0)
    hidden, scored = task._draw(minibatch, generator)
    outputs = task.decoder(task.encoder(task._visible(minibatch.expression(), hidden)))
    entries = task.likelihood(outputs, minibatch.counts(), minibatch.counts().sum(dim=1))
    loss = loss_of(task, minibatch).total
    torch.testing.assert_close(loss, entries[scored].mean())
    loss.backward()
    assert all(parameter.grad is not None for parameter in task.parameters())


def test_settings_without_a_meaning_are_refused():
    refused = [
        ({"mask": "none", "mask_fraction": 0.3}, r"mask_fraction has no meaning with pretext\.mask=none"),
        ({"mask": "program_to_tf", "mask_fraction": 0.3}, "has no meaning with pretext.mask=program_to_tf"),
        ({"exact_share": True, "mask": "programs"}, "exact_share has no meaning"),
        ({"score_zeros": "drawn", "mask": "programs"}, "score_zeros has no meaning"),
        ({"share_of": "genes"}, "share_of has no meaning with pretext.mask=random, only with programs"),
        ({"mask_per": "minibatch"}, "mask_per has no meaning"),
        ({"mask": "none", "rescale_input": False}, "rescale_input has no meaning with pretext.mask=none"),
        ({"likelihood": "poisson", "output": "softplus"}, "counts have a softplus of their own"),
        ({"mask_fraction": 1.0}, "mask_fraction: input should be less than 1, but is 1"),
        ({"mask_fraction": 0}, "mask_fraction: input should be greater than 0, but is 0"),
        ({"mask": "randm"}, "mask: input should be 'random', 'programs'"),
    ]
    for values, message in refused:
        with pytest.raises(InputError, match=message):
            build(MaskedAutoencoderSettings, values)


def test_the_share_to_hide_is_that_of_its_mask_unless_given():
    fractions = {
        mask: build(MaskedAutoencoderSettings, {"mask": mask}).mask_fraction
        for mask in ("random", "programs", "isolated_program", "program_to_tf", "none")
    }
    assert fractions == {"random": 0.5, "programs": 0.25, "isolated_program": None, "program_to_tf": None, "none": None}


def test_programmes_that_cannot_hide_so_many_genes_are_refused(encoder, regulons):
    with pytest.raises(InputError, match=r"mask_fraction=0.9 of the genes cannot be hidden.*together hold .*%"):
        make_task(encoder, regulons, mask="programs", share_of="genes", mask_fraction=0.9)


def test_one_programme_alone_is_refused(encoder):
    alone = GenePrograms(("A",), (np.arange(20),), 60)
    with pytest.raises(InputError, match="hides some programmes and shows others, but mine has only 1"):
        MaskedAutoencoder(MaskedAutoencoderSettings(mask="programs", programs="mine"), encoder=encoder, programs=alone)


@pytest.mark.parametrize("likelihood", ["squared_error", "poisson"])
def test_zeros_that_are_expected_count_as_the_mean_over_draws(encoder, minibatch, likelihood):
    """The loss with expected zeros is that with drawn ones, averaged over draws for the zeros alone."""
    task = make_task(encoder, mask_fraction=0.3, likelihood=likelihood)
    hidden, _ = task._draw(minibatch, torch.Generator().manual_seed(0))
    expression, counts = minibatch.expression(), minibatch.counts()
    outputs = task.decoder(task.encoder(task._visible(expression, hidden)))
    truth = counts if likelihood == "poisson" else expression
    loss = task.likelihood(outputs, truth, counts.sum(dim=1))
    drawn = [torch.where(expression == 0, torch.rand(16, 60) < 0.3, hidden) for _ in range(2000)]
    sums = torch.stack([torch.stack([(loss * mask).sum(), mask.sum()]) for mask in drawn]).mean(dim=0)
    torch.testing.assert_close(loss_of(task, minibatch).total, sums[0] / sums[1], rtol=0.01, atol=0)


SPARSE = [
    {"mask_fraction": 0.3},
    {"mask_fraction": 0.5, "rescale_input": False},
    {"mask": "none"},
    {"score_zeros": "drawn"},
    {"exact_share": True, "mask_fraction": 0.4},
    {"mask": "programs", "mask_fraction": 0.5},
    {"mask": "programs", "mask_fraction": 0.3, "share_of": "genes", "rescale_input": False},
    {"mask": "programs", "mask_fraction": 0.5, "mask_per": "minibatch"},
    {"mask": "isolated_program"},
    {"mask": "isolated_program", "mask_fraction": 0.5},
    {"mask": "program_to_tf"},
]
LIKELIHOODS = [
    {"output": "softplus"},
    {"output": "sigmoid"},
    {"likelihood": "poisson"},
    {"likelihood": "negative_binomial"},
    {"likelihood": "zero_inflated_negative_binomial"},
]
OF_COUNTS = [mask | likelihood for mask in SPARSE for likelihood in LIKELIHOODS]


@pytest.mark.parametrize("values", SPARSE + OF_COUNTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sparse_path_gives_the_dense_loss_and_gradients(encoder, regulons, minibatch, monkeypatch, values, dtype):
    """With equal draws: where entries alone are drawn, the dense path is given what the sparse one hid."""
    programs = regulons if "program" in values.get("mask", "") else None
    task = make_task(encoder, programs, sparse=True, **values)
    set_compute(task, Compute(dtype=dtype))
    sparse, shown = loss_of(task, minibatch), []
    task.encoder.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    found = torch.autograd.grad(loss_of(task, minibatch).total, list(task.parameters()))
    set_compute(task, Compute(sparse=False))
    if task._expects_zeros:
        hidden = (shown[0].dense() == 0) & (minibatch.expression() > 0)
        monkeypatch.setattr(task, "_draw", lambda *_: _Masked(hidden, hidden))
    dense = loss_of(task, minibatch)
    expected = torch.autograd.grad(dense.total, list(task.parameters()))
    near = {"rtol": 1e-5, "atol": 1e-7} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0}
    torch.testing.assert_close(sparse.total, dense.total, **near)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= (1e-4 if dtype == torch.float32 else 0.12) * other.norm() + 1e-6
    if not task._expects_zeros:
        torch.testing.assert_close(sparse.terms["masked_fraction"], dense.terms["masked_fraction"])
        torch.testing.assert_close(shown[0].dense(), shown[1])
