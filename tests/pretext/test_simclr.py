import math

import pytest
import torch

from selfcell.pretext.simclr import nt_xent


def written_out(first, second, temperature):
    views = [view / view.norm() for view in [*first, *second]]
    n_cells = len(first)
    total = 0
    for i, view in enumerate(views):
        other = (i + n_cells) % (2 * n_cells)
        below = sum(torch.exp(torch.dot(view, views[k]) / temperature) for k in range(2 * n_cells) if k != i)
        total = total - torch.log(torch.exp(torch.dot(view, views[other]) / temperature) / below)
    return total / (2 * n_cells)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("n_cells", [2, 6])
def test_loss_and_gradients_agree_with_the_written_out_formula(draw, agree, n_cells, temperature):
    first, second = draw(0, n_cells), draw(1, n_cells)
    agree(nt_xent(first, second, temperature=temperature), written_out(first, second, temperature), [first, second])


def test_the_views_may_change_places_and_the_cells_their_order(draw):
    first, second = draw(0), draw(1)
    loss = nt_xent(first, second, temperature=0.5)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(nt_xent(second, first, temperature=0.5), loss)
    torch.testing.assert_close(nt_xent(first[order], second[order], temperature=0.5), loss)
    assert nt_xent(first[order], second, temperature=0.5) != loss


def test_lengths_do_not_matter(draw):
    first, second = draw(0), draw(1)
    scaled = nt_xent(first * torch.arange(1, 7)[:, None], 5 * second, temperature=0.5)
    torch.testing.assert_close(scaled, nt_xent(first, second, temperature=0.5))


def test_collapsed_projections_cost_the_logarithm_of_the_candidates():
    same = torch.ones(4, 3, dtype=torch.float64)
    assert nt_xent(same, same, temperature=0.5).item() == pytest.approx(math.log(7))
