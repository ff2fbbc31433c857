"""Tests of the files that an atlas is made of."""

import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from selfcell.core.errors import InputError
from selfcell.data.atlas.inputs import CellInput, open_input
from selfcell.data.atlas.places import fingerprint
from selfcell.data.atlas.transpose import RowsOnDisk

_SPEC = importlib.util.spec_from_file_location("input_files", Path(__file__).with_name("input_files.py"))
files = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(files)

every_format = pytest.mark.parametrize("kind", files.WRITERS)
pytestmark = pytest.mark.filterwarnings("ignore:.*Transforming to str index.*")

COUNTS = st.integers(1, 9).flatmap(
    lambda n_genes: hnp.arrays(
        np.int64,
        st.tuples(st.integers(1, 12), st.just(n_genes)),
        elements=st.integers(0, 5) | st.sampled_from([0, 70_000, 2**24 + 1]),
        fill=st.just(0),
    )
)


def _open(path: Path, scratch: Path | None = None, **options: Any) -> CellInput:
    folder = scratch or path.parent / "scratch"
    return open_input(path, scratch=folder, memory_bytes=options.pop("memory_bytes", 10**8), **options)


def _some_counts(n_cells: int = 40, n_genes: int = 15) -> np.ndarray:
    return np.random.default_rng(0).poisson(0.5, (n_cells, n_genes)).astype(np.int64)


@every_format
@settings(max_examples=8, deadline=None)
@given(counts=COUNTS, size=st.integers(1, 5))
def test_blocks_are_the_counts_that_were_written(kind: str, counts: np.ndarray, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = files.WRITERS[kind](Path(folder), files.make_cells(counts))
        with _open(path) as source:
            blocks = [source.read(start, min(start + size, len(counts))) for start in range(0, len(counts), size)]
        assert all(block.has_canonical_format and block.dtype == np.uint32 and block.data.all() for block in blocks)
        np.testing.assert_array_equal(sp.vstack(blocks).toarray(), counts)
        assert not list((Path(folder)).glob("scratch/*"))


@every_format
def test_names_genes_and_size_are_read(kind: str, tmp_path: Path) -> None:
    cells = files.make_cells(_some_counts())
    with _open(files.WRITERS[kind](tmp_path, cells)) as source:
        assert source.n_cells == 40
        assert list(source.names()) == list(cells.obs_names)
        assert source.genes.ids == tuple(files.gene_ids(15))
        assert source.genes.symbols == tuple(cells.var_names)
        assert source.counts_address in {"X", "matrix"}


@pytest.mark.parametrize("kind", files.ANNDATA)
def test_columns_of_obs_are_read_by_kind(kind: str, tmp_path: Path) -> None:
    cells = files.make_cells(_some_counts())
    with _open(files.WRITERS[kind](tmp_path, cells)) as source:
        assert source.obs_kinds == {"cell_type": "category", "donor": "category", "age": "number", "is_primary": "bool"}
        obs = source.obs(["age", "cell_type", "donor", "is_primary"])
    assert list(obs.columns) == ["age", "cell_type", "donor", "is_primary"]
    expected = cells.obs[list(obs.columns)].assign(donor=cells.obs["donor"].astype("category"))
    pd.testing.assert_frame_equal(obs, expected, check_categorical=True)
    assert obs["cell_type"].isna().sum() == 14


def test_columns_with_missing_values_are_read(tmp_path: Path) -> None:
    cells = files.make_cells(_some_counts(4))
    cells.obs = pd.DataFrame(
        {
            "n": pd.array([1, None, 3, 4], dtype="Int64"),
            "yes": pd.array([True, None, False, True], dtype="boolean"),
            "sure": pd.array([True, True, False, True], dtype="boolean"),
            "cluster": pd.Categorical([1, 2, None, 1]),
        },
        index=cells.obs_names,
    )
    with _open(files.write_csr(tmp_path, cells)) as source:
        assert source.obs_kinds == {"n": "number", "yes": "bool", "sure": "bool", "cluster": "category"}
        obs = source.obs(list(source.obs_kinds))
    np.testing.assert_array_equal(obs["n"], [1, np.nan, 3, 4])
    assert obs["yes"].tolist() == [True, pd.NA, False, True]
    assert obs["sure"].tolist() == [True, True, False, True]
    assert obs["cluster"].tolist() == ["1", "2", np.nan, "1"]


def test_loom_columns_are_read(tmp_path: Path) -> None:
    with _open(files.write_loom(tmp_path, files.make_cells(_some_counts()))) as source:
        assert source.obs_kinds == {"age": "number", "cell_type": "category", "donor": "category"}
        assert source.obs(["donor"])["donor"].tolist()[:3] == ["d0", "d1", "d0"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-1.0, "negative values"),
        (0.5, "fractional values"),
        (np.nan, "NaN or infinite"),
        (np.inf, "NaN or infinite"),
        (2.0**32, "counts above 4,294,967,295"),
    ],
)
@every_format
def test_what_is_not_counts_is_refused(kind: str, value: float, words: str, tmp_path: Path) -> None:
    wrong = _some_counts().astype(np.float64)
    wrong[7, 3] = value
    with pytest.raises(InputError, match=words):
        _open(files.WRITERS[kind](tmp_path, files.make_cells(wrong)))


