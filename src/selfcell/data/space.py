"""An embedding of any model, as it lies in obsm."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from selfcell.core.errors import InputError, did_you_mean


def obsm_space(obsm: Mapping[str, Any], key: str) -> Float[np.ndarray, "n_cells n_latent"]:
    """Give an embedding from ``obsm``.

    Raises
    ------
    InputError
        If there is no such key, or it does not hold a finite vector for each cell.
    """
    if key not in obsm:
        raise InputError(f"There is no obsm[{key!r}]. {did_you_mean(key, list(obsm))}")
    try:
        space = np.asarray(obsm[key], dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"obsm[{key!r}] must hold one vector of finite numbers for each cell ({error}).") from error
    if space.ndim != 2 or not np.isfinite(space).all():
        raise InputError(f"obsm[{key!r}] must hold one vector of finite numbers for each cell.")
    return space
