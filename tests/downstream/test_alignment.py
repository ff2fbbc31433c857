import numpy as np
import pytest
import torch

from selfcell.downstream.alignment import maximum_mean_discrepancy


def written_out(embedding, code, widths=(0.25, 0.5, 1.0, 2.0, 4.0)):
    """The same in float64, pair of cells by pair of cells."""
    squared = np.array([[((a - b) ** 2).sum() for b in embedding] for a in embedding])
    median = np.sort(squared.ravel())[(squared.size - 1) // 2]
    kernel = np.mean([np.exp(-squared / (2 * width * median)) for width in widths], axis=0)
    batches = np.unique(code)
    mean = {(a, b): kernel[np.ix_(code == a, code == b)].mean() for a in batches for b in batches}
    pairs = [(a, b) for a in batches for b in batches if a < b]
    return np.mean([mean[a, a] + mean[b, b] - 2 * mean[a, b] for a, b in pairs])


@pytest.mark.parametrize("n_batches", [2, 4])
def test_the_discrepancy_agrees_with_the_written_out_formula(rng, n_batches):
    embedding, code = rng.normal(size=(24, 5)), rng.integers(n_batches, size=24)
    found = maximum_mean_discrepancy(torch.from_numpy(embedding), torch.from_numpy(code), n_batches=n_batches + 1)
    assert found.item() == pytest.approx(written_out(embedding, code), rel=1e-10)


def test_its_gradient_agrees_with_differences(rng):
    embedding = torch.from_numpy(rng.normal(size=(8, 3))).requires_grad_()
    code = torch.tensor([0, 0, 1, 1, 1, 2, 2, 0])
    # The width is a constant to the gradient, as the median is that of the cells as they are.
    maximum_mean_discrepancy(embedding, code, n_batches=3).backward()
    squared = torch.cdist(embedding.detach(), embedding.detach()).square().numpy()
    median = np.sort(squared.ravel())[(squared.size - 1) // 2]

    def at(values):
        scaled = values / np.sqrt(median)
        pairs = ((scaled[:, None] - scaled[None]) ** 2).sum(axis=2)
        kernel = np.mean([np.exp(-pairs / (2 * width)) for width in (0.25, 0.5, 1.0, 2.0, 4.0)], axis=0)
        mean = np.array([[kernel[np.ix_(code == a, code == b)].mean() for b in range(3)] for a in range(3)])
        return np.mean([mean[a, a] + mean[b, b] - 2 * mean[a, b] for a, b in ((0, 1), (0, 2), (1, 2))])

    values, step = embedding.detach().numpy(), 1e-5
    for place in ((0, 0), (3, 2), (6, 1)):
        moved = [values.copy(), values.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        difference = (at(moved[0]) - at(moved[1])) / (2 * step)
        assert embedding.grad[place].item() == pytest.approx(difference, rel=1e-5)


def test_a_single_batch_and_batches_of_the_same_cells_have_none(rng):
    embedding = torch.from_numpy(rng.normal(size=(6, 2)))
    assert maximum_mean_discrepancy(embedding, torch.zeros(6, dtype=torch.int64), n_batches=2) == 0
    twice, code = torch.cat([embedding, embedding]), torch.arange(2).repeat_interleave(6)
    assert maximum_mean_discrepancy(twice, code, n_batches=2).item() == pytest.approx(0, abs=1e-12)


def test_cells_at_one_place_give_a_number_and_gradients():
    embedding = torch.ones(4, 3, requires_grad=True)
    value = maximum_mean_discrepancy(embedding, torch.tensor([0, 0, 1, 1]), n_batches=2)
    value.backward()
    assert value == 0 and torch.isfinite(embedding.grad).all()
