"""Loaders of others read a shard, where they are installed (annbatch takes Python 3.12: not in our set-up)."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import zarr

from selfcell.data.atlas.build import build_atlas
from selfcell.data.atlas.index import read_index


@pytest.fixture
def shard(disk: Any, tmp_path: Path) -> tuple[zarr.Group, np.ndarray]:
    disk.write_cells(tmp_path / "cells.h5ad")
    build_atlas([tmp_path / "cells.h5ad"], tmp_path / "atlas")
    path = tmp_path / "atlas" / "shards" / read_index(tmp_path / "atlas").shards[0].name
    return zarr.open_group(path, mode="r"), anndata.read_zarr(path).X.toarray()


def test_scdataset_reads_a_shard(shard):
    scdataset = pytest.importorskip("scdataset")
    group, counts = shard

    class Rows:
        matrix = anndata.io.sparse_dataset(group["X"])

        def __len__(self) -> int:
            return len(counts)

        def __getitem__(self, rows: np.ndarray) -> Any:
            return self.matrix[rows]

    loader = scdataset.scDataset(Rows(), scdataset.BlockShuffling(block_size=4), batch_size=8, fetch_factor=2, seed=0)
    read = np.concatenate([minibatch.toarray() for minibatch in loader])
    assert sorted(map(tuple, read)) == sorted(map(tuple, counts))


def test_annbatch_reads_a_shard(shard):
    annbatch = pytest.importorskip("annbatch")
    group, counts = shard
    loader = annbatch.Loader(batch_size=8, chunk_size=4, preload_nchunks=2, shuffle=True)
    loader.add_adata(anndata.AnnData(X=anndata.io.sparse_dataset(group["X"])))
    read = np.concatenate([minibatch["X"].toarray() for minibatch in loader])
    assert sorted(map(tuple, read)) == sorted(map(tuple, counts))
