import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfcell.data.loader import cell_loader
from selfcell.data.minibatch import CellMinibatch
from selfcell.data.programs import GenePrograms
from selfcell.network import kernels
from selfcell.pretext.membership import ProgramMembership
from selfcell.pretext.neighbor_views import mix_neighbors
from selfcell.pretext.views import (
    add_gaussian_noise,
    add_negative_binomial_noise,
    cross_over,
    draw_negative_binomial,
    mask_genes,
    mask_programs,
    swap_genes,
    thin_counts,
)

PROGRAMS = GenePrograms(
    names=("a", "b", "c"), genes=(np.array([0, 1, 2, 5]), np.array([2, 3]), np.array([30, 40, 59])), n_genes=60
)


def hide_programs(expression, *, fraction=0.5, **rest):
    return mask_programs(expression, ProgramMembership(PROGRAMS), fraction=fraction, **rest)


VIEWS = {
    "mask_genes": (mask_genes, {"fraction": 0.5}),
    "mask_genes rescaled": (mask_genes, {"fraction": (0.2, 0.6), "rescale": True}),
    "mask_programs": (hide_programs, {"fraction": 0.9}),
    "add_gaussian_noise": (add_gaussian_noise, {"sigma": (0.1, 0.5), "gene_fraction": 0.8}),
    "add_negative_binomial_noise": (add_negative_binomial_noise, {"strength": 0.2}),
    "swap_genes": (swap_genes, {"fraction": 0.4}),
    "cross_over": (cross_over, {"fraction": 0.4}),
    "mix_neighbors": (mix_neighbors, {"weight": 0.4, "n_neighbors": 3}),
}


@pytest.fixture(params=list(VIEWS))
def view(request):
    function, arguments = VIEWS[request.param]
    return lambda expression, *, seed=0, **rest: function(expression, **arguments, **rest, generator=generator(seed))


@pytest.fixture
def minibatch(cells):
    return next(iter(cell_loader(cells.counts, minibatch_size=64)))


@pytest.fixture
def expression(minibatch):
    return minibatch.expression()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def minibatch_of(counts):
    """Make a minibatch of dense counts."""
    return next(iter(cell_loader(sp.csr_matrix(np.asarray(counts, dtype=np.float32)), minibatch_size=len(counts))))


def dense(minibatch: CellMinibatch):
    full = torch.zeros(minibatch.n_cells, minibatch.n_genes, dtype=minibatch.values.dtype)
    full[minibatch.cell_index, minibatch.gene_index] = minibatch.values
    return full


def changed_cells(before, after):
    return (before != after).any(dim=1)


# What holds for every view of expression.


def test_a_view_leaves_its_input_as_it_was(view, expression):
    before = expression.clone()
    distorted = view(expression)
    assert torch.equal(expression, before) and not torch.equal(distorted, before)


def test_a_view_depends_on_the_generator_alone(view, expression):
    assert torch.equal(view(expression, seed=3), view(expression, seed=3))
    assert not torch.equal(view(expression, seed=3), view(expression, seed=4))


def test_every_cell_tosses_its_own_coin(view, expression):
    touched = torch.stack([changed_cells(expression, view(expression, probability=0.5, seed=s)) for s in range(40)])
    assert touched.any(dim=0).all() and (~touched).any(dim=0).all()
    always = torch.stack([changed_cells(expression, view(expression, seed=s)) for s in range(40)]).float().mean()
    assert scipy.stats.binomtest(int(touched.sum()), touched.numel(), 0.5 * float(always)).pvalue > 1e-4
    within = touched.float().mean(dim=1)
    assert 0.03 < within.std() < 0.1  # 0.0625 of independent coins; 0.5 of one coin for all


