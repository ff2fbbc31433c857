"""A queue of the projections of past minibatches."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class ProjectionQueue(nn.Module):
    """The last ``size`` projections, at unit length; the oldest go first.

    It is filled with random directions at first. Both buffers are part of the state, so that a resumed training finds
    the queue as it was.

    Parameters
    ----------
    size
        Projections to keep.
    n_units
        Width of a projection.
    """

    projections: Tensor
    """Directions, size x n_units."""
    place: Tensor
    """Row of the oldest one, an integer."""

    def __init__(self, *, size: int, n_units: int) -> None:
        super().__init__()
        self.register_buffer("projections", functional.normalize(torch.randn(size, n_units), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, projection: Float[Tensor, "n_cells n_units"]) -> None:
        """Put projections in the place of the oldest; of more than fit, the last ones stay."""
        size = self.projections.shape[0]
        kept = functional.normalize(projection, dim=1)[-size:]
        rows = (self.place + torch.arange(kept.shape[0], device=self.place.device)) % size
        self.projections[rows] = kept.to(self.projections.dtype)
        self.place.copy_((self.place + kept.shape[0]) % size)
