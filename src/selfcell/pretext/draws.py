"""The random numbers of views: drawn on the generator's device, given on that of the cells."""

import torch
from jaxtyping import Float
from torch import Tensor

Strength = float | tuple[float, float]
"""One strength for all cells, or the ends of a range from which each cell draws its own."""


def draw_strength(
    n_cells: int, strength: Strength, *, probability: float, like: Tensor, generator: torch.Generator
) -> Float[Tensor, "n_cells 1"]:
    """Toss each cell's coin and draw its strength.

    Parameters
    ----------
    n_cells
        Number of cells.
    strength
        One for all, or a range to draw from.
    probability
        That a coin says yes.
    like
        A tensor of the device and type to give.
    generator
        Source of randomness.

    Returns
    -------
    A strength per cell; 0 where the coin says no.
    """
    low, high = strength if isinstance(strength, tuple) else (strength, strength)
    coin, place = draw_uniform((2, n_cells, 1), like=like, generator=generator)
    return torch.where(coin < probability, low + (high - low) * place, 0.0)


def draw_uniform(shape: tuple[int, ...], *, like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from 0 to 1 (excluded), in single precision whatever the type, so that the type changes no draw.

    Parameters
    ----------
    shape
        Of what to draw.
    like
        A tensor of the device and type to give.
    generator
        Source of randomness.
    """
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32).to(like)
