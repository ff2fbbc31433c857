"""A moving average of the weights, watched and kept in their place.

Lightning's own callback averages all parameters and buffers of the module. Here target networks are averages already,
and a queue's projections and a center belong to the steps that made them; so only what is trained is averaged, and the
running statistics of its batch norms.
"""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from selfcell.network.target import TargetNetwork

_BATCH_NORMS = (nn.BatchNorm1d, nn.SyncBatchNorm)


class WeightAverage(pl.Callback):
    r"""Follows the weights after each optimizer step: :math:`\bar\theta \leftarrow d \bar\theta + (1 - d) \theta`.

    In the place of the weights while the loss is watched. :math:`d` is the decay or, in the first steps, the lower
    :math:`(1 + n) / (10 + n)` after :math:`n` of them, so that the random weights at the start are soon forgotten.

    Parameters
    ----------
    decay
        Share of the average that a step leaves, below 1.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.n_steps = 0
        self.average: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """Give the average and how many steps it has followed."""
        return {"n_steps": self.n_steps, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up again."""
        self.n_steps = state_dict["n_steps"]
        self.average = state_dict["average"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the weights as they are, or bring what was loaded to where they are."""
        weights = trained_weights(pl_module)
        self.average = {
            name: self.average[name].to(weight.device) if self.average else weight.detach().clone()
            for name, weight in weights.items()
        }

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Follow the weights where a step of the optimizer has just been made."""
        if trainer.global_step == self.n_steps:
            return
        decay = min(self.decay, (1 + self.n_steps) / (10 + self.n_steps))
        self.n_steps = trainer.global_step
        for name, weight in trained_weights(pl_module).items():
            self.average[name].lerp_(weight, 1 - decay)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in the place of the weights."""
        self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the weights back."""
        self._swap(pl_module)

    @torch.no_grad()
    def _swap(self, module: pl.LightningModule) -> None:
        for name, weight in trained_weights(module).items():
            held = weight.clone()
            weight.copy_(self.average[name])
            self.average[name].copy_(held)


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """Give the parameters that are trained, and the running statistics of their batch norms, by name."""
    weights: dict[str, Tensor] = {
        name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad
    }
    targets = tuple(f"{name}." for name, it in module.named_modules() if isinstance(it, TargetNetwork))
    for name, part in module.named_modules():
        if isinstance(part, _BATCH_NORMS) and not f"{name}.".startswith(targets):
            weights |= {f"{name}.{kind}": getattr(part, kind) for kind in ("running_mean", "running_var")}
    return weights


def averaged_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Give the average that a checkpoint holds, by the names of its ``state_dict``; nothing if it has none."""
    weights: dict[str, Tensor] = checkpoint["callbacks"].get(WeightAverage.__qualname__, {}).get("average", {})
    return weights
