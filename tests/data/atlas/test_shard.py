"""Tests of one shard on disk."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from selfcell.data.atlas.shard import checksums, write_shard
from selfcell.data.genes import GeneTable


def _write(path: Path, counts: sp.csr_matrix, **options: Any) -> tuple[pd.DataFrame, Any]:
    n_cells, n_genes = counts.shape
    codes = np.arange(n_cells) % 3 - 1
    obs = pd.DataFrame(
        {"kind": pd.Categorical.from_codes(codes, ["B", "T"]), "size": np.arange(n_cells) / 4},
        index=[f"cell{place}" for place in range(n_cells)],
    )
    genes = GeneTable(tuple(f"ENSG{place:011d}" for place in range(n_genes)), ("",) * n_genes)
    parts = {"cell_offsets": counts.indptr, "gene_index": counts.indices, "values": counts.data}
    return obs, write_shard(path, **parts, obs=obs, genes=genes, **options)


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_anndata_opens_a_shard(tmp_path: Path, codec: str) -> None:
    counts = sp.random(40, 30, density=0.2, format="csr", random_state=0)
    counts.data = np.rint(counts.data * 10 + 1)
    obs, entry = _write(tmp_path / "000000.zarr", counts, codec=codec)
    read = anndata.read_zarr(tmp_path / "000000.zarr")
    np.testing.assert_array_equal(read.X.toarray(), counts.toarray())
    assert read.X.indices.dtype == np.uint16
    pd.testing.assert_frame_equal(read.obs, obs, check_names=False)
    assert (entry.n_cells, entry.n_values) == (40, counts.nnz)


@pytest.mark.parametrize(
    ("largest", "dtype"), [(255, "uint8"), (256, "uint16"), (65_535, "uint16"), (65_536, "uint32")]
)
def test_counts_take_the_narrowest_type(tmp_path: Path, largest: int, dtype: str) -> None:
    counts = sp.csr_matrix(np.array([[1, 0, largest]]))
    assert _write(tmp_path / "000000.zarr", counts)[1].values_dtype == dtype
    assert anndata.read_zarr(tmp_path / "000000.zarr").X.toarray().tolist() == [[1, 0, largest]]


def test_many_genes_take_a_wider_index(tmp_path: Path) -> None:
    counts = sp.csr_matrix(([5], ([0], [70_000])), shape=(1, 70_001))
    _write(tmp_path / "000000.zarr", counts)
    read = anndata.read_zarr(tmp_path / "000000.zarr")
    assert (read.X.indices.dtype, read.X.indices.tolist()) == (np.uint32, [70_000])


def test_checksums_tell_a_flipped_byte(tmp_path: Path) -> None:
    _, entry = _write(tmp_path / "000000.zarr", sp.csr_matrix(np.eye(4)))
    assert checksums(tmp_path / "000000.zarr") == entry.sha256
    file = tmp_path / "000000.zarr/X/data/c/0"
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    changed = {name for name, digest in checksums(tmp_path / "000000.zarr").items() if digest != entry.sha256[name]}
    assert changed == {"X/data/c/0"}


def test_a_failed_writer_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("selfcell.data.atlas.shard._write_frames", fail)
    with pytest.raises(OSError, match="No space"):
        _write(tmp_path / "000000.zarr", sp.csr_matrix(np.eye(4)))
    assert not list(tmp_path.iterdir())


def test_a_cell_without_counts_and_a_shard_without_any(tmp_path: Path) -> None:
    _write(tmp_path / "000000.zarr", sp.csr_matrix((3, 5)))
    assert anndata.read_zarr(tmp_path / "000000.zarr").X.nnz == 0
