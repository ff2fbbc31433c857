import pytest
import torch

from selfcell.data.loader import cell_loader
from selfcell.pretext.barlow_twins import BarlowTwins, BarlowTwinsSettings, cross_correlation, distance_from_identity


def loss_of(first, second, weight=0.0051):
    invariance, redundancy = distance_from_identity(cross_correlation(first, second))
    return invariance + weight * redundancy


def written_out(first, second, weight):
    n_cells, n_units = first.shape
    columns = []
    for projection in (first, second):
        standardized = []
        for i in range(n_units):
            mean = sum(projection[c, i] for c in range(n_cells)) / n_cells
            variance = sum((projection[c, i] - mean) ** 2 for c in range(n_cells)) / n_cells
            standardized.append([(projection[c, i] - mean) / torch.sqrt(variance + 1e-5) for c in range(n_cells)])
        columns.append(standardized)
    total = 0
    for i in range(n_units):
        for j in range(n_units):
            correlation = sum(columns[0][i][c] * columns[1][j][c] for c in range(n_cells)) / n_cells
            total = total + ((1 - correlation) ** 2 if i == j else weight * correlation**2)
    return total


@pytest.mark.parametrize("n_cells", [2, 7])
def test_loss_and_gradients_agree_with_the_written_out_formula(draw, agree, n_cells):
    first, second = draw(0, n_cells), draw(1, n_cells)
    agree(loss_of(first, second), written_out(first, second, 0.0051), [first, second])


def test_scale_and_shift_of_each_unit_do_not_matter(draw):
    first = draw(0, 50)
    other = first * torch.tensor([2.0, 0.5, 30.0, 1.0, 4.0]) + torch.tensor([4.0, -1.0, 0.0, 9.0, 2.0])
    torch.testing.assert_close(loss_of(first, first), loss_of(first, other), rtol=1e-4, atol=1e-4)


def test_a_unit_turned_around_is_as_wrong_as_can_be(draw):
    first = draw(0, 50, 1)
    assert loss_of(first, -first).item() == pytest.approx(4, abs=1e-3)


def test_the_order_of_cells_does_not_matter(draw):
    first, second = draw(0), draw(1)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(loss_of(first[order], second[order]), loss_of(first, second))


def test_a_unit_that_is_constant_correlates_with_nothing():
    assert torch.equal(cross_correlation(torch.ones(4, 3), torch.rand(4, 3)), torch.zeros(3, 3))


def test_the_correlation_is_that_of_the_cells_there_are(encoder, cells):
    """Released code divides by the size that was asked for, so small last minibatches had small correlations."""
    task = BarlowTwins(BarlowTwinsSettings(), encoder=encoder).eval()
    for n_cells in (3, 40):
        minibatch = next(iter(cell_loader(cells.counts, minibatch_size=n_cells)))
        first, _ = task.views(minibatch, generator=torch.Generator().manual_seed(0))
        diagonal = cross_correlation(projection := task.projector(task.encoder(first)), projection).diagonal()
        assert diagonal.max() > 0.9 and diagonal.max() <= 1 + 1e-5


def test_the_logged_parts_make_the_loss(encoder, minibatch):
    task = BarlowTwins(BarlowTwinsSettings(redundancy_weight=0.02), encoder=encoder)
    loss = task.compute_loss(minibatch, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss.total, loss.terms["invariance"] + 0.02 * loss.terms["redundancy"])
