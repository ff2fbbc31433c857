import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.neighbors import NearestNeighbors

from selfcell.data.loader import cell_loader
from selfcell.pretext.neighbor_views import mix_neighbors, near_neighbors


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def expression(cells):
    return next(iter(cell_loader(cells.counts, minibatch_size=90))).expression().double()


@pytest.fixture
def batch_code():
    return torch.randint(3, (90,), generator=generator(5))


def reference(expression, batch_code, n_neighbors):
    """The pairs by scikit-learn, batch by batch, written out."""
    near = np.zeros((len(expression), len(expression)), dtype=bool)
    for code in np.unique(batch_code):
        others = np.flatnonzero(batch_code == code)
        search = NearestNeighbors(n_neighbors=n_neighbors, metric="cosine", algorithm="brute").fit(expression[others])
        for cell in np.flatnonzero(batch_code != code):
            near[cell, others[search.kneighbors(expression[[cell]], return_distance=False)[0]]] = True
    return near


def test_neighbors_of_all_cells_are_those_of_scikit_learn(expression):
    search = NearestNeighbors(n_neighbors=4, metric="cosine", algorithm="brute").fit(expression.numpy())
    indices = search.kneighbors(return_distance=False)
    near = near_neighbors(expression, n_neighbors=4)
    assert all(set(near[cell].nonzero()[:, 0].tolist()) == set(indices[cell]) for cell in range(90))


def test_neighbors_in_other_batches_are_those_of_scikit_learn(expression, batch_code):
    near = near_neighbors(expression, batch_code, n_neighbors=3)
    assert np.array_equal(near.numpy(), reference(expression.numpy(), batch_code.numpy(), 3))
    assert (near.sum(dim=1) == 6).all()


def test_neighbors_belong_to_the_same_cells_after_a_permutation(expression, batch_code):
    order = torch.randperm(90, generator=generator(1))
    for code in (None, batch_code):
        near = near_neighbors(expression, code, n_neighbors=3)
        permuted = near_neighbors(expression[order], None if code is None else code[order], n_neighbors=3)
        assert torch.equal(permuted, near[order][:, order])


def mixed_with(expression, mixed, weight):
    """Find which cell each was mixed with, itself if with none."""
    partner = (mixed - (1 - weight) * expression) / weight
    distance, cell = torch.cdist(partner, expression).min(dim=1)
    assert distance.max() < 1e-4
    return cell


def test_a_cell_is_mixed_with_one_of_its_neighbors_each_equally_likely(expression):
    near = near_neighbors(expression, n_neighbors=3)
    drawn = torch.zeros(90, 90)
    for seed in range(100):
        mixed = mix_neighbors(expression, n_neighbors=3, weight=0.25, generator=generator(seed))
        drawn[torch.arange(90), mixed_with(expression, mixed, 0.25)] += 1
    assert torch.equal(drawn > 0, near)
    assert scipy.stats.chisquare(drawn[near].reshape(90, 3).numpy().ravel()).pvalue > 1e-3


def test_mutual_neighbors_agree_with_a_written_out_search(expression, batch_code):
    near = reference(expression.numpy(), batch_code.numpy(), 2)
    mutual = np.zeros_like(near)
    for i in range(90):
        for j in range(90):
            mutual[i, j] = near[i, j] and near[j, i]
    drawn = np.zeros_like(near)
    for seed in range(60):
        mixed = mix_neighbors(
            expression, batch_code, n_neighbors=2, mutual=True, weight=0.25, generator=generator(seed)
        )
        partner = mixed_with(expression, mixed, 0.25).numpy()
        drawn[np.arange(90), partner] = True
    lonely = ~mutual.any(axis=1)
    assert 0 < lonely.sum() < 90
    assert np.array_equal(drawn, mutual | np.diag(lonely))
    assert torch.equal(mixed[torch.from_numpy(lonely)], expression[torch.from_numpy(lonely)])


def test_cells_of_one_batch_alone_stay_as_they_are(expression):
    one = torch.zeros(90, dtype=torch.int64)
    for mutual in (False, True):
        mixed = mix_neighbors(expression, one, n_neighbors=3, mutual=mutual, weight=0.5, generator=generator())
        assert torch.equal(mixed, expression)


def test_a_cell_without_counts_neither_has_nor_is_a_neighbor(expression):
    expression[7] = 0
    near = near_neighbors(expression, n_neighbors=89)
    assert not near[7].any() and not near[:, 7].any()
    assert (near.sum(dim=1)[torch.arange(90) != 7] == 88).all()


def test_each_cell_draws_its_own_weight_and_adds_up_to_ten_thousand_at_most(expression):
    mixed = mix_neighbors(expression, n_neighbors=1, weight=(0.2, 0.6), generator=generator())
    nearest = expression[near_neighbors(expression, n_neighbors=1).int().argmax(dim=1)]
    step = ((mixed - expression) * (nearest - expression)).sum(dim=1) / (nearest - expression).square().sum(dim=1)
    assert 0.2 <= step.min() < 0.25 and 0.55 < step.max() <= 0.6
    assert (torch.expm1(mixed).sum(dim=1) <= 10_000 * (1 + 1e-9)).all()
