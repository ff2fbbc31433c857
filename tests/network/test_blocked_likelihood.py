"""Likelihoods block by block, and of some entries, against dense ones in double precision: values and gradients."""

import copy

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from selfcell.data.minibatch import SparseExpression
from selfcell.network import blocked_likelihood, kernels
from selfcell.network.blocked_likelihood import EntryWeights, likelihood_of_all
from selfcell.network.entry_outputs import outputs_of_entries
from selfcell.network.gene_sets import GeneSets
from selfcell.network.likelihoods import make_likelihood

NAMES = ["squared_error", "poisson", "negative_binomial", "zero_inflated_negative_binomial"]
SIGMOID = "squared_error of a sigmoid"
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03}
SHAPES = {
    "name": st.sampled_from([*NAMES, SIGMOID]),
    "n_cells": st.integers(1, 20),
    "n_genes": st.integers(1, 70),
    "n_units": st.integers(1, 40),
    "density": st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    "log_theta": st.sampled_from([-20.0, -12.0, -3.0, 0.0, 3.5, 8.0, 15.0, 20.0]),
    "seed": st.integers(0, 100),
    "dtype": st.sampled_from([torch.float32, torch.bfloat16]),
}


@pytest.fixture(autouse=True, scope="module")
def few_genes_at_once():
    """Have small numbers of genes taken in several blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked_likelihood, "_GENES_AT_ONCE", 16)
        yield


class Problem:
    """Counts, hidden units, a last layer and a likelihood, and the same in double precision."""

    def __init__(self, name, *, n_cells=7, n_genes=50, n_units=12, density=0.3, log_theta=0.0, seed=0):
        torch.manual_seed(seed)
        matrix = sp.random(n_cells, n_genes, density, format="csr", random_state=seed, dtype=np.float32)
        matrix.sort_indices()
        # Most are small; some are beyond the tables.
        matrix.data = np.random.default_rng(seed).choice([1.0, 2.0, 3.0, 30.0, 2000.0], matrix.nnz).astype(np.float32)
        if name in {"squared_error", SIGMOID}:
            matrix.data = np.log1p(matrix.data)
        self.truth = SparseExpression(
            torch.from_numpy(matrix.data),
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            n_genes,
        )
        self.library_size = torch.from_numpy(np.asarray(matrix.sum(axis=1)).ravel())
        output = {NAMES[0]: "softplus", SIGMOID: "sigmoid"}.get(name, "identity")
        self.likelihood = make_likelihood(name.partition(" ")[0], n_genes=n_genes, output=output)
        for parameter in self.likelihood.parameters():
            nn.init.normal_(parameter, mean=log_theta)
        self.layer = nn.Linear(n_units, n_genes * self.likelihood.outputs_per_gene)
        self.units = (torch.randn(n_cells, n_units) * 3).requires_grad_()
        self.wanted = [self.units, *self.layer.parameters(), *self.likelihood.parameters()]

    def blocked(self, scored, *, scale=1.0, dtype=torch.float32):
        return likelihood_of_all(
            self.units,
            self.layer,
            self.likelihood,
            self.truth,
            library_size=self.library_size,
            scored=scored,
            scale=scale,
            dtype=dtype,
        )

    def dense(self, weight, *, scale=1.0):
        """Give the loss, what it is differentiated by, and the outputs."""
        units, layer = self.units.detach().double().requires_grad_(), copy.deepcopy(self.layer).double()
        likelihood, outputs = copy.deepcopy(self.likelihood).double(), layer(units)
        losses = likelihood(outputs, self.truth.dense().double(), self.library_size.double())
        wanted = [units, *layer.parameters(), *likelihood.parameters()]
        return (losses * weight.double()).sum() * scale, wanted, outputs

    def assert_near(self, found, weight, dtype, *, scale=1.0):
        """Compare by the norm of the difference, beside that of the terms that add up to each number.

        A term is at least about the size of what goes into it before it cancels: a count less its mean.
        """
        tolerance = TOLERANCE[dtype]
        expected, wanted, outputs = self.dense(weight, scale=scale)
        sizes = (weight * (1 + self.truth.dense())).double() * scale
        assert abs(found.item() - expected.item()) <= tolerance * (abs(expected.item()) + sizes.sum().item())
        (by_outputs,) = torch.autograd.grad(expected, outputs, retain_graph=True)
        terms = by_outputs.square() + (0.3 * sizes).square().repeat(1, self.likelihood.outputs_per_gene)
        units, rows, _, *dispersion = wanted
        squares = [terms @ rows.square(), terms.T @ units.square(), terms.sum(dim=0)]
        squares += [(0.3 * sizes).square().sum(dim=0) for _ in dispersion]
        by_blocks, by_dense = torch.autograd.grad(2 * found, self.wanted), torch.autograd.grad(2 * expected, wanted)
        for one, other, square in zip(by_blocks, by_dense, squares, strict=True):
            assert (one.double() - other).norm() <= tolerance * (other.norm() + square.sum().sqrt())


@settings(max_examples=80, deadline=None)
@given(**SHAPES, zeros=st.sampled_from([0.0, 0.3, 1.0]))
def test_weighted_entries_give_the_dense_loss_and_gradients(name, dtype, zeros, **shape):
    problem = Problem(name, **shape)
    of_entries = (torch.rand(len(problem.truth.values)) < 0.5).float()
    weight = copy.copy(problem.truth)
    weight.values = of_entries
    weight = torch.where(problem.truth.dense() != 0, weight.dense(), zeros)
    found = problem.blocked(EntryWeights(of_entries, zeros), scale=0.25, dtype=dtype)
    problem.assert_near(found, weight, dtype, scale=0.25)


@settings(max_examples=80, deadline=None)
@given(**SHAPES, share=st.sampled_from([0.0, 0.3, 1.0]))
def test_sets_of_genes_give_the_dense_loss_and_gradients(name, dtype, share, **shape):
    problem = Problem(name, **shape)
    mask = torch.rand(problem.truth.n_cells, problem.truth.n_genes) < share
    problem.assert_near(problem.blocked(GeneSets.of_mask(mask), dtype=dtype), mask.float(), dtype)


@settings(max_examples=80, deadline=None)
@given(**SHAPES, share=st.sampled_from([0.0, 0.1, 1.0]))
def test_entries_alone_give_the_dense_loss_and_gradients(name, dtype, share, **shape):
    problem = Problem(name, **shape)
    mask = torch.rand(problem.truth.n_cells, problem.truth.n_genes) < share
    cell, gene = mask.nonzero(as_tuple=True)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), mask.sum(dim=1).cumsum(0)])
    asked = SparseExpression(torch.zeros(len(gene)), gene.int(), offsets, problem.truth.n_genes)
    per_gene = problem.likelihood.outputs_per_gene
    outputs = outputs_of_entries(problem.units, problem.layer, asked, outputs_per_gene=per_gene, dtype=dtype)
    losses = problem.likelihood.of_entries(
        outputs, problem.truth.dense()[cell, gene], problem.library_size[cell], genes=gene
    )
    problem.assert_near(losses.sum(), mask.float(), dtype)


@pytest.mark.parametrize("name", [*NAMES, SIGMOID])
def test_stored_zeros_are_zeros_of_their_own_weight(name):
    problem = Problem(name)
    problem.truth.values[::3] = 0
    scored = torch.rand(len(problem.truth.values))
    weight = copy.copy(problem.truth)
    weight.values = scored
    stored = copy.copy(problem.truth)
    stored.values = torch.ones_like(scored)
    weight = torch.where(stored.dense() == 1, weight.dense(), 0.4)
    problem.assert_near(problem.blocked(EntryWeights(scored, 0.4)), weight, torch.float32)


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("log_theta", [-4.0, 0.0, 6.0])
def test_fractional_counts_have_their_likelihood_too(name, log_theta):
    problem = Problem(name, log_theta=log_theta)
    problem.truth.values += 0.37
    everything = torch.ones(7, 50)
    problem.assert_near(
        problem.blocked(EntryWeights(torch.ones_like(problem.truth.values), 1.0)), everything, torch.float32
    )


@pytest.mark.parametrize("log_theta", [-12.0, -4.0, 0.0, 3.4, 3.5, 8.0, 12.0, 15.0])
@pytest.mark.parametrize("name", NAMES[2:])
def test_single_precision_keeps_the_digits_of_each_entry_whatever_the_dispersion(name, log_theta):
    """One cell whose outputs are the bias, so that each gene's loss derivative stands alone."""
    outputs = torch.tensor([-17.0, 0.5, 3.0, 40.0, 900.0, -3.0, 2.0])
    counts = torch.tensor([0.0, 1.0, 5.0, 30.0, 400.0, 2.0, 0.0])
    problem = Problem(name, n_cells=1, n_genes=7, density=1.0)
    problem.truth.values, problem.library_size = counts, torch.tensor([4_000.0])
    nn.init.zeros_(problem.layer.weight)
    with torch.no_grad():
        problem.layer.bias.copy_(outputs.repeat(problem.likelihood.outputs_per_gene).clamp(max=900))
    nn.init.constant_(problem.likelihood.log_inverse_dispersion, log_theta)
    found = problem.blocked(EntryWeights(torch.ones(7), 1.0))
    expected, wanted, _ = problem.dense(torch.ones(1, 7))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(found, problem.wanted[2:])
    for one, other in zip(gradients, torch.autograd.grad(expected, wanted[2:]), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", [*NAMES, SIGMOID])
def test_outputs_far_out_give_numbers(name):
    problem = Problem(name, n_cells=2, n_genes=4, density=0.5)
    nn.init.zeros_(problem.layer.weight)
    with torch.no_grad():
        problem.layer.bias.copy_(torch.tensor([-1e4, -200.0, 200.0, 1e6]).repeat(problem.likelihood.outputs_per_gene))
    loss = problem.blocked(EntryWeights(torch.ones(len(problem.truth.values)), 1.0))
    assert torch.isfinite(loss)
    assert all(torch.isfinite(part).all() for part in torch.autograd.grad(loss, problem.wanted))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*NAMES, SIGMOID])
