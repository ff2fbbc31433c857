"""LARS: momentum with steps in proportion to the norm of each weight."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class Lars(Optimizer):
    r"""Layer-wise adaptive rate scaling :cite:p:`you2017`, as Barlow Twins is trained with :cite:p:`zbontar2021`.

    For a weight :math:`w` with gradient :math:`g`, weight decay :math:`\lambda` and learning rate :math:`\gamma`,

    .. math:: u = g + \lambda w, \quad v \leftarrow \mu v + \eta \frac{\|w\|}{\|u\|} u, \quad w \leftarrow w - \gamma v,

    without the factor :math:`\eta \|w\| / \|u\|` where either norm is zero. Groups with ``adapt`` false (biases, norms)
    take plain steps with momentum.

    The paper's released code makes this optimizer anew in every step, so that its momentum :math:`v` never builds up;
    here it is kept, in checkpoints too.

    Parameters
    ----------
    parameters
        Parameters, or groups with ``lr``, ``weight_decay`` and ``adapt`` of their own.
    lr
        Learning rate.
    momentum
        :math:`\mu`.
    weight_decay
        :math:`\lambda`.
    trust
        :math:`\eta`.
    """

    def __init__(
        self,
        parameters: Any,
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        super().__init__(
            parameters,
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; gives what ``closure`` gives, where there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)
        return loss

    def _move(self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        update = gradient.add(weight, alpha=group["weight_decay"])
        if group["adapt"]:
            weight_norm, update_norm = weight.norm(), update.norm()
            scale = torch.where((weight_norm > 0) & (update_norm > 0), group["trust"] * weight_norm / update_norm, 1.0)
            update.mul_(scale)
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].mul_(group["momentum"]).add_(update)
        weight.sub_(state["momentum"], alpha=group["lr"])
