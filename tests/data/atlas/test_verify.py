"""Tests of looking an atlas over, and of reading a part of it back."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr

from selfcell.core.errors import InputError
from selfcell.data.atlas.build import build_atlas
from selfcell.data.atlas.export import export_cells
from selfcell.data.atlas.index import read_index
from selfcell.data.atlas.shard import checksums
from selfcell.data.atlas.verify import verify_atlas


@pytest.fixture
def atlas(tmp_path: Path, disk: SimpleNamespace) -> Path:
    disk.write_cells(tmp_path / "a.h5ad")
    build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas", shard_cells=40)
    return tmp_path / "atlas"


def _change(atlas: Path, shard: str, name: str, **changes: Any) -> None:
    """Change an array of a shard, checksums and all, as a faulty writer would."""
    array = zarr.open_array(atlas / "shards" / shard / name)
    values = array[:]
    for place, value in changes["values"].items():
        values[place] = value
    array[:] = values
    _accept(atlas, shard)


def _accept(atlas: Path, shard: str) -> None:
    index = json.loads((atlas / "atlas.json").read_text())
    (entry,) = [entry for entry in index["shards"] if entry["name"] == shard]
    entry["sha256"] = checksums(atlas / "shards" / shard)
    (atlas / "atlas.json").write_text(json.dumps(index))


def test_a_flipped_byte_is_found_in_its_file(atlas: Path) -> None:
    file = atlas / "shards/000001.zarr/X/indices/c/0"
    content = bytearray(file.read_bytes())
    content[7] ^= 4
    file.write_bytes(content)
    (fault,) = verify_atlas(atlas)
    assert fault.startswith("shards/000001.zarr/X/indices/c/0: is damaged")


def test_a_cut_and_a_missing_file_are_found(atlas: Path) -> None:
    file = atlas / "shards/000000.zarr/X/data/c/0"
    file.write_bytes(file.read_bytes()[:-1])
    (atlas / "shards/000000.zarr/obs/zarr.json").unlink()
    (atlas / "shards/000000.zarr/more").touch()
    faults = verify_atlas(atlas)
    assert len(faults) == 3
    assert any(fault.startswith("shards/000000.zarr/X/data/c/0: is damaged") for fault in faults)
    assert "shards/000000.zarr/obs/zarr.json: is missing" in faults
    assert "shards/000000.zarr/more: does not belong to the shard" in faults


def test_a_missing_shard_is_found(atlas: Path) -> None:
    shutil.rmtree(atlas / "shards/000001.zarr")
    assert verify_atlas(atlas) == ["shards/000001.zarr: the shard is missing"]


@pytest.mark.parametrize(
    ("name", "values", "fault"),
    [
        ("X/indices", {0: 40}, "X/indices: has gene 40, but there are 40"),
        ("X/indices", {1: 0}, "X/indices: genes of cell 0 do not ascend"),
        ("X/data", {3: 0}, "X/data: has counts of zero"),
        ("X/indptr", {2: 0}, "X/indptr: does not ascend"),
        ("X/indptr", {-1: 10**6}, "X/indptr: ends at 1,000,000"),
        ("obs/kind/codes", {0: 9}, "obs/kind: has codes 0 to 9 of 3 categories"),
    ],
)
def test_wrong_content_is_found_even_where_checksums_fit(
    atlas: Path, name: str, values: dict[int, int], fault: str
) -> None:
    _change(atlas, "000000.zarr", name, values=values)
    (found,) = verify_atlas(atlas)
    assert found.startswith(f"shards/000000.zarr/{fault}")


def test_another_encoding_is_found(atlas: Path) -> None:
    group = zarr.open_group(atlas / "shards/000000.zarr/X")
    group.attrs.update({"encoding-version": "9.0"})
    _accept(atlas, "000000.zarr")
    assert verify_atlas(atlas) == ["shards/000000.zarr/X: is encoded as csr_matrix 9.0, not as csr_matrix 0.1.0"]


def test_another_format_version_is_refused(atlas: Path) -> None:
    content = json.loads((atlas / "atlas.json").read_text())
    (atlas / "atlas.json").write_text(json.dumps(content | {"format_version": 2}))
    with pytest.raises(InputError, match="format version 2"):
        verify_atlas(atlas)


def test_a_part_is_read_back(atlas: Path, tmp_path: Path, disk: SimpleNamespace) -> None:
    whole = export_cells(atlas)
    assert len(disk.cells_of_inputs(whole)) == read_index(atlas).n_cells
    assert disk.cells_of_inputs(whole) == disk.cells_of_atlas(atlas)
    part = export_cells(atlas, where="kind == 'kind1' and size > 10", max_cells=5)
    assert part.n_obs == 5 and set(part.obs["kind"]) == {"kind1"} and part.obs["size"].min() > 10
    assert part.X.dtype == np.float32


@pytest.mark.parametrize("damage", ["flipped", "short"])
def test_no_cell_of_a_damaged_shard_is_exported(atlas: Path, damage: str) -> None:
    file = atlas / "shards/000000.zarr/X/indices/c/0"
    content = file.read_bytes()
    file.write_bytes(content[:100] if damage == "short" else b"\xff\xff" + content[2:])
    with pytest.raises(InputError, match=r"000000\.zarr/X/indices/c/0: is damaged.* Nothing was written"):
        export_cells(atlas)


def test_a_query_that_cannot_be_read_is_refused(atlas: Path) -> None:
    with pytest.raises(InputError, match=r"no such column in obs .* Did you mean 'kind'"):
        export_cells(atlas, where="kinds == 'kind1'")
    with pytest.raises(InputError, match="selects none of the 60 cells: kind is kind0, kind1, kind2"):
        export_cells(atlas, where="kind == 'kind9'")