@pytest.mark.parametrize("kind", ["csr", "csc", "dense", "10x mtx", "loom"])
def test_what_the_sample_missed_is_refused_when_it_is_read(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    wrong = _some_counts().astype(np.float64)
    wrong[7, 3] = 0.5
    monkeypatch.setattr("selfcell.data.atlas.inputs.as_counts", lambda values: (values, None))
    with _open(files.WRITERS[kind](tmp_path, files.make_cells(wrong))) as source:
        assert source.block_size(10**6) >= 1
        with pytest.raises(InputError, match=r"fractional values .*first such cell is 'cell7'.*--layer"):
            source.read(0, 40)


def test_the_largest_count_survives(tmp_path: Path) -> None:
    cells = files.make_cells(np.array([[2**32 - 1, 0], [0, 65_536]], dtype=np.int64))
    with _open(files.write_csr(tmp_path, cells)) as source:
        assert source.read(0, 2).toarray().tolist() == [[2**32 - 1, 0], [0, 65_536]]


def test_counts_are_looked_for_in_layers_then_x_then_raw(tmp_path: Path) -> None:
    counts = _some_counts()
    cells = files.make_cells(counts)
    cells.raw = cells.copy()
    cells = cells[:, :10].copy()
    cells.X = np.log1p(cells.X)
    with _open(files.write_csr(tmp_path, cells)) as source:
        assert source.counts_address == "raw.X"
        assert len(source.genes) == 15
        np.testing.assert_array_equal(source.read(0, 40).toarray(), counts)
    cells.layers["counts"] = sp.csr_matrix(counts[:, :10])
    with _open(files.write_csr(tmp_path, cells)) as source:
        assert (source.counts_address, len(source.genes)) == ("layers['counts']", 10)
    with _open(tmp_path / "csr.h5ad", layer="raw.X") as source:
        assert source.counts_address == "raw.X"
    with pytest.raises(InputError, match=r"csr\.h5ad: Raw counts are needed, but X has .*log-normalized"):
        _open(tmp_path / "csr.h5ad", layer="X")
    with pytest.raises(InputError, match=r"no layer 'count'\. Did you mean 'counts'"):
        _open(tmp_path / "csr.h5ad", layer="count")


def test_another_layer_that_holds_counts_is_named(tmp_path: Path) -> None:
    cells = files.make_cells(_some_counts())
    cells.layers["spliced"] = cells.X.copy()
    cells.X = np.log1p(cells.X)
    with pytest.raises(InputError, match=r"layers\['spliced'\] holds counts: .*--layer spliced"):
        _open(files.write_csr(tmp_path, cells))


def test_old_layouts_of_anndata_are_read(tmp_path: Path) -> None:
    counts = _some_counts(6, 4)
    with h5py.File(tmp_path / "0.7.h5ad", "w") as file:
        file["X"] = counts.astype(np.float32)
        file["obs/index"] = np.array([f"c{place}" for place in range(6)], dtype="S")
        file["obs/type"] = np.array([0, 1, 0, -1, 1, 1], dtype=np.int8)
        file["obs/__categories/type"] = np.array(["B", "T"], dtype="S")
        file["obs"].attrs["_index"] = "index"
        file["var/_index"] = np.array([f"G{place}" for place in range(4)], dtype="S")
        file["var"].attrs["_index"] = "_index"
    with h5py.File(tmp_path / "0.6.h5ad", "w") as file:
        stored = sp.csr_matrix(counts.astype(np.float32))
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", counts.shape
        group["data"], group["indices"], group["indptr"] = stored.data, stored.indices, stored.indptr
        rows = [(f"c{place}", code) for place, code in enumerate([0, 1, 0, -1, 1, 1])]
        file["obs"] = np.array(rows, dtype=[("index", "S2"), ("type", "i1")])
        file["var"] = np.array([(f"G{place}",) for place in range(4)], dtype=[("index", "S2")])
        file["uns/type_categories"] = np.array(["B", "T"], dtype="S")
    for name in ("0.7.h5ad", "0.6.h5ad"):
        with _open(tmp_path / name) as source:
            np.testing.assert_array_equal(source.read(0, 6).toarray(), counts)
            assert list(source.names()) == [f"c{place}" for place in range(6)]
            assert source.genes.symbols == ("G0", "G1", "G2", "G3")
            assert source.obs(["type"])["type"].tolist() == ["B", "T", "B", np.nan, "T", "T"]


def test_values_that_stand_twice_are_summed(tmp_path: Path) -> None:
    path = files.write_csr(tmp_path, files.make_cells(np.array([[5, 0, 2], [0, 0, 4]])))
    with h5py.File(path, "r+") as file:
        file["X/indices"][:] = [1, 1, 0]
    with _open(path) as source:
        assert source.read(0, 2).toarray().tolist() == [[0, 7, 0], [4, 0, 0]]


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    path = files.write_csc(tmp_path, files.make_cells(_some_counts(400, 100)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"csc\.h5ad cannot be read: .*truncated"):
        _open(path)


def test_a_damaged_chunk_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = files.write_csr(tmp_path, files.make_cells(_some_counts(400, 100)))
    with h5py.File(path) as file:
        chunk = file["X/indices"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(bytes(content))
    with _open(path) as source, pytest.raises(InputError, match="truncated or damaged"):
        source.read(0, 400)


@pytest.mark.parametrize("kind", ["zarr 2", "zarr 3"])
def test_missing_chunks_are_not_taken_for_zeros(kind: str, tmp_path: Path) -> None:
    path = files.WRITERS[kind](tmp_path, files.make_cells(_some_counts()))
    chunk = path / ("X/data/0" if kind == "zarr 2" else "X/data/c/0")
    chunk.unlink()
    with pytest.raises(InputError, match="1 of 1 chunks of X/data are missing"):
        _open(path)


def test_genes_beyond_the_matrix_are_refused(tmp_path: Path) -> None:
    path = files.write_csr(tmp_path, files.make_cells(_some_counts()))
    with h5py.File(path, "r+") as file:
        file["X/indices"][0] = 99
    with _open(path) as source, pytest.raises(InputError, match="values beyond the 15 genes"):
        source.read(0, 40)


def test_a_short_matrix_market_file_is_refused(tmp_path: Path) -> None:
    path = files.write_mtx_gz(tmp_path, files.make_cells(_some_counts()))
    matrix = path / "GSM1_matrix.mtx.gz"
    whole = matrix.read_bytes()
    matrix.write_bytes(whole[:-20])
    with pytest.raises(InputError, match="truncated"), _open(path) as source:
        source.read(0, 1)
    plain = tmp_path / "mtx" / "matrix.mtx"
    plain.write_text("".join(plain.read_text().splitlines(keepends=True)[:-2]))
    with _open(tmp_path / "mtx") as source, pytest.raises(InputError, match="entries, but its head says"):
        source.read(0, 1)


def test_a_matrix_market_file_may_be_cells_by_genes_and_without_order(tmp_path: Path) -> None:
    counts = _some_counts(5, 3)
    path = files.write_mtx(tmp_path, files.make_cells(counts))
    entries = [f"{cell + 1} {gene + 1} {counts[cell, gene]}" for cell, gene in zip(*np.nonzero(counts), strict=True)]
    lines = ["%%MatrixMarket matrix coordinate real general", "%a remark", f"5 3 {len(entries)}", *entries[::-1]]
    (path / "matrix.mtx").write_text("\n".join(lines) + "\n")
    with _open(path) as source:
        np.testing.assert_array_equal(source.read(0, 5).toarray(), counts)


def test_proteins_are_left_out_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = _some_counts()
    path = files.write_tenx(tmp_path, files.make_cells(counts))
    with h5py.File(path, "r+") as file:
        kinds = file["matrix/features/feature_type"][:]
        kinds[[0, 14]] = b"Antibody Captur"
        file["matrix/features/feature_type"][:] = kinds
    with _open(path) as source:
        assert len(source.genes) == 13
        np.testing.assert_array_equal(source.read(3, 9).toarray(), counts[3:9, 1:14])
    assert "2 features are not genes" in caplog.text


def test_what_cannot_be_opened_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "cells.h5ad").write_bytes(b"not HDF5")
    (tmp_path / "cells.csv").write_text("a,b\n")
    (tmp_path / "samples").mkdir()
    for name in ("GSM1_matrix.mtx", "GSM2_matrix.mtx"):
        (tmp_path / "samples" / name).write_text("")
    with h5py.File(tmp_path / "else.h5", "w") as file:
        file["a"] = 1
    for name, words in [
        ("cell.h5ad", "no file .* Did you mean 'cells.h5ad'"),
        ("cells.h5ad", "cannot be read"),
        ("cells.csv", "none of the kinds"),
        ("samples", "several samples"),
        ("else.h5", "neither an AnnData nor"),
    ]:
        with pytest.raises(InputError, match=words):
            _open(tmp_path / name)


def test_no_cells_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty: 0 cells x 3 genes"):
        _open(files.write_csr(tmp_path, files.make_cells(np.zeros((0, 3)))))


@pytest.mark.parametrize("memory", [10_000, 200_000])
def test_a_block_stays_within_its_memory(memory: int, tmp_path: Path) -> None:
    counts = _some_counts(300, 50)
    counts[100:110] = 1
    with _open(files.write_csr(tmp_path, files.make_cells(counts))) as source:
        size = source.block_size(memory)
        most = max(source.read(start, min(start + size, 300)).nnz for start in range(300))
        assert 1 <= size <= 300
        assert most * 36 <= memory
        assert source.block_size(1) == 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), n_cells=st.integers(1, 500), skew=st.booleans())
