import copy
import itertools

import pytest
import scipy.sparse as sp
import torch
from torch import nn

from selfcell.data.minibatch import SparseExpression
from selfcell.network.blockwise import BlockwiseExpression
from selfcell.network.compute import Compute
from selfcell.network.encoder import EncoderSettings, MlpEncoder
from selfcell.network.heads import projection_head
from selfcell.network.target import TargetNetwork
from selfcell.network.view_pair import ViewPair


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return MlpEncoder(EncoderSettings(hidden_sizes=(16,), n_latent=4, dropout=0), n_genes=50)


def view(kind, seed):
    matrix = sp.random(12, 50, 0.2, format="csr", random_state=seed, dtype="float32")
    parts = (torch.from_numpy(matrix.data), torch.from_numpy(matrix.indices), torch.from_numpy(matrix.indptr).long())
    sparse = SparseExpression(*parts, 50)
    added = torch.rand(3, 50, generator=torch.Generator().manual_seed(seed))
    noisy = BlockwiseExpression(sparse, torch.tensor([1, 7, 11]), lambda genes: added[:, genes].clone())
    return {"dense": sparse.dense(), "sparse": sparse, "noisy": noisy}[kind]


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize(("first", "second"), list(itertools.product(["dense", "sparse", "noisy"], repeat=2)))
def test_a_pair_is_embedded_as_each_view_by_itself(encoder, first, second, sparse):
    encoder.compute = Compute(sparse=sparse)
    other, pair = copy.deepcopy(encoder), ViewPair(view(first, 0), view(second, 1))
    found, expected = pair.embedded(encoder), [other(each) for each in pair]
    for embedding, alone in zip(found, expected, strict=True):
        torch.testing.assert_close(embedding, alone, rtol=1e-4, atol=1e-5)
    sum(embedding.square().sum() for embedding in found).backward()
    sum(embedding.square().sum() for embedding in expected).backward()
    for parameter, alone in zip(encoder.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, alone.grad, rtol=1e-4, atol=1e-4)


def test_heads_of_a_target_network_see_one_view_at_a_time(encoder):
    target = TargetNetwork(nn.Sequential(encoder, projection_head([4, 8, 3]))).train()
    pair = ViewPair(view("noisy", 0), view("sparse", 1))
    for found, expected in zip(target.of_both(pair), [target(each) for each in pair], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        assert not found.requires_grad
