"""Layers on the non-zero entries against dense ones in double precision: values and gradients."""

from unittest import mock

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from selfcell.data.minibatch import SparseExpression
from selfcell.network import kernels
from selfcell.network.dropout import QuickDropout
from selfcell.network.frequent import BREAK_EVEN
from selfcell.network.gene_sets import GeneSets
from selfcell.network.masked_error import squared_error_of_sets
from selfcell.network.sparse import lay_by_gene, sparse_linear
from selfcell.network.squared_error import squared_error_of_all
from selfcell.pretext.entry_masks import with_hidden

SHAPES = {
    "n_cells": st.integers(1, 20),
    "n_genes": st.integers(1, 70),
    "n_units": st.integers(1, 40),
    "density": st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    "seed": st.integers(0, 100),
    "dtype": st.sampled_from([torch.float32, torch.bfloat16]),
}
BREAK_EVENS = st.sampled_from([-1.0, 0.3, 2.0])
"""From none to all genes are taken for rare."""
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03}


def cells_of(n_cells, n_genes, density, seed):
    matrix = sp.random(n_cells, n_genes, density, format="csr", random_state=seed, dtype=np.float32)
    matrix.sort_indices()
    return SparseExpression(
        torch.from_numpy(matrix.data),
        torch.from_numpy(matrix.indices.astype(np.int32)),
        torch.from_numpy(matrix.indptr.astype(np.int64)),
        n_genes,
    )


def in_double(layer):
    other = nn.Linear(layer.in_features, layer.out_features).double()
    other.load_state_dict(layer.state_dict())
    return other


def assert_near(found, expected, dtype):
    """Compare by the norm of the difference, beside what goes into an entry, about 0.3, before it cancels."""
    scale = expected.norm() + 0.3 * expected.numel() ** 0.5
    assert (found.double() - expected).norm() / scale < TOLERANCE[dtype]


@settings(max_examples=40, deadline=None)
@given(**SHAPES, break_even=BREAK_EVENS)
def test_a_first_layer_is_the_dense_one(n_cells, n_genes, n_units, density, seed, dtype, break_even):
    torch.manual_seed(seed)
    cells = cells_of(n_cells, n_genes, density, seed)
    layer = lay_by_gene(nn.Linear(n_genes, n_units))
    dense, direction = in_double(layer), torch.randn(n_cells, n_units)
    with mock.patch.dict(BREAK_EVEN, {dtype: break_even}):
        found, expected = sparse_linear(cells, layer, dtype=dtype), dense(cells.dense().double())
    assert_near(found, expected, dtype)
    (found.float() * direction).sum().backward()
    (expected * direction.double()).sum().backward()
    assert_near(layer.weight.grad, dense.weight.grad, dtype)
    assert_near(layer.bias.grad, dense.bias.grad, dtype)


