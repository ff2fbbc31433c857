"""Noise made of hashed bits: its distribution, that of the dense views, and that nothing but the seed changes it."""

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats
import torch

from selfcell.data.minibatch import SparseExpression
from selfcell.data.programs import GenePrograms
from selfcell.network import blockwise, kernels
from selfcell.network.blockwise import BlockwiseExpression
from selfcell.pretext.membership import ProgramMembership
from selfcell.pretext.noisy_views import GaussianNoise, HiddenGenes, HiddenPrograms, NegativeBinomialNoise, distort
from selfcell.pretext.views import add_gaussian_noise, add_negative_binomial_noise

N_GENES = 300


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def cells_of(n_cells=40, n_genes=N_GENES, density=0.1, value=None):
    matrix = sp.random(n_cells, n_genes, density, format="csr", random_state=0, dtype=np.float32)
    if value is not None:
        matrix.data[:] = value
    parts = (matrix.data, matrix.indices.astype(np.int32), matrix.indptr.astype(np.int64))
    return SparseExpression(*(torch.from_numpy(part) for part in parts), n_genes)


def membership():
    return ProgramMembership(GenePrograms(("a", "b"), (np.arange(0, 100), np.arange(90, 150)), N_GENES))


STEPS = {
    "negative binomial": lambda cells, source: [NegativeBinomialNoise(cells, strength=0.2, generator=source)],
    "gaussian": lambda cells, source: [GaussianNoise(cells, sigma=(0.1, 0.5), gene_fraction=0.8, generator=source)],
    "genes": lambda cells, source: [HiddenGenes(cells, fraction=0.4, rescale=True, generator=source)],
    "programs": lambda cells, source: [HiddenPrograms(cells, membership(), fraction=0.5, generator=source)],
    "all": lambda cells, source: [
        NegativeBinomialNoise(cells, strength=0.2, probability=0.5, generator=source),
        HiddenGenes(cells, fraction=0.4, rescale=True, probability=0.5, generator=source),
        GaussianNoise(cells, sigma=0.3, probability=0.5, generator=source),
        HiddenPrograms(cells, membership(), fraction=0.5, generator=source),
    ],
}


@pytest.fixture(params=list(STEPS))
def steps(request):
    return STEPS[request.param]


def one_by_one(cells, steps):
    """Take the steps on every entry of the dense cells, as if no entry were a zero."""
    dense = cells.dense().numpy()
    for step in steps:
        step.on_block(np.arange(len(dense)), 0, dense)
    return torch.from_numpy(dense)


def test_steps_on_sparse_cells_are_those_on_dense_ones(steps):
    cells = cells_of()
    drawn = steps(cells, generator())
    torch.testing.assert_close(distort(cells, drawn).dense(), one_by_one(cells, drawn), rtol=1e-6, atol=1e-6)


def test_cells_of_which_no_zero_changes_stay_sparse():
    cells = cells_of()
    assert isinstance(distort(cells, STEPS["genes"](cells, generator())), SparseExpression)
    noise = NegativeBinomialNoise(cells, strength=0.2, probability=0.3, generator=generator())
    view = distort(cells, [noise])
    assert isinstance(view, BlockwiseExpression) and 3 < len(view.cells) < 22
    untouched = np.setdiff1d(np.arange(40), view.cells)
    assert torch.equal(view.dense()[untouched], cells.dense()[untouched])
    assert distort(cells, []) is cells


def test_no_value_beyond_its_zero_is_negative(steps):
    cells = cells_of()
    view = distort(cells, steps(cells, generator()))
    assert ((view.sparse if isinstance(view, BlockwiseExpression) else view).values >= 0).all()


def test_neither_threads_nor_blocks_change_a_number(steps, monkeypatch):
    monkeypatch.setattr(kernels, "_WORTH_THREADS", 1)
    n_threads, cells, found = torch.get_num_threads(), cells_of(), []
    for number, at_once in ((1, 2**22), (2, 2**22), (3, 40), (1, 997)):
        torch.set_num_threads(number)
        monkeypatch.setattr(blockwise, "ENTRIES_AT_ONCE", at_once)
        found.append(distort(cells, steps(cells, generator(3))).dense())
    torch.set_num_threads(n_threads)
    assert all(torch.equal(view, found[0]) for view in found)
    assert not torch.equal(distort(cells, steps(cells, generator(4))).dense(), found[0])


def test_counts_of_the_noise_follow_the_closed_form_and_torchs_draws():
    """P(K >= k) = 10 / (k + 10), and counts drawn in two steps, as the paper's authors do."""
    cells = cells_of(400, 1000, density=0.0)
    noise = NegativeBinomialNoise(cells, strength=1.0, generator=generator())
    scale = noise.drawn[3]
    counts = (np.expm1(one_by_one(cells, [noise]).numpy().astype(np.float64)) / scale[:, None]).ravel()
    edges = np.array([0, 1, 2, 3, 5, 8, 12, 20, 40, 100, 1000, 10_000])
    expected = -np.diff([*(10 / (edges + 10)), 0.0]) * counts.size
    observed = np.histogram(counts + 0.25, [*edges, np.inf])[0]
    assert scipy.stats.chisquare(observed, expected).pvalue > 1e-3
    torch.manual_seed(0)
    probs = torch.rand(400_000, dtype=torch.float64).clamp(max=1 - 1e-9)
    two_steps = torch.distributions.NegativeBinomial(10, probs=probs).sample().numpy()
    table = [observed, np.histogram(two_steps, [*edges, np.inf])[0]]
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


