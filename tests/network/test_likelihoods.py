"""Likelihoods against scipy and torch.distributions, values and gradients."""

import numpy as np
import pytest
import scipy.stats
import torch
import torch.distributions as td

from selfcell.network.likelihoods import make_likelihood


@pytest.fixture
def drawn():
    """Outputs for 6 cells x 5 genes (twice as many for the second parameter), counts and library sizes."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn((6, 10), generator=generator, dtype=torch.float64) * 3
    truth = torch.randint(0, 12, (6, 5), generator=generator).double() * (torch.rand(6, 5, generator=generator) < 0.6)
    library_size = torch.randint(2_000, 9_000, (6,), generator=generator).double()
    return outputs, truth, library_size


def dispersed(name):
    likelihood = make_likelihood(name, n_genes=5).double()
    with torch.no_grad():
        likelihood.log_inverse_dispersion.copy_(torch.linspace(-2, 3, 5, dtype=torch.float64))
    return likelihood


def mean_of(outputs, library_size):
    return torch.log1p(torch.exp(outputs[:, :5])) * library_size[:, None] / 10_000


def test_squared_error_is_of_identity_softplus_or_sigmoid(drawn):
    outputs, truth, library_size = drawn
    plain = make_likelihood("squared_error", n_genes=5)(outputs[:, :5], truth, library_size)
    torch.testing.assert_close(plain, (outputs[:, :5] - truth) ** 2)
    positive = make_likelihood("squared_error", n_genes=5, output="softplus")(outputs[:, :5], truth, library_size)
    torch.testing.assert_close(positive, (torch.log1p(torch.exp(outputs[:, :5])) - truth) ** 2)
    bounded = make_likelihood("squared_error", n_genes=5, output="sigmoid")(outputs[:, :5], truth, library_size)
    torch.testing.assert_close(bounded, (1 / (1 + torch.exp(-outputs[:, :5])) - truth) ** 2)


def test_poisson_agrees_with_scipy(drawn):
    outputs, truth, library_size = drawn
    loss = make_likelihood("poisson", n_genes=5)(outputs[:, :5], truth, library_size)
    expected = -scipy.stats.poisson.logpmf(truth.numpy(), mean_of(outputs, library_size).numpy())
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-9)


def test_the_negative_binomial_agrees_with_scipy(drawn):
    outputs, truth, library_size = drawn
    likelihood = dispersed("negative_binomial")
    loss = likelihood(outputs[:, :5], truth, library_size)
    theta, mean = np.exp(np.linspace(-2, 3, 5)), mean_of(outputs, library_size).numpy()
    expected = -scipy.stats.nbinom.logpmf(truth.numpy(), theta, theta / (theta + mean))
    np.testing.assert_allclose(loss.detach().numpy(), expected, rtol=1e-8)


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_expected_counts_are_the_mean_at_the_cells_depth(drawn, name):
    outputs, _, library_size = drawn
    expected = make_likelihood(name, n_genes=5).expected(outputs[:, :5], library_size)
    torch.testing.assert_close(expected, mean_of(outputs, library_size))


def test_expected_counts_of_a_zero_inflated_likelihood_take_its_zeros_in(drawn):
    outputs, _, library_size = drawn
    likelihood = dispersed("zero_inflated_negative_binomial")
    support = torch.arange(20_000, dtype=torch.float64)
    n_values = len(support)
    first, depth = outputs[:1].expand(n_values, -1), library_size[:1].expand(n_values)
    probability = torch.exp(-likelihood(first, support[:, None].expand(-1, 5), depth))
    mean = (probability * support[:, None]).sum(dim=0)
    torch.testing.assert_close(likelihood.expected(outputs[:1], library_size[:1])[0], mean, rtol=1e-4, atol=1e-8)


def test_expected_expression_is_what_the_squared_error_compares(drawn):
    outputs, truth, library_size = drawn
    for output in ("identity", "softplus", "sigmoid"):
        likelihood = make_likelihood("squared_error", n_genes=5, output=output)
        expected = likelihood.expected(outputs[:, :5], library_size)
        torch.testing.assert_close((expected - truth) ** 2, likelihood(outputs[:, :5], truth, library_size))


def test_the_negative_binomial_has_the_moments_that_it_names(drawn):
    outputs, _, library_size = drawn
    likelihood = dispersed("negative_binomial")
    support = torch.arange(4000, dtype=torch.float64)
    mean = mean_of(outputs, library_size)[0]
    theta = likelihood.log_inverse_dispersion.exp()
    probability = torch.exp(-likelihood.negative_log(mean.log().expand(4000, 5), support[:, None].expand(4000, 5)))
    first = (probability * support[:, None]).sum(dim=0)
    second = (probability * support[:, None] ** 2).sum(dim=0)
    torch.testing.assert_close(probability.sum(dim=0), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(first, mean)
    torch.testing.assert_close(second - first**2, mean + mean**2 / theta)


@pytest.mark.parametrize("name", ["poisson", "negative_binomial", "zero_inflated_negative_binomial"])
def test_gradients_agree_with_those_of_torchs_distributions(name, drawn):
    outputs, truth, library_size = drawn
    zero_inflated = name.startswith("zero")
    outputs = (outputs if zero_inflated else outputs[:, :5]).clone().requires_grad_()
    likelihood = make_likelihood(name, n_genes=5).double() if name == "poisson" else dispersed(name)
    wanted = [outputs, *likelihood.parameters()]
    mean = mean_of(outputs, library_size)
    if name == "poisson":
        log_probability = td.Poisson(mean).log_prob(truth)
    else:
        theta = likelihood.log_inverse_dispersion.exp()
        counted = td.NegativeBinomial(total_count=theta, logits=mean.log() - theta.log())
        log_probability = counted.log_prob(truth)
    if zero_inflated:
        share = torch.sigmoid(outputs[:, 5:])
        probability = (1 - share) * log_probability.exp()
        log_probability = torch.where(truth == 0, share + probability, probability).log()
    expected = torch.autograd.grad(-log_probability.sum(), wanted, retain_graph=True)
    loss = likelihood(outputs, truth, library_size)
    torch.testing.assert_close(loss, -log_probability)
    for found, by_torch in zip(torch.autograd.grad(loss.sum(), wanted), expected, strict=True):
        torch.testing.assert_close(found, by_torch, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["poisson", "negative_binomial", "zero_inflated_negative_binomial"])
def test_extreme_outputs_keep_losses_and_gradients_finite(name):
    likelihood = make_likelihood(name, n_genes=2)
    outputs = torch.tensor([[-200.0, 1e6] * likelihood.outputs_per_gene], requires_grad=True)
    loss = likelihood(outputs, torch.tensor([[5.0, 0.0]]), torch.tensor([3000.0])).sum()
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize("log_theta", [-12.0, -4.0, 0.0, 3.4, 3.5, 8.0, 12.0, 15.0])
def test_single_precision_agrees_with_double_whatever_the_dispersion(log_theta):
    """The reference is written with gamma functions in double precision; beyond that, Poisson is the limit."""
    outputs = torch.tensor([[-17.0, 0.5, 3.0, 40.0, 900.0]])
    truth = torch.tensor([[0.0, 1.0, 5.0, 30.0, 400.0]])
    library_size = torch.tensor([4_000.0])
    found = {}
    for dtype in (torch.float32, torch.float64):
        likelihood = make_likelihood("negative_binomial", n_genes=5).to(dtype)
        torch.nn.init.constant_(likelihood.log_inverse_dispersion, log_theta)
        given = outputs.detach().to(dtype).requires_grad_()
        loss = likelihood(given, truth.to(dtype), library_size.to(dtype))
        gradients = torch.autograd.grad(loss.sum(), [given, likelihood.log_inverse_dispersion])
        found[dtype] = [loss.detach(), *gradients]
    for single, double in zip(found[torch.float32], found[torch.float64], strict=True):
        torch.testing.assert_close(single.double(), double, rtol=2e-4, atol=1e-4)
    mean = np.logaddexp(0, outputs.detach().double().numpy()) * 0.4
    theta = np.exp(log_theta)
    expected = -scipy.stats.nbinom.logpmf(truth.numpy(), theta, theta / (theta + mean))
    np.testing.assert_allclose(found[torch.float64][0].numpy(), expected, rtol=1e-6, atol=1e-6)


def test_a_mean_that_has_become_tiny_can_come_back():
    outputs = torch.tensor([[-30.0]], requires_grad=True)
    make_likelihood("poisson", n_genes=1)(outputs, torch.tensor([[5.0]]), torch.tensor([3_000.0])).backward()
    assert outputs.grad.item() == pytest.approx(-5.0, rel=1e-3)


def test_the_best_mean_is_that_of_the_counts():
    """A shared rate is learned as counts per 10,000, whatever the library sizes."""
    generator = torch.Generator().manual_seed(1)
    library_size = torch.randint(1_000, 20_000, (4000,), generator=generator).float()
    truth = torch.poisson(library_size[:, None] * 7.0 / 10_000, generator=generator)
    for name in ("poisson", "negative_binomial"):
        likelihood = make_likelihood(name, n_genes=1)
        output = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.Adam([output, *likelihood.parameters()], lr=0.2)
        for _ in range(150):
            optimizer.zero_grad()
            likelihood(output.expand(4000, 1), truth, library_size).mean().backward()
            optimizer.step()
        assert abs(torch.nn.functional.softplus(output).item() - 7.0) < 0.15


@pytest.mark.parametrize("name", ["poisson", "negative_binomial", "zero_inflated_negative_binomial"])
def test_a_cell_without_counts_costs_nothing_and_teaches_nothing(name):
    likelihood = make_likelihood(name, n_genes=3)
    outputs = torch.ones(1, 3 * likelihood.outputs_per_gene, requires_grad=True)
    loss = likelihood(outputs, torch.zeros(1, 3), torch.zeros(1))
    assert loss.abs().max() < 1e-30
    assert torch.autograd.grad(loss.sum(), outputs)[0].abs().max() < 1e-30
