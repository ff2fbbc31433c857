"""Tests of builds that nothing disturbs: what an atlas holds."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfcell.core.errors import InputError
from selfcell.data.atlas import passes, runs, scatter
from selfcell.data.atlas.build import append_to_atlas, build_atlas, is_being_changed
from selfcell.data.atlas.cells import open_atlas
from selfcell.data.atlas.export import export_cells
from selfcell.data.atlas.index import CategoryColumn
from selfcell.data.atlas.kernels import copy_rows, remap_rows
from selfcell.data.atlas.settings import memory_for_cells, parse_memory
from selfcell.data.atlas.verify import verify_atlas


def test_an_atlas_has_the_cells_of_its_inputs(tmp_path: Path, disk: SimpleNamespace) -> None:
    files = [tmp_path / name for name in ("a.h5ad", "b.h5ad")]
    adatas = [disk.write_cells(file, seed=seed) for seed, file in enumerate(files)]
    index = build_atlas(files, tmp_path / "atlas", shard_cells=50)
    assert disk.cells_of_atlas(tmp_path / "atlas") == disk.cells_of_inputs(*adatas)
    assert (index.n_cells, len(index.shards)) == (120, 3)
    assert index.obs_columns["kind"] == CategoryColumn(categories=("kind0", "kind1", "kind2"))
    assert not (tmp_path / "atlas/.build").exists()
    assert sorted(path.name for path in (tmp_path / "atlas").iterdir()) == ["atlas.json", "shards"]
    assert verify_atlas(tmp_path / "atlas") == []


def test_cells_of_all_inputs_are_mixed(tmp_path: Path, disk: SimpleNamespace) -> None:
    files = [tmp_path / name for name in ("a.h5ad", "b.h5ad")]
    for file in files:
        disk.write_cells(file, n_cells=100)
    build_atlas(files, tmp_path / "atlas")
    names = anndata.read_zarr(tmp_path / "atlas/shards/000000.zarr").obs_names
    from_a = np.array([name.startswith("a") for name in names])
    assert 30 < from_a[:100].sum() < 70
    places = np.array([int(name[2:]) for name in names[from_a]])
    assert abs(np.corrcoef(places, np.arange(100))[0, 1]) < 0.3


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_shards_can_be_compressed(tmp_path: Path, disk: SimpleNamespace, codec: str) -> None:
    adata = disk.write_cells(tmp_path / "a.h5ad")
    build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas", codec=codec)
    assert disk.cells_of_atlas(tmp_path / "atlas") == disk.cells_of_inputs(adata)
    assert verify_atlas(tmp_path / "atlas") == []


def test_shards_depend_on_seed_and_inputs_alone(
    tmp_path: Path, disk: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / name for name in ("a.h5ad", "b.h5ad")]
    for seed, file in enumerate(files):
        disk.write_cells(file, seed=seed, n_cells=70)
    build_atlas(files, tmp_path / "plain", shard_cells=40)
    build_atlas(files, tmp_path / "seeded", shard_cells=40, seed=1)
    with monkeypatch.context() as patch:
        # Many small blocks and runs, as little memory brings about.
        patch.setattr(scatter, "_MAX_BLOCK", 7)
        patch.setattr(scatter, "_SHARE_FOR_RUN", 10**9)
        build_atlas(files, tmp_path / "small", shard_cells=40)
    build_atlas(files, tmp_path / "workers", shard_cells=40, workers=2)
    assert disk.checksums_of(tmp_path / "small") == disk.checksums_of(tmp_path / "plain")
    assert disk.checksums_of(tmp_path / "workers") == disk.checksums_of(tmp_path / "plain")
    assert disk.checksums_of(tmp_path / "seeded") != disk.checksums_of(tmp_path / "plain")


def test_little_memory_makes_small_shards(tmp_path: Path, disk: SimpleNamespace, monkeypatch: Any) -> None:
    adata = disk.write_cells(tmp_path / "a.h5ad", n_cells=100)
    monkeypatch.setattr("selfcell.data.atlas.build.memory_for_cells", lambda *_, **__: 20_000)
    index = build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas")
    assert len(index.shards) > 1
    assert disk.cells_of_atlas(tmp_path / "atlas") == disk.cells_of_inputs(adata)


def test_counts_of_any_size_are_kept(tmp_path: Path, disk: SimpleNamespace) -> None:
    adatas = [
        disk.write_cells(tmp_path / "a.h5ad", largest=10),
        disk.write_cells(tmp_path / "b.h5ad", largest=200_000),
    ]
    index = build_atlas([tmp_path / "a.h5ad", tmp_path / "b.h5ad"], tmp_path / "atlas")
    assert disk.cells_of_atlas(tmp_path / "atlas") == disk.cells_of_inputs(*adatas)
    assert index.shards[0].values_dtype == "uint32"


def test_genes_are_put_into_the_order_of_a_list(tmp_path: Path, disk: SimpleNamespace) -> None:
    adata = disk.write_cells(tmp_path / "a.h5ad")
    wanted = list(adata.var_names[::-1])
    (tmp_path / "genes.txt").write_text("\n".join(wanted))
    build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas", genes=str(tmp_path / "genes.txt"))
    read = anndata.read_zarr(tmp_path / "atlas/shards/000000.zarr")
    assert list(read.var_names) == wanted
    assert (read[adata.obs_names].X != adata[:, wanted].X).nnz == 0


def test_a_gene_list_with_duplicates_is_refused(tmp_path: Path, disk: SimpleNamespace) -> None:
    disk.write_cells(tmp_path / "a.h5ad")
    (tmp_path / "genes.txt").write_text("ENSG00000000001\nENSG00000000002\nENSG00000000001\n")
    with pytest.raises(InputError, match=r"stand more than once in .*genes\.txt"):
        build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas", genes=str(tmp_path / "genes.txt"))


def test_columns_that_an_input_lacks_are_filled_or_refused(tmp_path: Path, disk: SimpleNamespace) -> None:
    files = [tmp_path / name for name in ("a.h5ad", "b.h5ad")]
    disk.write_cells(files[0], donor=["x"] * 60, is_big=[True, False] * 30)
    disk.write_cells(files[1])
    with pytest.raises(InputError, match="have no column 'donor'"):
        build_atlas(files, tmp_path / "strict", strict=True)
    build_atlas(files, tmp_path / "atlas")
    obs = anndata.read_zarr(tmp_path / "atlas/shards/000000.zarr").obs
    of_second = obs.index.str.startswith("b")
    assert set(obs["donor"][of_second]) == {"unknown"}
    assert obs["is_big"][of_second].isna().all() and obs["is_big"][~of_second].mean() == 0.5
    assert len(open_atlas(tmp_path / "atlas").where("is_big == True")) == 30
    assert len(open_atlas(tmp_path / "atlas").where("not is_big")) == 30
    assert list(read_h5ad_of(tmp_path, where="is_big")["is_big"]) == [True] * 30


def read_h5ad_of(folder: Path, *, where: str) -> pd.DataFrame:
    """Export some cells and read them back, since not every table can be written."""
    export_cells(folder / "atlas", where=where).write_h5ad(folder / "part.h5ad")
    return anndata.read_h5ad(folder / "part.h5ad").obs


def test_nothing_is_left_of_a_build_or_append_that_was_refused(tmp_path: Path, disk: SimpleNamespace) -> None:
    files = [tmp_path / name for name in ("a.h5ad", "b.h5ad")]
    disk.write_cells(files[0], age=np.arange(60.0), is_primary_data=[False] * 60)
    disk.write_cells(files[1], age=["old"] * 60)
    with pytest.raises(InputError, match="No input has a column"):
        build_atlas(files[:1], tmp_path / "atlas", obs=["sex"])
    assert not (tmp_path / "atlas").exists()
    with pytest.raises(InputError, match="No cell is left"):
        build_atlas(files[:1], tmp_path / "atlas", primary_only=True)
    assert not (tmp_path / "atlas/.build").exists()
    build_atlas(files[:1], tmp_path / "atlas")
    with pytest.raises(InputError, match="holds numbers, but that of some new inputs holds names"):
        append_to_atlas(tmp_path / "atlas", files[1:])
    assert not (tmp_path / "atlas/.build").exists() and not is_being_changed(tmp_path / "atlas")


def test_truth_values_stay_truth_values(tmp_path: Path, disk: SimpleNamespace) -> None:
    disk.write_cells(tmp_path / "a.h5ad", is_big=np.arange(60) % 2 == 0)
    build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas", obs=["is_big"])
    obs = anndata.read_zarr(tmp_path / "atlas/shards/000000.zarr").obs
    assert list(obs.columns) == ["is_big"] and obs["is_big"].dtype == bool
    assert (obs["is_big"] == (obs.index.str[2:].astype(int) % 2 == 0)).all()


def test_cells_without_counts_are_dropped_and_told(tmp_path: Path, disk: SimpleNamespace) -> None:
    adata = disk.write_cells(tmp_path / "a.h5ad")
    counts = adata.X.toarray()
    counts[[3, 5]] = 0
    adata.X = sp.csr_matrix(counts)
    adata.write_h5ad(tmp_path / "a.h5ad")
    index = build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas")
    assert (index.n_cells, index.sources[0].n_cells, index.sources[0].report["cells"]["n_empty"]) == (58, 58, 2)


@pytest.mark.parametrize(("primary_only", "n_cells"), [(False, 60), (True, 20)])
def test_cells_that_are_not_primary_are_told_or_dropped(
    tmp_path: Path, disk: SimpleNamespace, *, primary_only: bool, n_cells: int
) -> None:
    disk.write_cells(tmp_path / "a.h5ad", is_primary_data=np.arange(60) % 3 == 0)
    index = build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas", primary_only=primary_only, obs=["kind"])
    assert (index.n_cells, index.sources[0].report["cells"]["n_not_primary"]) == (n_cells, 40)


@pytest.mark.parametrize(("duplicates", "n_cells"), [("report", 120), ("drop", 110)])
def test_duplicates_are_told_or_dropped(
    tmp_path: Path, disk: SimpleNamespace, duplicates: str, n_cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = disk.write_cells(tmp_path / "a.h5ad", seed=0)
    second = disk.write_cells(tmp_path / "b.h5ad", seed=1)
    names = second.obs_names.to_numpy().copy()
    names[:10] = first.obs_names[:10]  # these are the same cells
    names[10:20] = first.obs_names[10:20]  # these have the barcode of another cell
    counts = second.X.toarray()
    counts[:10] = first.X.toarray()[:10]
    anndata.AnnData(sp.csr_matrix(counts), obs=second.obs.set_axis(names), var=second.var).write_h5ad(
        tmp_path / "b.h5ad"
    )
    monkeypatch.setattr("selfcell.data.atlas.duplicates._BYTES_PER_CELL", 2**24)  # look at a part at a time
    files = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    index = build_atlas(files, tmp_path / "atlas", duplicates=duplicates)
    assert index.n_cells == n_cells
    assert [source.report["cells"]["n_duplicates"] for source in index.sources] == [0, 10]
    assert verify_atlas(tmp_path / "atlas") == []


def test_an_append_adds_shards_and_changes_none(tmp_path: Path, disk: SimpleNamespace) -> None:
    adatas = [disk.write_cells(tmp_path / f"{name}.h5ad", seed=seed) for seed, name in enumerate("abc")]
    adatas[2].obs["kind"] = pd.Categorical(["new"] * 60)
    adatas[2].write_h5ad(tmp_path / "c.h5ad")
    files = [tmp_path / f"{name}.h5ad" for name in "abc"]
    before = build_atlas(files[:2], tmp_path / "atlas", shard_cells=50)
    after = append_to_atlas(tmp_path / "atlas", files[2:])
    assert after.shards[: len(before.shards)] == before.shards
    assert after.obs_columns["kind"].categories == ("kind0", "kind1", "kind2", "new")
    assert disk.cells_of_atlas(tmp_path / "atlas") == disk.cells_of_inputs(*adatas)
    assert verify_atlas(tmp_path / "atlas") == []
    with pytest.raises(InputError, match=r"c.h5ad is in the atlas already"):
        append_to_atlas(tmp_path / "atlas", files[2:])


def test_more_shards_than_cells(tmp_path: Path, disk: SimpleNamespace) -> None:
    adata = disk.write_cells(tmp_path / "a.h5ad", n_cells=20)
    index = build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas", shard_cells=1)
    assert all(shard.n_cells for shard in index.shards)
    assert disk.cells_of_atlas(tmp_path / "atlas") == disk.cells_of_inputs(adata)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_rows_on_new_columns_are_those_of_scipy(data: st.DataObject) -> None:
    n_rows, n_columns, n_new = data.draw(st.tuples(st.integers(1, 8), st.integers(1, 150), st.integers(1, 150)))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    counts = sp.csr_matrix(rng.poisson(0.5, size=(n_rows, n_columns)).astype(np.uint32))
    new_column = rng.integers(-1, n_new, size=n_columns).astype(np.int32)
    if data.draw(st.booleans()):
        new_column = np.sort(new_column)
    onto = sp.csr_matrix(
        (np.ones((new_column >= 0).sum()), (np.flatnonzero(new_column >= 0), new_column[new_column >= 0])),
        shape=(n_columns, n_new),
    )
    expected = (counts.astype(np.float64) @ onto).tocsr()
    expected.sort_indices()
    offsets, columns = counts.indptr.astype(np.int64), counts.indices.astype(np.int32)
    lengths, columns, values, hashes = remap_rows(offsets, columns, counts.data, new_column, n_new)
    n_values = lengths.sum()
    assert lengths.tolist() == np.diff(expected.indptr).tolist()
    assert columns[:n_values].tolist() == expected.indices.tolist()
    assert values[:n_values].tolist() == expected.data.tolist()
    rows = [tuple(row) for row in expected.toarray()]
    assert len(set(hashes.tolist())) == len(set(rows))


@pytest.mark.parametrize("order", [[0, 0, 1], [1, 1, 0]])
def test_columns_of_one_gene_that_add_up_to_too_much_are_refused(order: list[int]) -> None:
    offsets, columns = np.array([0, 2], dtype=np.int64), np.array([0, 1], dtype=np.int32)
    counts = np.array([2**32 - 1, 1], dtype=np.uint32)
    with pytest.raises(OverflowError):
        remap_rows(offsets, columns, counts, np.array(order, dtype=np.int32), 2)


def test_the_order_of_columns_is_no_part_of_a_hash() -> None:
    offsets, counts = np.array([0, 3]), np.array([5, 6, 7], dtype=np.uint32)
    columns = np.arange(3, dtype=np.int32)
    kept = remap_rows(offsets, columns, counts, np.array([0, 1, 2], dtype=np.int32), 3)
    turned = remap_rows(offsets, columns, counts[::-1].copy(), np.array([2, 1, 0], dtype=np.int32), 3)
    assert kept[3].tolist() == turned[3].tolist()


def test_rows_are_copied_to_their_places() -> None:
    source, target = np.arange(10, dtype=np.uint8), np.zeros(6, dtype=np.uint8)
    copy_rows(source, np.array([7, 2]), target, np.array([0, 3]), np.array([3, 2]))
    assert target.tolist() == [7, 8, 9, 2, 3, 0]


def test_of_runs_that_overlap_one_stays(tmp_path: Path) -> None:
    for start, stop in [(0, 10), (5, 15), (20, 30)]:
        runs.run_path(tmp_path, 0, start=start, stop=stop).touch()
    (found,) = runs.finished_runs(tmp_path, 1)
    assert [(start, stop) for start, stop, _ in found] == [(0, 10), (20, 30)]
    assert runs.gaps(found, 40) == [(10, 20), (30, 40)]


def test_sizes_are_read_and_nonsense_is_not() -> None:
    assert [parse_memory(text) for text in ("2GB", "1.5 GiB", 100, "512M")] == [2 * 10**9, 3 * 2**29, 100, 512 * 10**6]
    with pytest.raises(InputError, match=r"takes a size such as 2GB, but got 'much'"):
        parse_memory("much")
    with pytest.raises(InputError, match=r"4 workers need at least .* Give more memory or fewer workers"):
        memory_for_cells(10**9, workers=4)


def test_a_full_disk_is_found_beforehand(
    tmp_path: Path, disk: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write_cells(tmp_path / "a.h5ad")
    monkeypatch.setattr(passes.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"the disk has 0.0 GB left. Make room"):
        build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_memory_stays_in_bounds(tmp_path: Path) -> None:
    """An input of 1.6 GB of values, read and written with 700 MB."""
    program = f"""