def test_entries_are_put_into_rows_in_any_number_of_buckets(seed: int, n_cells: int, *, skew: bool) -> None:
    random = np.random.default_rng(seed)
    cells = random.integers(0, 1 + (n_cells - 1) // (50 if skew else 1), 2_000)
    genes, counts = random.integers(0, 30, 2_000), random.integers(0, 10**6, 2_000)
    expected = np.zeros((n_cells, 30), dtype=np.int64)
    np.add.at(expected, (cells, genes), counts)
    with tempfile.TemporaryDirectory() as folder:
        rows = RowsOnDisk(Path(folder), shape=(n_cells, 30), n_entries=2_000, memory_bytes=10**6)
        rows._most_entries = 200
        made = rows.of(iter([(cells[:700], genes[:700], counts[:700]), (cells[700:], genes[700:], counts[700:])]))
        np.testing.assert_array_equal(made.read(0, n_cells).toarray(), expected)
        rows.close()
        assert not list(Path(folder).iterdir())


def test_a_fingerprint_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cells"
    path.write_bytes(b"1234")
    first = fingerprint(path)
    assert json.loads(json.dumps(first)) == fingerprint(path) == first
    path.write_bytes(b"1235")
    assert fingerprint(path)["sha256_ends"] != first["sha256_ends"]
    folder = fingerprint(tmp_path)
    (tmp_path / "more").write_bytes(b"")
    assert fingerprint(tmp_path) != folder
    path.unlink()
    with pytest.raises(InputError, match="cannot be read any more"):
        fingerprint(path)


def test_an_unknown_column_is_refused(tmp_path: Path) -> None:
    with (
        _open(files.write_csr(tmp_path, files.make_cells(_some_counts()))) as source,
        pytest.raises(InputError, match=r"no column 'donors' in obs. Did you mean 'donor'"),
    ):
        source.obs(["donors"])


def test_gene_column_is_taken_or_refused(tmp_path: Path) -> None:
    cells = files.make_cells(_some_counts(n_genes=2))
    cells.var = pd.DataFrame({"names": ["ENSG00000000001.7", "ACTB"]}, index=["a", "b"])
    path = files.write_csr(tmp_path, cells)
    with _open(path, gene_column="names") as source:
        assert source.genes.ids == ("ENSG00000000001", "ACTB")
        assert source.genes.symbols == ("", "ACTB")
    with pytest.raises(InputError, match=r"no column 'name' in var. Did you mean 'names'"):
        _open(path, gene_column="name")


def test_anndata_of_proteins_too_opens(tmp_path: Path) -> None:
    cells = files.make_cells(_some_counts(n_genes=3))
    cells.var["feature_types"] = ["Gene Expression", "Peaks", "Gene Expression"]
    assert isinstance(cells, anndata.AnnData)
    with _open(files.write_csc(tmp_path, cells)) as source:
        assert source.genes.symbols == ("GENE0", "GENE2")
