"""The optimizer and how its learning rate changes."""

import logging
import math
from collections.abc import Iterable

import torch
from torch import nn

from selfcell.training.adamw import AdamW
from selfcell.training.lars import Lars
from selfcell.training.settings import TrainingSettings

_END_OF_COSINE = 0.001
logger = logging.getLogger(__name__)

_USUAL_STEP = 256
"""Cells of the optimizer step that the default learning rate is made for."""


def make_optimizer(parameters: Iterable[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    """Make the optimizer that the settings ask for, over the parameters that are to be trained."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    scale = learning_rate_scale(settings)
    rate = settings.learning_rate * scale
    if scale != 1:
        logger.info(
            "The learning rate is %.3g: training.learning_rate=%g for steps of %s cells instead of %d (%s).",
            rate,
            settings.learning_rate,
            f"{settings.cells_per_step:,}",
            _USUAL_STEP,
            settings.scale_learning_rate,
        )
    if settings.optimizer == "adamw":
        return AdamW(trained, lr=rate, weight_decay=settings.weight_decay, fused=True)
    weights = [parameter for parameter in trained if parameter.ndim > 1]
    biases = [parameter for parameter in trained if parameter.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": settings.weight_decay},
        {"params": biases, "lr": (settings.bias_learning_rate or settings.learning_rate) * scale, "adapt": False},
    ]
    return Lars([group for group in groups if group["params"]], lr=rate, momentum=settings.momentum)


def learning_rate_scale(settings: TrainingSettings) -> float:
    """Give the factor on the learning rates for the cells of an optimizer step: 1 for 256 of them.

    Linear as :cite:t:`you2017` have it, or the root, as is usual with optimizers that scale the gradient themselves.
    """
    if settings.scale_learning_rate == "none":
        return 1.0
    share = settings.cells_per_step / _USUAL_STEP
    return share if settings.scale_learning_rate == "linear" else math.sqrt(share)


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
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    if step < warmup:
        # The first step is not 0 already: it would do nothing.
        return (step + 1) / warmup
    if settings.schedule == "cosine":
        progress = min(1.0, (step - warmup) / max(1, settings.max_epochs * steps_per_epoch - warmup))
        return _END_OF_COSINE + (1 - _END_OF_COSINE) * (1 + math.cos(math.pi * progress)) / 2
    return float(settings.learning_rate_decay ** ((step - warmup) // (settings.decay_every_epochs * steps_per_epoch)))
