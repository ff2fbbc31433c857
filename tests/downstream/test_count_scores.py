"""Distributions of counts against scipy and the package's likelihoods, scores against loops over cells and genes."""

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from selfcell.core.errors import InputError
from selfcell.downstream.count_distribution import CountDistribution
from selfcell.downstream.count_scores import COUNT_SCORES, CountTotals
from selfcell.network.likelihoods import make_likelihood

KINDS = ["poisson", "negative_binomial", "zero_inflated_negative_binomial"]


def draw(kind, seed=0, *, n_cells=30, n_genes=5):
    """Draw a distribution and counts from it."""
    rng = np.random.default_rng(seed)
    mean = np.exp(rng.normal(0.5, 1.0, size=(n_cells, n_genes)))
    theta, extra_zero = np.exp(rng.uniform(-2, 3, size=n_genes)), rng.uniform(0.05, 0.6, size=(n_cells, n_genes))
    rate = mean if kind == "poisson" else rng.gamma(np.broadcast_to(theta, mean.shape), mean / theta)
    counts = rng.poisson(rate).astype(float)
    if kind.startswith("zero"):
        counts[rng.random(counts.shape) < extra_zero] = 0
        return CountDistribution(mean, theta, scipy.special.logit(extra_zero)), counts
    return CountDistribution(mean, None if kind == "poisson" else theta), counts


def test_a_gene_that_is_all_but_surely_off_has_a_probability_in_logarithms():
    logit, mean, theta = 60.0, 1.3, 2.0
    distribution = CountDistribution(np.full((1, 2), mean), np.full(2, theta), np.full((1, 2), logit))
    off, on = distribution.log_probability(np.array([[0.0, 1.0]]))[0]
    assert off == pytest.approx(0.0, abs=1e-12)
    assert on == pytest.approx(-logit + scipy.stats.nbinom(theta, theta / (theta + mean)).logpmf(1), rel=1e-9)


def test_cells_of_which_nothing_is_scored_are_no_cells():
    distribution, counts = draw("negative_binomial", n_cells=5)
    mask = np.ones(counts.shape, dtype=bool)
    mask[3:] = False
    totals = CountTotals(n_genes=5, n_units=1)
    totals.add(counts, distribution, np.zeros(5, dtype=int), mask=mask)
    expected = distribution.log_probability(counts)[:3].sum() / 3
    assert totals.scores()["log_likelihood_per_cell"][0] == pytest.approx(expected)


def of_scipy(distribution):
    if distribution.inverse_dispersion is None:
        return scipy.stats.poisson(distribution.mean)
    theta = distribution.inverse_dispersion
    return scipy.stats.nbinom(theta, theta / (theta + distribution.mean))


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_scipys(kind):
    distribution, counts = draw(kind)
    share = 0.0 if distribution.extra_zero is None else distribution.extra_zero
    plain = of_scipy(distribution)
    zero = share + (1 - share) * plain.pmf(0)
    expected = np.where(counts == 0, np.log(zero), np.log1p(-share) + plain.logpmf(counts))
    np.testing.assert_allclose(distribution.log_probability(counts), expected, rtol=1e-9)
    np.testing.assert_allclose(distribution.zero_probability(), zero, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_mean_what_the_likelihoods_take_them_for(kind):
    generator = torch.Generator().manual_seed(0)
    likelihood = make_likelihood(kind, n_genes=5).double()
    outputs = 3 * torch.randn((8, 5 * likelihood.outputs_per_gene), generator=generator, dtype=torch.float64)
    counts = torch.randint(0, 9, (8, 5), generator=generator).double()
    library_size = torch.randint(1_000, 9_000, (8,), generator=generator).double()
    log_theta = None
    if kind != "poisson":
        with torch.no_grad():
            likelihood.log_inverse_dispersion.copy_(torch.linspace(-3, 20, 5, dtype=torch.float64))
        log_theta = likelihood.log_theta.detach().numpy()
    distribution = CountDistribution.of_outputs(outputs.numpy(), library_size.numpy(), log_inverse_dispersion=log_theta)
    expected = -likelihood(outputs, counts, library_size).detach().numpy()
    np.testing.assert_allclose(distribution.log_probability(counts.numpy()), expected, rtol=1e-7, atol=1e-7)


def test_a_cell_without_counts_is_certain_to_have_none():
    for theta in (None, np.zeros(2)):
        empty = CountDistribution.of_outputs(np.ones((1, 2)), np.zeros(1), log_inverse_dispersion=theta)
        assert (empty.log_probability(np.zeros((1, 2))) == 0).all()


@given(st.sampled_from(KINDS), st.integers(0, 10_000))
def test_scores_are_means_over_cells_entries_and_genes(kind, seed):
    distribution, counts = draw(kind, seed)
    mask = np.random.default_rng(seed).random(counts.shape) < 0.7
    totals = CountTotals(n_genes=5, n_units=1)
    totals.add(counts, distribution, np.zeros(30, dtype=int), mask=mask)
    log_probability, zero = distribution.log_probability(counts), distribution.zero_probability()
    off = [abs((x[m] == 0).mean() - p[m].mean()) for x, p, m in zip(counts.T, zero.T, mask.T, strict=True) if m.any()]
    expected = {
        "log_likelihood_per_cell": np.where(mask, log_probability, 0).sum(axis=1)[mask.any(axis=1)].mean(),
        "log_likelihood_per_entry": log_probability[mask].mean(),
        "zero_calibration_error": np.mean(off),
    }
    found = totals.scores()
    assert tuple(found) == COUNT_SCORES
    assert {name: value[0] for name, value in found.items()} == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_and_weights_are_cells_taken_again(kind):
    distribution, counts = draw(kind)
    unit_code, times = np.arange(30) % 3, np.array([2, 0, 1])

    def rows_of(rows):
        part = distribution.extra_zero
        return CountDistribution(
            distribution.mean[rows], distribution.inverse_dispersion, None if part is None else part[rows]
        )

    totals, again = CountTotals(n_genes=5, n_units=3), CountTotals(n_genes=5, n_units=1)
    for rows in np.split(np.arange(30), [7, 8, 21]):
        totals.add(sp.csr_matrix(counts[rows]), rows_of(rows), unit_code[rows])
    rows = np.repeat(np.arange(30), times[unit_code])
    again.add(counts[rows], rows_of(rows), np.zeros(len(rows), dtype=int))
    drawn = totals.scores(times[None].astype(float))
    for name, value in again.scores().items():
        np.testing.assert_allclose(drawn[name], value, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("mean", [0.0, np.nan])
def test_a_count_that_was_given_no_probability_is_refused(mean):
    distribution, counts = draw("poisson")
    distribution.mean[:, 2], counts[:, 2] = mean, 1.0
    with pytest.raises(InputError, match=r"30 counts have a predicted probability of 0 or none at all.*means above 0"):
        CountTotals(n_genes=5, n_units=1).add(counts, distribution, np.zeros(30, dtype=int))


def test_predictions_of_other_cells_are_refused():
    distribution, counts = draw("poisson")
    with pytest.raises(ValueError, match=r"\(29, 5\) counts, but predictions of \(30, 5\)"):
        CountTotals(n_genes=5, n_units=1).add(counts[1:], distribution, np.zeros(29, dtype=int))
