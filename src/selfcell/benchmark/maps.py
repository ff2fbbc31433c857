"""Cells in two dimensions, for looking at."""

import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd

MAP_COLUMNS = ("space", "x", "y", "label", "batch")


def map_cells(spaces: Mapping[str, np.ndarray], *, label: np.ndarray, batch: np.ndarray) -> pd.DataFrame:
    """Lay out cells by UMAP, in each of several spaces.

    Parameters
    ----------
    spaces
        Name to cells x dimensions. With fewer than 10 cells there is no map.
    label, batch
        Type and batch of each cell.

    Returns
    -------
    One row a cell and space, with the columns of :data:`MAP_COLUMNS`.
    """
    tables = [
        pd.DataFrame({"space": name, "x": points[:, 0], "y": points[:, 1], "label": label, "batch": batch})
        for name, space in spaces.items()
        if len(points := _layout(space)) > 0
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(MAP_COLUMNS))


def _layout(space: np.ndarray) -> np.ndarray:
    if len(space) < 10:
        return np.empty((0, 2))
    with warnings.catch_warnings():
        # A seed makes UMAP run on one thread, and it says so.
        warnings.filterwarnings("ignore", message="n_jobs value")
        warnings.filterwarnings("ignore", message=".*Tensorflow.*", category=ImportWarning)
        from umap import UMAP  # noqa: PLC0415 - it takes seconds to import and compile, and only maps need it

        layout = UMAP(n_neighbors=min(15, len(space) - 1), n_epochs=200, random_state=0).fit_transform(space)
    return np.asarray(layout)