def test_a_view_is_the_same_in_double_precision(view, expression):
    torch.testing.assert_close(view(expression.double()), view(expression).double(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n_cells", [1, 2])
def test_a_view_works_on_very_few_cells(view, expression, n_cells):
    distorted = view(expression[:n_cells])
    assert distorted.shape == (n_cells, 60) and distorted.isfinite().all() and (distorted >= 0).all()


def test_a_view_works_on_cells_without_counts(view):
    assert view(torch.zeros(4, 60)).isfinite().all()


# Thinning.


def test_thinned_counts_are_binomial():
    counts = np.tile([1, 3, 40, 1000], (4000, 1))
    thinned = dense(thin_counts(minibatch_of(counts), keep_fraction=0.7, generator=generator()))
    assert torch.equal(thinned, thinned.round())
    for gene, count in enumerate(counts[0]):
        p_value = scipy.stats.kstest(
            thinned[:, gene].numpy() + np.random.default_rng(0).random(4000),
            lambda x, n=int(count): (
                scipy.stats.binom.cdf(np.floor(x) - 1, n, 0.7)
                + (x - np.floor(x)) * scipy.stats.binom.pmf(np.floor(x), n, 0.7)
            ),
        ).pvalue
        assert p_value > 1e-3
        assert abs(thinned[:, gene].mean() - 0.7 * count) < 5 * np.sqrt(0.21 * count / 4000)


def test_thinning_draws_each_cells_depth_in_the_range():
    kept = dense(thin_counts(minibatch_of(np.full((500, 1), 1e5)), keep_fraction=(0.4, 0.8), generator=generator()))
    assert scipy.stats.kstest(kept[:, 0].numpy() / 1e5, scipy.stats.uniform(0.4, 0.4).cdf).pvalue > 1e-3


def test_fractional_counts_are_rounded_at_random_with_their_mean():
    thinned = dense(thin_counts(minibatch_of(np.full((20_000, 1), 2.3)), keep_fraction=1.0, generator=generator()))
    assert set(thinned.unique().tolist()) == {2.0, 3.0}
    assert scipy.stats.binomtest(int((thinned == 3).sum()), 20_000, 0.3).pvalue > 1e-3


@given(st.integers(0, 2**23), st.integers(0, 50))
def test_a_whole_count_of_which_all_is_kept_stays(count, seed):
    thinned = thin_counts(minibatch_of([[count, 1]]), keep_fraction=1.0, generator=generator(seed))
    assert dense(thinned).tolist() == [[count, 1]]


def test_thinning_keeps_a_minibatch_in_order(minibatch):
    minibatch.codes = {"batch": torch.arange(64)}
    before = [tensor.clone() for tensor in (minibatch.values, minibatch.gene_index, minibatch.cell_offsets)]
    thinned = thin_counts(minibatch, keep_fraction=(0.1, 0.4), generator=generator())
    after = minibatch.values, minibatch.gene_index, minibatch.cell_offsets
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert (thinned.values > 0).all() and len(thinned.values) < len(minibatch.values)
    assert thinned.cell_offsets[-1] == len(thinned.values) and thinned.n_cells == 64
    assert (dense(thinned) <= dense(minibatch)).all()
    assert torch.equal(thinned.codes["batch"], torch.arange(64))


def test_thinning_tosses_a_coin_per_cell_and_repeats(minibatch):
    first, second = (
        thin_counts(minibatch, keep_fraction=0.3, probability=0.5, generator=generator()) for _ in range(2)
    )
    assert torch.equal(dense(first), dense(second))
    assert 16 < changed_cells(dense(minibatch), dense(first)).sum() < 48


def test_thinning_a_cell_away_leaves_an_empty_one():
    thinned = thin_counts(minibatch_of([[1, 0], [0, 0], [5, 5]]), keep_fraction=1e-9, generator=generator())
    assert thinned.cell_offsets.tolist() == [0, 0, 0, 0] and (thinned.expression() == 0).all()


def test_thinning_is_the_same_in_double_precision(minibatch):
    single = thin_counts(minibatch, keep_fraction=1.0, generator=generator())
    minibatch.values = minibatch.values.double()
    double = thin_counts(minibatch, keep_fraction=1.0, generator=generator())
    assert double.values.dtype == torch.float64 and torch.equal(double.values, single.values.double())


# Masks.


def test_each_cell_hides_its_own_share_of_genes():
    hidden = (mask_genes(torch.ones(400, 5000), fraction=(0.2, 0.6), generator=generator()) == 0).float()
    assert scipy.stats.kstest(hidden.mean(dim=1).numpy(), scipy.stats.uniform(0.2, 0.4).cdf).pvalue > 1e-3
    fixed = mask_genes(torch.ones(400, 50), fraction=0.3, generator=generator()) == 0
    assert scipy.stats.binomtest(int(fixed.sum()), fixed.numel(), 0.3).pvalue > 1e-3
    assert abs(fixed.sum(dim=1).float().var() - 50 * 0.21) < 3


def test_rescaling_keeps_the_mean():
    visible = mask_genes(torch.ones(50, 20_000), fraction=(0.1, 0.7), rescale=True, generator=generator())
    torch.testing.assert_close(visible.mean(dim=1), torch.ones(50), atol=0.07, rtol=0)


def test_programs_are_hidden_whole_and_independently():
    hidden = hide_programs(torch.ones(20_000, 60), fraction=0.3, generator=generator()) == 0
    a, b, c = hidden[:, 0], hidden[:, 3], hidden[:, 30]
    assert all(torch.equal(hidden[:, gene], a) for gene in (1, 5))
    assert torch.equal(hidden[:, 2], a | b) and torch.equal(hidden[:, 59], c)
    assert not hidden[:, [4, 6, 58]].any()
    for program in (a, b, c):
        assert scipy.stats.binomtest(int(program.sum()), 20_000, 0.3).pvalue > 1e-3
    assert scipy.stats.binomtest(int((a & b).sum()), 20_000, 0.09).pvalue > 1e-3


# Noise.


def test_gaussian_noise_has_its_spread_and_its_share_of_genes():
    noise = add_gaussian_noise(torch.full((200, 2000), 9.0), sigma=0.5, gene_fraction=0.8, generator=generator()) - 9
    noisy = noise[noise != 0]
    assert scipy.stats.binomtest(len(noisy), noise.numel(), 0.8).pvalue > 1e-3
    assert scipy.stats.kstest(noisy[:50_000].numpy(), scipy.stats.norm(0, 0.5).cdf).pvalue > 1e-3
    assert (add_gaussian_noise(torch.zeros(9, 99), sigma=1.0, generator=generator()) == 0).float().mean() > 0.4


def test_each_cell_draws_its_own_sigma():
    noise = add_gaussian_noise(torch.full((300, 3000), 99.0), sigma=(0.5, 1.5), generator=generator()) - 99
    assert scipy.stats.kstest(noise.std(dim=1).numpy(), scipy.stats.uniform(0.5, 1).cdf).pvalue > 1e-3


def test_negative_binomial_counts_follow_the_mixture():
    """Against the probabilities integrated by quadrature, and against counts drawn in two steps."""
    drawn = draw_negative_binomial(400, 1000, like=torch.zeros(1), generator=generator()).numpy().ravel()
    edges = np.array([0, 1, 2, 3, 5, 8, 12, 20, 40, 100, 1000])
    nodes, weights = np.polynomial.legendre.leggauss(400)
    p = (nodes + 1) / 2
    # scipy's parameter is the probability of what torch counts the failures of: 1 - p.
    survival = [(weights / 2 * scipy.stats.nbinom.sf(k - 1, 10, 1 - p)).sum() for k in edges]
    np.testing.assert_allclose(survival, 10 / (edges + 10), rtol=1e-3)
    expected = -np.diff([*survival, 0.0]) * len(drawn)
    observed = np.histogram(drawn, [*edges, np.inf])[0]
    assert scipy.stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3
    torch.manual_seed(0)
    probs = torch.rand(200_000, dtype=torch.float64).clamp(max=1 - 1e-9)
    two_steps = torch.distributions.NegativeBinomial(10, probs=probs).sample().numpy()
    table = [np.histogram(sample, [*edges, np.inf])[0] for sample in (drawn, two_steps)]
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


def test_negative_binomial_noise_is_a_normalized_cell_times_its_strength():
    before = torch.zeros(300, 500, dtype=torch.float64)
    noise = add_negative_binomial_noise(before, strength=0.2, generator=generator())
    totals = torch.expm1(noise / 0.2).sum(dim=1)
    torch.testing.assert_close(totals, torch.full_like(totals, 10_000))
    assert scipy.stats.binomtest(int((noise == 0).sum()), noise.numel(), 1 / 11).pvalue > 1e-3
    ranged = add_negative_binomial_noise(before, strength=(0.1, 0.3), generator=generator())
    factor = (ranged / noise).nanmean(dim=1) * 0.2
    assert 0.1 <= factor.min() < 0.12 and 0.28 < factor.max() <= 0.3


# Swaps and crosses.


@given(n_cells=st.integers(1, 4), n_genes=st.integers(1, 30), fraction=st.floats(0, 1), seed=st.integers(0, 99))
def test_swapping_keeps_the_values_of_a_cell(n_cells, n_genes, fraction, seed):
    expression = torch.arange(n_cells * n_genes).reshape(n_cells, n_genes).float()
    swapped = swap_genes(expression, fraction=fraction, generator=generator(seed))
    assert torch.equal(swapped.sort(dim=1).values, expression)
    # Exchanged in pairs: the gene a value came from has the value of the gene that it went to.
    source = (swapped - expression[:, :1]).long()
    assert torch.equal(source.gather(1, source), torch.arange(n_genes).expand(n_cells, -1))


def test_any_two_genes_are_equally_likely_swapped():
    pairs = np.zeros((7, 7))
    for seed in range(60):
        source = swap_genes(torch.arange(7.0).repeat(200, 1), fraction=0.6, generator=generator(seed)).long().numpy()
        np.add.at(pairs, (np.tile(np.arange(7), 200), source.ravel()), 1)
    share = pairs / 12_000
    off = share[~np.eye(7, dtype=bool)]
    assert np.abs(off - 0.6 / 7).max() < 0.02 and np.allclose(pairs, pairs.T)


def test_cross_over_takes_genes_of_one_other_cell_in_their_places():
    expression = torch.arange(50 * 400).reshape(50, 400).float()
    crossed = cross_over(expression, fraction=(0.2, 0.5), generator=generator()).long()
    assert torch.equal(crossed % 400, torch.arange(400).expand(50, -1))
    donor = crossed // 400
    foreign = donor != torch.arange(50)[:, None]
    assert all(len(donor[cell][foreign[cell]].unique()) == 1 for cell in range(50))
    shares = foreign.float().mean(dim=1)
    assert 0.1 < shares.min() < 0.3 and 0.4 < shares.max() < 0.6


@settings(max_examples=30)
@given(n_cells=st.integers(2, 6), seed=st.integers(0, 1000))
def test_no_cell_crosses_with_itself(n_cells, seed):
    expression = torch.arange(float(n_cells))[:, None].repeat(1, 3)
    crossed = cross_over(expression, fraction=1.0, generator=generator(seed))
    assert changed_cells(expression, crossed).all() and crossed.unique(dim=1).shape[1] == 1


def test_a_cell_alone_has_none_to_cross_or_mix_with(expression):
    alone = expression[:1]
    assert torch.equal(cross_over(alone, fraction=0.9, generator=generator()), alone)
    assert torch.equal(mix_neighbors(alone, n_neighbors=3, weight=0.5, generator=generator()), alone)


# Thinning on all threads.


def test_threads_change_no_thinned_count(minibatch, monkeypatch):
    monkeypatch.setattr(kernels, "_WORTH_THREADS", 1)
    n_threads, found = torch.get_num_threads(), []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        found.append(dense(thin_counts(minibatch, keep_fraction=(0.2, 0.9), generator=generator())))
    torch.set_num_threads(n_threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("keep", [0.001, 0.25, 0.5, 0.999])
def test_counts_over_a_word_of_molecules_are_thinned_as_scipy_draws_them(keep):
    counts = np.tile([31, 32, 33, 64, 500], (5000, 1))
    thinned = dense(thin_counts(minibatch_of(counts), keep_fraction=keep, generator=generator()))
    for gene, count in enumerate(counts[0]):
        kept = np.arange(count + 1)
        expected = scipy.stats.binom.pmf(kept, count, keep) * 5000
        observed = np.bincount(thinned[:, gene].long().numpy(), minlength=count + 1)
        common = expected > 5
        rest = [[observed[~common].sum()], [max(expected[~common].sum(), 1e-9)]]
        found, hoped = np.append(observed[common], rest[0]), np.append(expected[common], rest[1])
        assert scipy.stats.chisquare(found, hoped * found.sum() / hoped.sum()).pvalue > 1e-4
    assert np.abs(np.corrcoef(thinned.numpy().T)[~np.eye(5, dtype=bool)]).max() < 0.06
