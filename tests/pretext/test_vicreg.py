import pytest
import torch

from selfcell.pretext.vicreg import Vicreg, VicregSettings, covariance_between_units, lack_of_spread, vicreg_terms


def written_out(first, second):
    n_cells, n_units = first.shape
    cells, units = range(n_cells), range(n_units)
    invariance = sum((first[c, i] - second[c, i]) ** 2 for c in cells for i in units) / (n_cells * n_units)
    variance, covariance = 0, 0
    for z in (first, second):
        mean = [sum(z[c, i] for c in cells) / n_cells for i in units]
        for i in units:
            for j in units:
                c_ij = sum((z[c, i] - mean[i]) * (z[c, j] - mean[j]) for c in cells) / (n_cells - 1)
                if i == j:
                    lack = 1 - torch.sqrt(c_ij + 1e-4)
                    variance = variance + (lack if lack > 0 else 0 * lack) / n_units / 2
                else:
                    covariance = covariance + c_ij**2 / n_units
    return invariance, variance, covariance


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("n_cells", [2, 7])
def test_each_term_and_its_gradients_agree_with_the_written_out_formula(draw, agree, n_cells, place):
    first, second = draw(0, n_cells), draw(1, n_cells)
    agree(vicreg_terms(first, second)[place], written_out(first, second)[place], [first, second])


def test_the_loss_is_the_weighted_sum_of_the_logged_terms(encoder, minibatch):
    task = Vicreg(VicregSettings(), encoder=encoder)
    loss = task.compute_loss(minibatch, generator=torch.Generator().manual_seed(0))
    terms = loss.terms
    torch.testing.assert_close(loss.total, 25 * terms["invariance"] + 25 * terms["variance"] + 1 * terms["covariance"])


def test_spread_enough_and_uncorrelated_units_cost_nothing():
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert all(term == 0 for term in vicreg_terms(corners, corners))


def test_collapse_costs_the_whole_variance_term():
    assert lack_of_spread(torch.ones(5, 3)) == pytest.approx(0.99)


def test_units_that_say_the_same_cost_their_covariance():
    unit = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    assert covariance_between_units(unit.expand(4, 3)) == pytest.approx(6 * (4 / 3) ** 2 / 3)


def test_the_order_of_cells_does_not_matter(draw):
    first, second, order = draw(0), draw(1), torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(vicreg_terms(first[order], second[order]), vicreg_terms(first, second))