def test_negative_binomial_noise_is_a_normalized_cell_times_its_strength():
    cells = cells_of(300, 500, density=0.0)
    noise = distort(cells, [NegativeBinomialNoise(cells, strength=(0.1, 0.3), generator=generator())]).dense().double()
    strength = torch.from_numpy(NegativeBinomialNoise(cells, strength=(0.1, 0.3), generator=generator()).drawn[2])
    assert 0.1 <= strength.min() < 0.12 and 0.28 < strength.max() <= 0.3
    totals = torch.expm1(noise / strength[:, None]).sum(dim=1)
    torch.testing.assert_close(totals, torch.full_like(totals, 10_000), rtol=1e-3, atol=0)
    assert scipy.stats.binomtest(int((noise == 0).sum()), noise.numel(), 1 / 11).pvalue > 1e-3


def test_genes_and_cells_draw_independently():
    cells = cells_of(400, 400, density=0.0)
    for step in (
        NegativeBinomialNoise(cells, strength=1.0, generator=generator()),
        GaussianNoise(cells, sigma=1.0, generator=generator()),
    ):
        noise = one_by_one(cells, [step]).numpy()
        high = (noise > np.median(noise, axis=1, keepdims=True)).astype(float) - 0.5
        for product in (high @ high.T, high.T @ high):
            off = product[~np.eye(400, dtype=bool)] / 400 * 4
            assert abs(off.mean()) < 0.01 and off.std() == pytest.approx(1 / 20, rel=0.1) and np.abs(off).max() < 0.3


def test_gaussian_noise_has_its_spread_and_its_share_of_genes():
    cells = cells_of(200, 2000, density=0.0)
    noise = GaussianNoise(cells, sigma=0.5, gene_fraction=0.8, generator=generator())
    block = np.full((200, 2000), 9.0, dtype=np.float32)
    noise.on_block(np.arange(200), 0, block)
    noisy = block[block != 9] - 9
    assert scipy.stats.binomtest(len(noisy), block.size, 0.8).pvalue > 1e-3
    assert scipy.stats.kstest(noisy, scipy.stats.norm(0, 0.5).cdf).pvalue > 1e-3
    assert one_by_one(cells, [noise]).min() == 0


@pytest.mark.parametrize(
    ("dense", "sparse", "arguments"),
    [
        (add_negative_binomial_noise, NegativeBinomialNoise, {"strength": (0.1, 0.3)}),
        (add_gaussian_noise, GaussianNoise, {"sigma": (0.1, 0.5), "gene_fraction": 0.7}),
    ],
)
@pytest.mark.parametrize("before", [0.0, 0.4])
def test_noise_is_distributed_as_that_of_the_dense_view(dense, sparse, arguments, before):
    """Of one gene a cell: those of a cell share its strength and its sum."""
    cells = cells_of(20_000, 20, density=float(before > 0), value=before)
    first = dense(cells.dense(), **arguments, probability=0.8, generator=generator(1))
    second = distort(cells, [sparse(cells, **arguments, probability=0.8, generator=generator(2))]).dense()
    # What no noise touched or what was raised to 0 is equal in many cells; the test compares these shares too.
    one_gene = [view[:, 7].numpy().round(5) for view in (first, second)]
    assert scipy.stats.ks_2samp(*one_gene).pvalue > 1e-3


def test_masks_after_noise_hide_their_share_and_whole_programs():
    cells = cells_of(2000, N_GENES, density=0.0)
    noise = GaussianNoise(cells, sigma=0.0, generator=generator())
    ones = np.ones((2000, N_GENES), dtype=np.float32)
    HiddenGenes(cells, fraction=0.3, rescale=True, generator=generator()).on_block(np.arange(2000), 0, ones)
    assert scipy.stats.binomtest(int((ones == 0).sum()), ones.size, 0.3).pvalue > 1e-3
    np.testing.assert_allclose(ones[ones > 0], 1 / 0.7, rtol=1e-6)
    ones[:] = 1
    HiddenPrograms(cells, membership(), fraction=0.3, generator=generator()).on_block(np.arange(2000), 0, ones)
    a, b = ones[:, 0] == 0, ones[:, 120] == 0
    assert np.array_equal(ones[:, :90] == 0, np.tile(a[:, None], 90)) and (ones[:, 150:] == 1).all()
    assert np.array_equal(ones[:, 95] == 0, a | b)
    assert scipy.stats.binomtest(int(a.sum()), 2000, 0.3).pvalue > 1e-3
    assert not noise.noisy.any()
