"""Which genes to hide from the encoder. A mask is True where a gene is hidden."""

import torch
from jaxtyping import Bool


def draw_random_mask(
    n_cells: int, n_genes: int, mask_fraction: float, *, generator: torch.Generator
) -> Bool[torch.Tensor, "n_cells n_genes"]:
    """Hide each entry independently with probability ``mask_fraction``, on the generator's device.

    Parameters
    ----------
    n_cells, n_genes
        Shape of the mask.
    mask_fraction
        Probability that an entry is hidden, between 0 and 1.
    generator
        Source of randomness.
    """
    draws = torch.rand((n_cells, n_genes), generator=generator, device=generator.device)
    return draws < mask_fraction
