"""Reading an atlas: every cell as anndata reads it, in any order, and damage said in words."""

import gc
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfcell.core.errors import InputError
from selfcell.data.atlas import rows as atlas_rows
from selfcell.data.atlas.build import append_to_atlas, build_atlas
from selfcell.data.atlas.cells import open_atlas
from selfcell.data.atlas.index import read_index
from selfcell.data.buffers import BufferPool
from selfcell.data.streamed import StreamedCells

CODECS = ["none", "lz4", "zstd"]


@pytest.fixture(scope="module")
def atlases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same cells, compressed in each way, in shards of about 40."""
    folder = tmp_path_factory.mktemp("atlases")
    rng = np.random.default_rng(0)
    for name, n_cells, largest in (("a", 90, 9), ("b", 60, 90_000)):
        counts = rng.integers(1, largest, size=(n_cells, 30)) * (rng.random((n_cells, 30)) < 0.3)
        counts[:, 0] = 1 + np.arange(n_cells) % 3
        adata = anndata.AnnData(X=sp.csr_matrix(counts.astype(np.float32)))
        adata.obs_names = [f"{name}{place}" for place in range(n_cells)]
        adata.var_names = [f"ENSG{place:011d}" for place in range(30)]
        adata.obs["file"] = name
        adata.obs["only"] = "one"
        adata.obs["size"] = counts.sum(axis=1) / 2
        adata.obs["kind"] = [f"kind {place % 4}" for place in range(n_cells)]
        adata.obs.loc[adata.obs_names[::9], "kind"] = np.nan
        adata.obs = adata.obs.astype({"file": "category", "only": "category", "kind": "category"})
        adata.write_h5ad(folder / f"{name}.h5ad")
    for codec in CODECS:
        build_atlas([folder / "a.h5ad", folder / "b.h5ad"], folder / codec, codec=codec, shard_cells=40)
    return {codec: folder / codec for codec in CODECS}


def of_anndata(atlas: Path) -> anndata.AnnData:
    shards = [anndata.read_zarr(atlas / "shards" / shard.name) for shard in read_index(atlas).shards]
    return anndata.concat(shards)


def read(cells: StreamedCells, rows: np.ndarray) -> np.ndarray:
    """Read cells by position into a dense matrix."""
    buffer = cells.rows.read(rows, BufferPool())
    shape = (len(buffer.cell_offsets) - 1, cells.rows.n_genes)
    found = sp.csr_matrix((buffer.values.astype(np.float64), buffer.gene_index, buffer.cell_offsets), shape=shape)
    return found.toarray()[buffer.locate(rows)]


@pytest.mark.parametrize("codec", CODECS)
def test_every_cell_is_read_as_anndata_reads_it(atlases: dict[str, Path], codec: str) -> None:
    cells, expected = open_atlas(atlases[codec]), of_anndata(atlases[codec])
    assert len(cells) == len(cells.rows) == 150 and len(cells.rows.boundaries) > 3
    np.testing.assert_array_equal(read(cells, np.arange(150)), expected.X.toarray())
    assert list(cells.genes.ids) == list(expected.var_names)
    assert (cells.scale, cells.counts_address, cells.origin) == ("counts", "X", codec)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, 149), min_size=1, max_size=60), codec=st.sampled_from(CODECS))
def test_any_cells_are_read_in_any_order_and_with_repeats(
    atlases: dict[str, Path], rows: list[int], codec: str
) -> None:
    expected = of_anndata(atlases["none"]).X.toarray()
    np.testing.assert_array_equal(read(open_atlas(atlases[codec]), np.array(rows)), expected[rows])


@pytest.mark.parametrize("codec", CODECS)
def test_codes_stand_for_the_names_of_the_cells(atlases: dict[str, Path], codec: str) -> None:
    cells, expected = open_atlas(atlases[codec]), of_anndata(atlases[codec])
    rows = np.random.default_rng(0).integers(0, 150, size=200)
    for key in ("file", "only"):
        column = cells.coded(key, role="batch")
        assert [column.names[code] for code in column.codes[rows]] == expected.obs[key].iloc[rows].tolist()
        sizes = expected.obs[key].value_counts()
        assert dict(zip(column.names, column.sizes, strict=True)) == sizes.to_dict()


def test_cells_without_a_value_are_refused_and_can_be_left_out(atlases: dict[str, Path]) -> None:
    cells, expected = open_atlas(atlases["none"]), of_anndata(atlases["none"])
    with pytest.raises(InputError, match=r"17 of 150 cells have no value in obs\['kind'\], used as donor\. Leave"):
        cells.coded("kind", role="donor")
    kept = cells.where("kind == kind")
    assert len(kept) == 133
    assert kept.subset.positions().tolist() == np.flatnonzero(expected.obs["kind"].notna()).tolist()
    assert kept.coded("kind", role="donor").sizes.sum() == 133


@pytest.mark.parametrize(
    "query", ["file == 'a'", "size > 40 and kind in ['kind 1', 'kind 2']", "file == 'b' or size < 20"]
)
def test_a_query_keeps_the_cells_that_pandas_keeps(atlases: dict[str, Path], query: str) -> None:
    cells, expected = open_atlas(atlases["none"]), of_anndata(atlases["none"])
    kept = np.flatnonzero(expected.obs.eval(query, engine="python"))
    assert cells.where(query).subset.positions().tolist() == kept.tolist()
    twice = cells.where("only == 'one'").where(query)
    assert len(twice) == len(kept) and twice.fingerprint() != cells.fingerprint()


def test_a_column_that_is_not_there_or_has_a_number_for_each_cell_is_refused(atlases: dict[str, Path]) -> None:
    cells = open_atlas(atlases["none"])
    with pytest.raises(InputError, match=r"no column 'kin' in obs to use as batch\. Did you mean 'kind'"):
        cells.coded("kin", role="batch")
    with pytest.raises(InputError, match=r"obs\['size'\] of none holds a number for each cell, not one of a few names"):
        cells.coded("size", role="batch")


def n_open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_many_shards_are_read_with_few_open_files(
    tmp_path: Path, disk: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write_cells(tmp_path / "a.h5ad", n_cells=120)
    build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas", shard_cells=4)
    monkeypatch.setattr(atlas_rows, "_FILES_OPEN", 10)
    gc.collect()
    before = n_open_files()
    cells = open_atlas(tmp_path / "atlas")
    assert len(cells.rows.boundaries) > 20
    order = np.random.default_rng(0).permutation(120)
    expected = of_anndata(tmp_path / "atlas").X.toarray()
    for rows in np.array_split(order, 6):
        np.testing.assert_array_equal(read(cells, rows), expected[rows])
    if before:
        assert n_open_files() <= before + 12
        del cells
        gc.collect()
        assert n_open_files() <= before


def test_what_is_appended_is_seen_by_who_opens_the_atlas_later(tmp_path: Path, disk: SimpleNamespace) -> None:
    for seed, name in enumerate(("a.h5ad", "b.h5ad")):
        disk.write_cells(tmp_path / name, seed=seed)
    build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas", shard_cells=20)
    before = open_atlas(tmp_path / "atlas")
    first = read(before, np.arange(60))
    append_to_atlas(tmp_path / "atlas", [tmp_path / "b.h5ad"])
    after = open_atlas(tmp_path / "atlas")
    assert (len(before), len(after)) == (60, 120)
    np.testing.assert_array_equal(read(before, np.arange(60)), first)
    np.testing.assert_array_equal(read(after, np.arange(60)), first)
    assert before.fingerprint() != after.fingerprint()


@pytest.fixture
def damaged(tmp_path: Path, disk: SimpleNamespace) -> Path:
    """An atlas to be damaged."""
    disk.write_cells(tmp_path / "a.h5ad")
    build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas", shard_cells=30)
    return tmp_path / "atlas"


def a_file(atlas: Path, name: str) -> Path:
    return next((atlas / "shards").glob(f"000001.zarr/{name}"))


@pytest.mark.parametrize("array", ["X/data", "X/indices", "X/indptr"])
def test_a_shard_that_is_cut_short_is_named(damaged: Path, array: str) -> None:
    file = a_file(damaged, f"{array}/c/0")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"{array}/c/0 is too short: it is truncated\. `selfcell atlas verify`"):
        read(open_atlas(damaged), np.arange(60))


def test_a_compressed_file_that_is_missing_is_not_taken_for_zeros(tmp_path: Path, disk: SimpleNamespace) -> None:
    disk.write_cells(tmp_path / "a.h5ad")
    build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas", shard_cells=30, codec="zstd")
    a_file(tmp_path / "atlas", "X/data/c/0").unlink()
    with pytest.raises(InputError, match=r"X/data is missing or damaged"):
        read(open_atlas(tmp_path / "atlas"), np.arange(60))


@pytest.mark.parametrize("name", ["X/data/c/0", "X/indices/zarr.json", "X/indptr/c/0"])
def test_a_file_that_is_missing_is_named(damaged: Path, name: str) -> None:
    a_file(damaged, name).unlink()
    with pytest.raises(InputError, match=rf"{name.split('/')[1]} is missing or damaged .*`selfcell atlas verify`"):
        read(open_atlas(damaged), np.arange(60))


def test_codes_that_are_missing_are_named(damaged: Path) -> None:
    a_file(damaged, "obs/kind/codes/c/0").unlink()
    with pytest.raises(InputError, match=r"obs/kind/codes is missing or damaged"):
        open_atlas(damaged).coded("kind", role="donor")


def test_obs_that_is_missing_is_named(damaged: Path) -> None:
    a_file(damaged, "obs/size/zarr.json").unlink()
    with pytest.raises(InputError, match=r"000001\.zarr.* is missing or damaged .*`selfcell atlas verify`"):
        open_atlas(damaged).where("size > 1")


def test_offsets_that_make_no_sense_are_refused(damaged: Path) -> None:
    file = a_file(damaged, "X/indptr/c/0")
    offsets = np.fromfile(file, dtype="<i8")
    offsets[5] = 10**12
    offsets.tofile(file)
    with pytest.raises(InputError, match=r"Shard 000001\.zarr of .* is damaged: X/indptr"):
        read(open_atlas(damaged), np.arange(60))


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_chunks_that_are_damaged_are_refused(tmp_path: Path, disk: SimpleNamespace, codec: str) -> None:
    disk.write_cells(tmp_path / "a.h5ad")
    build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas", shard_cells=30, codec=codec)
    file = a_file(tmp_path / "atlas", "X/data/c/0")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=r"X/data is missing or damaged .*`selfcell atlas verify`"):
        read(open_atlas(tmp_path / "atlas"), np.arange(60))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 9}, r"format version 9, but this selfcell reads version 1\. Upgrade selfcell"),
        ({"format_version": 0}, r"format version 0, .*Build it anew"),
        ({"format": "other"}, "does not describe an atlas of selfcell"),
        ({"shards": [{}]}, r"is damaged: shards\.0\.name"),
    ],
)
def test_an_index_of_another_format_is_refused(damaged: Path, change: dict[str, Any], message: str) -> None:
    file = damaged / "atlas.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=message):
        open_atlas(damaged)


def test_what_is_no_atlas_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not an atlas: it has no atlas\.json\. Make one: selfcell atlas build"):
        open_atlas(tmp_path)
    (tmp_path / ".build").mkdir()
    with pytest.raises(InputError, match="is not finished"):
        open_atlas(tmp_path)