import numpy as np, h5py
from pathlib import Path
folder = Path({str(tmp_path)!r})
n_cells, n_genes, per_cell = 100_000, 20_000, 2_000
with h5py.File(folder / "a.h5ad", "w") as file:
    file.attrs.update({{"encoding-type": "anndata", "encoding-version": "0.1.0"}})
    group = file.create_group("X")
    group.attrs.update({{"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [n_cells, n_genes]}})
    data = group.create_dataset("data", (n_cells * per_cell,), "f4")
    indices = group.create_dataset("indices", (n_cells * per_cell,), "i4")
    group["indptr"] = np.arange(n_cells + 1, dtype=np.int64) * per_cell
    for start in range(0, n_cells, 5_000):
        here = slice(start * per_cell, (start + 5_000) * per_cell)
        data[here] = 1 + np.arange(5_000 * per_cell) % 300
        indices[here] = np.tile(np.arange(per_cell) * 10, 5_000)
    for name, index in (("obs", np.arange(n_cells)), ("var", np.arange(n_genes))):
        table = file.create_group(name)
        table.attrs.update({{"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"}})
        table.attrs["column-order"] = np.array([], dtype="f8")
        table.create_dataset("_index", data=[f"{{name}}{{place}}" for place in index], dtype=h5py.string_dtype())
from selfcell.data.atlas.build import build_atlas
index = build_atlas([folder / "a.h5ad"], folder / "atlas", memory="700MB")
assert index.n_cells == n_cells
# Not from resource.getrusage, where the peak of the parent counts.
print(next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 700e6
