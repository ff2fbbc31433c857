"""Small files of cells, and what an atlas holds, to compare."""

from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from selfcell.data.atlas.index import read_index

N_GENES = 40


def write_cells(
    path: Path, *, n_cells: int = 60, seed: int = 0, largest: int = 20, **columns: object
) -> anndata.AnnData:
    """Write an .h5ad with counts in every cell, a column of names and one of numbers."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, largest, size=(n_cells, N_GENES)) * (rng.random((n_cells, N_GENES)) < 0.3)
    counts[:, 0] = 1 + np.arange(n_cells) % 3
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical([f"kind{place % 3}" for place in range(n_cells)]),
            "size": counts.sum(axis=1) / 4,
            **columns,
        },
        index=[f"{path.stem}-{place}" for place in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"ENSG{place:011d}" for place in range(N_GENES)])
    adata = anndata.AnnData(X=sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)
    adata.write_h5ad(path)
    return adata


def cells_of_inputs(*adatas: anndata.AnnData) -> list[tuple[object, ...]]:
    """Give every cell as its name, obs and counts, sorted."""
    cells = []
    for adata in adatas:
        rows = zip(adata.obs_names, adata.obs["kind"], adata.obs["size"], adata.X.toarray(), strict=True)
        cells += [(str(name), str(kind), float(size), tuple(map(int, row))) for name, kind, size, row in rows]
    return sorted(cells)


def cells_of_atlas(atlas: Path) -> list[tuple[object, ...]]:
    """Give every cell of an atlas, read by anndata, likewise."""
    shards = [anndata.read_zarr(atlas / "shards" / shard.name) for shard in read_index(atlas).shards]
    return cells_of_inputs(*shards)


def checksums_of(atlas: Path) -> dict[str, dict[str, str]]:
    """Give the checksums of every shard by its name."""
    return {shard.name: shard.sha256 for shard in read_index(atlas).shards}


@pytest.fixture
def disk() -> SimpleNamespace:
    """The functions of this file."""
    return SimpleNamespace(
        write_cells=write_cells,
        cells_of_inputs=cells_of_inputs,
        cells_of_atlas=cells_of_atlas,
        checksums_of=checksums_of,
    )
