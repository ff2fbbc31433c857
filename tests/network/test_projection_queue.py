import torch

from selfcell.network.projection_queue import ProjectionQueue


def rows(*angles):
    angles = torch.tensor(angles)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def contents(queue):
    """Oldest first, as angles."""
    ordered = torch.roll(queue.projections, -int(queue.place), dims=0)
    return [round(float(torch.atan2(row[1], row[0])), 4) for row in ordered]


def test_it_starts_with_random_unit_vectors_of_the_global_generator():
    torch.manual_seed(0)
    first = ProjectionQueue(size=50, n_units=4).projections
    torch.manual_seed(0)
    assert torch.equal(first, ProjectionQueue(size=50, n_units=4).projections)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(50))
    assert first.mean(dim=0).norm() < 0.3


def test_the_oldest_go_first_whatever_comes_at_once():
    queue, expected = ProjectionQueue(size=5, n_units=2), []
    for angles in ([0.1, 0.2], [0.3, 0.4, 0.5], [0.6, 0.7], [0.8], [0.9, 1.0, 1.1, 1.2], [1.3]):
        queue.enqueue(3 * rows(*angles))
        expected = (expected + angles)[-5:]
        if len(expected) == 5:
            assert contents(queue) == expected


def test_of_more_than_fit_the_last_stay():
    queue = ProjectionQueue(size=3, n_units=2)
    queue.enqueue(rows(0.1))
    queue.enqueue(rows(0.2, 0.3, 0.4, 0.5, 0.6))
    assert contents(queue) == [0.4, 0.5, 0.6]


def test_the_state_resumes_exactly():
    queue, resumed = ProjectionQueue(size=4, n_units=2), ProjectionQueue(size=4, n_units=2)
    queue.enqueue(rows(0.1, 0.2, 0.3))
    resumed.load_state_dict(queue.state_dict())
    for each in (queue, resumed):
        each.enqueue(rows(0.4, 0.5))
    assert torch.equal(queue.projections, resumed.projections) and torch.equal(queue.place, resumed.place)


def test_it_keeps_no_graph():
    queue = ProjectionQueue(size=4, n_units=2)
    queue.enqueue(rows(0.1, 0.2).requires_grad_())
    assert not queue.projections.requires_grad
