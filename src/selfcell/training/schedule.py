"""The optimizer and how its learning rate changes."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from selfcell.training.adamw import AdamW
from selfcell.training.lars import Lars
from selfcell.training.settings import TrainingSettings

_END_OF_COSINE = 0.001


def make_optimizer(parameters: Iterable[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    """Make the optimizer that the settings ask for, over the parameters that are to be trained."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if settings.optimizer == "adamw":
        return AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    weights = [parameter for parameter in trained if parameter.ndim > 1]
    biases = [parameter for parameter in trained if parameter.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": settings.weight_decay},
        {"params": biases, "lr": settings.bias_learning_rate or settings.learning_rate, "adapt": False},
    ]
    return Lars([group for group in groups if group["params"]], lr=settings.learning_rate, momentum=settings.momentum)


def learning_rate_factor(step: int, settings: TrainingSettings, *, steps_per_epoch: int) -> float:
    """Give the factor on the learning rate at an optimizer step.

    Parameters
    ----------
    step
        Optimizer steps made so far.
    settings
        Schedule, warm-up and number of epochs.
    steps_per_epoch
        Optimizer steps in an epoch.
    """
    epoch = step / steps_per_epoch
    if epoch < settings.warmup_epochs:
        # The first step is not 0 already: it would do nothing.
        return (step + 1) / (settings.warmup_epochs * steps_per_epoch)
    if settings.schedule == "cosine":
        progress = min(1.0, (epoch - settings.warmup_epochs) / (settings.max_epochs - settings.warmup_epochs))
        return _END_OF_COSINE + (1 - _END_OF_COSINE) * (1 + math.cos(math.pi * progress)) / 2
    return float(
        settings.learning_rate_decay ** ((math.floor(epoch) - settings.warmup_epochs) // settings.decay_every_epochs)
    )
