"""A first layer on cells with noisy zeros against the dense one in double precision: values and gradients."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from selfcell.data.minibatch import SparseExpression
from selfcell.network import blockwise
from selfcell.network.blockwise import BlockwiseExpression, blockwise_linear
from selfcell.network.compute import Compute
from selfcell.network.encoder import EncoderSettings, MlpEncoder
from selfcell.network.sparse import lay_by_gene

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03}


def cells_of(n_cells, n_genes, *, density, dense_share, seed):
    matrix = sp.random(n_cells, n_genes, density, format="csr", random_state=seed, dtype=np.float32)
    sparse = SparseExpression(
        torch.from_numpy(matrix.data),
        torch.from_numpy(matrix.indices.astype(np.int32)),
        torch.from_numpy(matrix.indptr.astype(np.int64)),
        n_genes,
    )
    source = torch.Generator().manual_seed(seed)
    cells = (torch.rand(n_cells, generator=source) < dense_share).nonzero()[:, 0]
    added = torch.rand(len(cells), n_genes, generator=source)
    return BlockwiseExpression(sparse, cells, lambda genes: added[:, genes].clone()), added


def assert_near(found, expected, dtype):
    scale = expected.norm() + 0.3 * expected.numel() ** 0.5
    assert (found.double() - expected).norm() / scale < TOLERANCE[dtype]


@settings(max_examples=60, deadline=None)
@given(
    n_cells=st.integers(1, 20),
    n_genes=st.integers(1, 70),
    n_units=st.integers(1, 40),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    dense_share=st.sampled_from([0.0, 0.4, 1.0]),
    entries_at_once=st.sampled_from([1, 30, 2**20]),
    seed=st.integers(0, 100),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_layer_is_the_dense_one_whatever_the_blocks(
    n_cells, n_genes, n_units, density, dense_share, entries_at_once, seed, dtype
):
    torch.manual_seed(seed)
    cells, added = cells_of(n_cells, n_genes, density=density, dense_share=dense_share, seed=seed)
    expected_cells = cells.sparse.dense().double().index_add(0, cells.cells, added.double())
    layer, direction = lay_by_gene(nn.Linear(n_genes, n_units)), torch.randn(n_cells, n_units)
    dense = nn.Linear(n_genes, n_units).double()
    dense.load_state_dict(layer.state_dict())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockwise, "ENTRIES_AT_ONCE", entries_at_once)
        torch.testing.assert_close(cells.dense().double(), expected_cells, rtol=1e-6, atol=1e-6)
        found, expected = blockwise_linear(cells, layer, dtype=dtype), dense(expected_cells)
        assert_near(found, expected, dtype)
        (found.float() * direction).sum().backward()
    (expected * direction.double()).sum().backward()
    assert_near(layer.weight.grad, dense.weight.grad, dtype)
    assert_near(layer.bias.grad, dense.bias.grad, dtype)


@pytest.mark.parametrize("compute", [Compute(sparse=False), Compute(), Compute(dtype=torch.bfloat16)])
def test_an_encoder_takes_cells_in_blocks_and_gives_what_it_gives_for_dense_ones(compute):
    cells, _ = cells_of(12, 50, density=0.2, dense_share=0.5, seed=0)
    encoder = MlpEncoder(EncoderSettings(hidden_sizes=(16,), n_latent=4, dropout=0), n_genes=50)
    expected = encoder.double()(cells.dense().double())
    encoder.float().compute = compute
    assert_near(encoder(cells), expected, compute.dtype)
    if not compute.sparse:
        torch.testing.assert_close(encoder(cells), encoder(cells.dense()), rtol=0, atol=0)


def test_blocks_cover_every_gene_once_and_there_are_none_without_dense_cells(monkeypatch):
    cells, _ = cells_of(6, 50, density=0.2, dense_share=1.0, seed=0)
    monkeypatch.setattr(blockwise, "ENTRIES_AT_ONCE", 6 * 7)
    genes = np.concatenate([np.arange(50)[block] for block in cells.blocks()])
    assert genes.tolist() == list(range(50)) and len(cells.blocks()) == 8
    assert cells_of(6, 50, density=0.2, dense_share=0.0, seed=0)[0].blocks() == []