@settings(max_examples=40, deadline=None)
@given(**SHAPES, break_even=BREAK_EVENS, zeros=st.booleans(), some_genes=st.booleans())
def test_the_error_over_all_genes_is_the_dense_one(
    n_cells, n_genes, n_units, density, seed, dtype, break_even, zeros, some_genes
):
    torch.manual_seed(seed)
    truth, last = cells_of(n_cells, n_genes, density, seed), nn.Linear(n_units, n_genes)
    units, dense = torch.randn(n_cells, n_units, requires_grad=True), in_double(last)
    in_full = units.detach().double().requires_grad_()
    hidden, zero_weight = torch.rand(len(truth.values)) < 0.5, torch.rand(n_cells) * zeros
    counts = np.random.default_rng(seed).random(n_genes) < 0.7 if some_genes else np.ones(n_genes, dtype=bool)
    weight = SparseExpression(0.1 + hidden, truth.gene_index, truth.cell_offsets, n_genes).dense().double()
    weight = torch.where(truth.dense() != 0, weight, zero_weight[:, None].double()) * torch.from_numpy(counts)
    expected = (weight * (dense(in_full) - truth.dense().double()).square()).sum() * 0.25
    with mock.patch.dict(BREAK_EVEN, {dtype: break_even}):
        found = squared_error_of_all(
            units,
            last,
            with_hidden(truth, hidden, None),
            entry_weight=(0.1, 1.1),
            zero_weight=zero_weight,
            scale=0.25,
            genes=counts if some_genes else None,
            dtype=dtype,
        )
    torch.testing.assert_close(found.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    (2 * found).backward()
    (2 * expected).backward()
    assert_near(units.grad, in_full.grad, dtype)
    assert_near(last.weight.grad, dense.weight.grad, dtype)
    assert_near(last.bias.grad, dense.bias.grad, dtype)


@settings(max_examples=40, deadline=None)
@given(**SHAPES, share=st.sampled_from([0.0, 0.3, 1.0]))
def test_the_error_over_sets_of_genes_is_the_dense_one(n_cells, n_genes, n_units, density, seed, dtype, share):
    torch.manual_seed(seed)
    truth, last = cells_of(n_cells, n_genes, density, seed), nn.Linear(n_units, n_genes)
    units, dense = torch.randn(n_cells, n_units, requires_grad=True), in_double(last)
    in_full = units.detach().double().requires_grad_()
    mask = torch.rand(n_cells, n_genes) < share
    expected = (mask * (dense(in_full) - truth.dense().double()).square()).sum() * 0.25
    found = squared_error_of_sets(units, last, truth, scored=GeneSets.of_mask(mask), scale=0.25, dtype=dtype)
    torch.testing.assert_close(found.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    found.backward()
    expected.backward()
    assert_near(units.grad, in_full.grad, dtype)
    assert_near(last.weight.grad, dense.weight.grad, dtype)
    assert_near(last.bias.grad, dense.bias.grad, dtype)


@pytest.mark.parametrize("of_sets", [False, True])
def test_a_loss_gives_its_gradients_away_once_and_is_the_same_without_them(of_sets):
    torch.manual_seed(0)
    truth, last = cells_of(30, 50, 0.2, 0), nn.Linear(8, 50)
    units = torch.randn(30, 8)

    def loss():
        if of_sets:
            sets = GeneSets.of_mask(torch.ones(30, 50, dtype=torch.bool))
            return squared_error_of_sets(units, last, truth, scored=sets, scale=1.0)
        return squared_error_of_all(units, last, truth, entry_weight=(1.0, 1.0), zero_weight=torch.ones(30), scale=1.0)

    with torch.no_grad():
        unwatched = loss()
    watched = loss()
    assert watched == unwatched
    watched.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated already"):
        watched.backward()


def test_the_numbers_are_the_same_with_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(kernels, "_WORTH_THREADS", 1)
    truth, n_threads = cells_of(50, 300, 0.2, 0), torch.get_num_threads()
    found = []
    for number in (1, 3):
        torch.set_num_threads(number)
        torch.manual_seed(0)
        first, last = lay_by_gene(nn.Linear(300, 8)), nn.Linear(8, 300)
        units = QuickDropout(0.3)(sparse_linear(truth, first))
        squared_error_of_all(
            units, last, truth, entry_weight=(1.0, 1.0), zero_weight=torch.ones(50), scale=1.0
        ).backward()
        found.append([first.weight.grad, last.weight.grad, last.bias.grad])
    torch.set_num_threads(n_threads)
    for one, several in zip(*found, strict=True):
        torch.testing.assert_close(one, several, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_and_keeps_the_mean_there_and_back(dtype):
    torch.manual_seed(0)
    units = torch.ones(400, 500, dtype=dtype, requires_grad=True)
    dropped = QuickDropout(0.25)(units)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.005)
    assert dropped.float().mean().item() == pytest.approx(1, abs=0.01)
    dropped.sum().backward()
    assert torch.equal(units.grad, dropped)
    columns = (dropped == 0).float().mean(dim=0)
    assert columns.min() > 0.13 and columns.max() < 0.37


def test_dropout_is_a_function_of_torchs_seed_and_rests_outside_training():
    units = torch.rand(30, 20)
    drop = QuickDropout(0.5)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(drop(units))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert torch.equal(drop.eval()(units), units)


def test_bfloat16_is_rounded_as_torch_does():
    values = torch.cat([torch.randn(1000) * 10.0 ** torch.randint(-20, 20, (1000,)), torch.tensor([0.0, 1.00390625])])
    rounded = np.array([kernels.narrow(np.float32(value)) for value in values.numpy()], dtype=np.uint16)
    assert torch.equal(torch.from_numpy(rounded).view(torch.bfloat16), values.bfloat16())


def test_weights_laid_by_gene_keep_shape_values_and_state():
    layer = nn.Linear(7, 3)
    before = layer.weight.detach().clone()
    lay_by_gene(layer)
    assert torch.equal(layer.weight, before) and layer.weight.T.is_contiguous()
    layer.load_state_dict({"weight": before + 1, "bias": layer.bias})
    assert layer.weight.T.is_contiguous() and torch.equal(layer.weight, before + 1)