def test_a_loss_without_gradients_is_the_same(name, dtype):
    problem = Problem(name)
    scored = EntryWeights(torch.ones(len(problem.truth.values)), 0.5)
    with torch.no_grad():
        alone = problem.blocked(scored, dtype=dtype)
    assert torch.equal(alone, problem.blocked(scored, dtype=dtype).detach())


@pytest.mark.parametrize("name", [*NAMES, SIGMOID])
def test_the_numbers_are_the_same_with_any_number_of_threads(name, monkeypatch):
    monkeypatch.setattr(kernels, "_WORTH_THREADS", 1)
    n_threads, found = torch.get_num_threads(), []
    for number in (1, 3):
        torch.set_num_threads(number)
        problem = Problem(name, n_cells=50, n_genes=300)
        loss = problem.blocked(EntryWeights(torch.ones(len(problem.truth.values)), 0.5))
        found.append([loss.detach(), *torch.autograd.grad(loss, problem.wanted)])
    torch.set_num_threads(n_threads)
    for one, several in zip(*found, strict=True):
        torch.testing.assert_close(one, several, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_cells", [1, 7, 128, 129, 300])
def test_sets_drawn_some_cells_after_the_other_are_those_drawn_at_once(n_cells):
    mask, given = torch.rand(n_cells, 37) < 0.4, 0

    def draw(n_some):
        nonlocal given
        given += n_some
        return mask[given - n_some : given]

    sets = GeneSets.of_draws(draw, n_cells=n_cells, n_genes=37)
    assert sets.n_cells == n_cells and (sets.bits == GeneSets.of_mask(mask).bits).all()


@pytest.mark.parametrize("name", [*NAMES, SIGMOID])
def test_without_gradients_the_loss_is_the_same(name):
    problem = Problem(name)
    scored = GeneSets.of_mask(torch.rand(7, 50) < 0.5)
    with torch.no_grad():
        alone = problem.blocked(scored)
    assert not alone.requires_grad and alone.item() == problem.blocked(scored).item()


def test_gradients_are_given_once():
    problem = Problem("poisson")
    loss = problem.blocked(GeneSets.of_mask(torch.ones(7, 50, dtype=torch.bool)))
    torch.autograd.grad(loss, problem.wanted, retain_graph=True)
    with pytest.raises(RuntimeError, match="gradients"):
        torch.autograd.grad(loss, problem.wanted)
