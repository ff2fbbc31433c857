"""Dense layers in blocks of genes against plain ones in double precision: values and gradients."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from selfcell.data.minibatch import SparseExpression
from selfcell.network import block_error, padded
from selfcell.network.block_error import UNSCORED, compiler_fault, squared_error_in_blocks
from selfcell.network.compute import Compute
from selfcell.network.encoder import EncoderSettings, MlpEncoder
from selfcell.network.padded import GeneBlocks, PaddedExpression, flat_places, padded_expression, padded_linear, spread
from selfcell.network.sparse import lay_by_gene

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03}
SHAPES = {
    "n_cells": st.integers(1, 20),
    "n_genes": st.integers(1, 200),
    "n_units": st.integers(1, 40),
    "density": st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    "seed": st.integers(0, 100),
    "dtype": st.sampled_from([torch.float32, torch.bfloat16]),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(padded, "GENES_AT_ONCE", 64)


def cells_of(n_cells, n_genes, density, seed):
    matrix = sp.random(n_cells, n_genes, density, format="csr", random_state=seed, dtype=np.float32)
    matrix.data[:] += 0.1
    parts = (matrix.data, matrix.indices.astype(np.int32), matrix.indptr.astype(np.int64))
    return SparseExpression(*map(torch.from_numpy, parts), n_genes)


def in_double(layer):
    other = nn.Linear(layer.in_features, layer.out_features).double()
    other.load_state_dict({name: value.cpu() for name, value in layer.state_dict().items()})
    return other


def assert_near(found, expected, dtype):
    """Compare by the norm of the difference, beside what goes into an entry, about 0.3, before it cancels."""
    scale = expected.norm() + 0.3 * expected.numel() ** 0.5
    assert (found.cpu().double() - expected).norm() / scale < TOLERANCE[dtype]


def placed(cells, dtype, device="cpu"):
    cells = SparseExpression(
        *(part.to(device) for part in (cells.values, cells.gene_index, cells.cell_offsets)), cells.n_genes
    )
    return spread(cells.values, flat_places(cells), cells, dtype=dtype)


@given(st.integers(1, 40_000), st.sampled_from([64, 4096]))
def test_blocks_have_one_aligned_width_and_hold_all_genes(n_genes, at_once):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(padded, "GENES_AT_ONCE", at_once)
        blocks = GeneBlocks.of(n_genes)
    parts = list(blocks)
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert {part.stop - part.start for part in parts} == {blocks.width} and blocks.width % 64 == 0
    assert n_genes <= parts[-1].stop == blocks.n_columns < n_genes + 64 * len(parts)
    assert blocks.width <= at_once


def test_cells_are_spread_to_their_places_and_zeros_follow():
    cells = cells_of(9, 130, 0.3, 0)
    dense = placed(cells, torch.float32)
    assert torch.equal(dense[:, :130], cells.dense()) and dense.shape == (9, 192) and not dense[:, 130:].any()


def test_hidden_entries_are_spread_as_zeros_and_the_others_by_the_factor_of_their_cell():
    cells = cells_of(9, 130, 0.3, 0)
    hidden = torch.arange(len(cells.values)) % 3 == 0
    shown = SparseExpression(
        torch.where(hidden, -cells.values, cells.values),
        cells.gene_index,
        cells.cell_offsets,
        n_genes=130,
        factor=torch.arange(9.0),
    )
    dense = padded_expression(shown, dtype=torch.float32).values
    assert torch.equal(dense[:, :130], shown.dense()) and (dense >= 0).all() and dense.any()


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=40, deadline=None)
@given(**SHAPES)
def test_a_first_layer_on_padded_cells_is_the_dense_one(device, n_cells, n_genes, n_units, density, seed, dtype):
    torch.manual_seed(seed)
    cells, layer = cells_of(n_cells, n_genes, density, seed), lay_by_gene(nn.Linear(n_genes, n_units)).to(device)
    dense, direction = in_double(layer), torch.randn(n_cells, n_units)
    found = padded_linear(PaddedExpression(placed(cells, dtype, device)), layer)
    expected = dense(cells.dense().double())
    assert_near(found, expected, dtype)
    (found.float() * direction.to(device)).sum().backward()
    (expected * direction.double()).sum().backward()
    assert_near(layer.weight.grad, dense.weight.grad, dtype)
    assert_near(layer.bias.grad, dense.bias.grad, dtype)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=40, deadline=None)
@given(**SHAPES, zero_weight=st.sampled_from([0.0, 0.3, 1.0]), shown=st.sampled_from([0.0, 0.4, 1.0]))
def test_the_error_in_blocks_is_the_dense_one(
    device, n_cells, n_genes, n_units, density, seed, dtype, zero_weight, shown
):
    torch.manual_seed(seed)
    cells, last = cells_of(n_cells, n_genes, density, seed), nn.Linear(n_units, n_genes).to(device)
    units, dense, expression = torch.randn(n_cells, n_units), in_double(last), cells.dense()
    on_device, in_full = units.to(device, copy=True).requires_grad_(), units.double().requires_grad_()
    out = torch.rand(n_cells, n_genes) < shown
    truth = placed(cells, torch.float16 if dtype == torch.bfloat16 else dtype, device)
    truth[:, n_genes:] = UNSCORED
    truth[:, :n_genes].masked_fill_(out.to(device), UNSCORED)
    weight = torch.where(expression != 0, 1.0, zero_weight).masked_fill(out, 0.0).double()
    expected = 0.25 * (weight * (dense(in_full) - expression.double()).square()).sum()
    found = squared_error_in_blocks(
        on_device, last, truth, zero_weight=zero_weight, scale=torch.tensor(0.25, device=device), dtype=dtype
    )
    torch.testing.assert_close(found.cpu().double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    (2 * found).backward()
    (2 * expected).backward()
    assert_near(on_device.grad, in_full.grad, dtype)
    assert_near(last.weight.grad, dense.weight.grad, dtype)
    assert_near(last.bias.grad, dense.bias.grad, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", DEVICES)
def test_an_encoder_that_computes_in_blocks_gives_the_embeddings_of_one_that_does_not(device, dtype):
    torch.manual_seed(0)
    encoder = MlpEncoder(EncoderSettings(hidden_sizes=(16, 12), n_latent=8), n_genes=150).to(device).eval()
    cells = cells_of(20, 150, 0.2, 0)
    cells = SparseExpression(
        *(part.to(device) for part in (cells.values, cells.gene_index, cells.cell_offsets)), n_genes=150
    )
    encoder.compute = Compute(sparse=False)
    plain, dense = encoder(cells), cells.dense()
    encoder.compute = Compute(sparse=False, in_blocks=True, dtype=dtype)
    for shape in (cells, dense):
        assert_near(encoder(shape).detach(), plain.detach().cpu().double(), dtype)
    encoder(dense.requires_grad_()).sum().backward()
    assert dense.grad.abs().sum() > 0


def test_nothing_is_differentiated_where_no_gradient_is_asked_for():
    cells, last, units = cells_of(5, 100, 0.3, 0), nn.Linear(6, 100), torch.randn(5, 6)
    truth = placed(cells, torch.float32)
    arguments = {"zero_weight": 1.0, "scale": torch.tensor(1.0), "dtype": torch.float32}
    with torch.no_grad():
        found = squared_error_in_blocks(units, last, truth, **arguments)
    torch.testing.assert_close(found, squared_error_in_blocks(units, last, truth, **arguments))


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_a_compiled_kernel_gives_the_errors_of_the_one_that_is_not(device, monkeypatch):
    with warnings.catch_warnings():
        # Torch's compiler uses parts of itself that are being replaced.
        warnings.simplefilter("ignore")
        if compiler_fault(torch.device(device)) is not None:
            pytest.skip(f"torch cannot compile here: {compiler_fault(torch.device(device))}")
        last, units = nn.Linear(6, 100).to(device), torch.randn(5, 6, device=device)
        truth = placed(cells_of(5, 100, 0.3, 0), torch.float16, device)
        arguments = {"zero_weight": 0.5, "scale": torch.tensor(0.1, device=device), "dtype": torch.bfloat16}
        gradients = []
        for compiled in (False, True):
            last.zero_grad()
            squared_error_in_blocks(units, last, truth, **arguments, compiled=compiled).backward()
            gradients.append([last.weight.grad, last.bias.grad])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=1e-3)


def test_a_compiler_that_fails_is_told_of(monkeypatch):
    def broken(function):
        raise RuntimeError("no C compiler\nat all")

    monkeypatch.setattr(torch, "compile", broken)
    compiler_fault.cache_clear()
    assert compiler_fault(torch.device("cpu")) == "no C compiler"
    monkeypatch.setattr(block_error.importlib.util, "find_spec", lambda _: None)
    assert compiler_fault(torch.device("cuda")) == "triton is not installed"
    compiler_fault.cache_clear()
