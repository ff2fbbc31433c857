"""A network that follows another one: the moving average that self-distillation learns from."""

import copy
import itertools
import math
from typing import cast

import torch
from torch import Tensor, nn

from selfcell.network.encoder import MlpEncoder
from selfcell.network.view_pair import View, ViewPair


class TargetNetwork(nn.Module):
    """A copy of a network that nothing moves but :meth:`update`.

    No gradient reaches it. Its batch norms normalize a training minibatch by the minibatch's own statistics, as the
    source's do, but leave their running statistics alone: these follow the source's. Dropout inside the copy works in
    training as it does in the source, so the target of a cell is noisy there; the papers' networks have no dropout.

    Parameters
    ----------
    source
        The network to copy and to follow.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(source).requires_grad_(requires_grad=False)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.momentum = 0.0

    @torch.no_grad()
    def forward(self, expression: View) -> Tensor:
        """Apply the network, without gradients."""
        output: Tensor = self.network(expression)
        return output

    @torch.no_grad()
    def of_both(self, views: ViewPair) -> tuple[Tensor, Tensor]:
        """Apply the network, an encoder with heads behind it, to two views: the heads to one after the other."""
        encoder, *heads = cast("nn.Sequential", self.network)
        behind = nn.Sequential(*heads)
        first, second = views.embedded(cast("MlpEncoder", encoder))
        return behind(first), behind(second)

    @torch.no_grad()
    def update(self, source: nn.Module, *, momentum: float) -> None:
        r"""Move towards the source: :math:`\xi \leftarrow m \xi + (1 - m) \theta`, for parameters and float buffers.

        Parameters
        ----------
        source
            The network that was copied, as it is after an optimizer step.
        momentum
            Share of the old value that is kept, between 0 and 1; 1 leaves the target as it is.
        """
        own = itertools.chain(self.network.parameters(), self.network.buffers())
        followed = itertools.chain(source.parameters(), source.buffers())
        pairs = list(zip(own, followed, strict=True))
        moved = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in moved], [theirs for _, theirs in moved], 1 - momentum)
        for mine, theirs in pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)


def cosine_momentum(start: float, progress: float) -> float:
    r"""Give BYOL's momentum, which rises from ``start`` to 1 along a half cosine :cite:p:`grill2020`.

    .. math:: m = 1 - (1 - m_0) \frac{\cos(\pi p) + 1}{2}

    Parameters
    ----------
    start
        Momentum :math:`m_0` at the first step.
    progress
        Share :math:`p` of the training that is done, between 0 and 1.
    """
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2
