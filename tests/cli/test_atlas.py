"""Tests of ``selfcell atlas``."""

from pathlib import Path

import anndata
import pytest
from typer.testing import CliRunner

from selfcell.cli.app import app
from selfcell.core.errors import InputError
from selfcell.data.simulate import simulate_cells


def _run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["atlas", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.h5ad" for name in "ab"]
    for seed, path in enumerate(paths):
        simulate_cells(n_cells=50, n_genes=30, seed=seed).write_h5ad(path)
    return paths


def test_an_atlas_from_build_to_export(tmp_path: Path, files: list[Path]) -> None:
    out = tmp_path / "atlas"
    built = _run("build", files[0], "--out", out, "--obs", "type", "--rename", "cell_type=type", "--shard-cells", 30)
    assert f"Wrote {out}: 50 cells in 2 shards, 0." in built
    assert "now has 100 cells in 4 shards, 0." in _run("append", out, files[1])
    told = _run("info", out)
    assert "100 cells x 30 genes, 4 shards" in told
    assert "type: type " in told and "donor" not in told
    assert "b.h5ad: 50 of 50 cells; counts from X; 30 of its 30 genes" in told
    assert "All is well: 100 cells in 4 shards, " in _run("verify", out)
    _run("export", out, "--out", tmp_path / "part.h5ad", "--where", "type == 'type 1'", "--max-cells", 7)
    part = anndata.read_h5ad(tmp_path / "part.h5ad")
    assert part.n_obs == 7 and set(part.obs["type"]) == {"type 1"}


def test_an_append_may_name_things_otherwise(tmp_path: Path, files: list[Path]) -> None:
    other = simulate_cells(n_cells=40, n_genes=30, seed=2)
    other.layers["raw_counts"] = other.X.copy()
    other.X = other.X.log1p()
    other.obs = other.obs.rename(columns={"cell_type": "annotation"})
    other.write_h5ad(tmp_path / "c.h5ad")
    out = tmp_path / "atlas"
    _run("build", files[0], "--out", out, "--rename", "cell_type=type", "--source-key", "file")
    given = ("--layer", "raw_counts", "--rename", "annotation=type")
    assert "now has 90 cells" in _run("append", out, tmp_path / "c.h5ad", *given)
    assert "now has 140 cells" in _run("append", out, files[1])
    told = _run("info", out)
    assert "no value" not in told and "unknown" not in told
    assert "file: a (50), b (50), c (40)" in told


def test_a_damaged_atlas_ends_with_1_and_names_the_file(tmp_path: Path, files: list[Path]) -> None:
    _run("build", *files, "--out", tmp_path / "atlas")
    file = tmp_path / "atlas/shards/000000.zarr/X/data/c/0"
    file.write_bytes(b"\xff" + file.read_bytes()[1:])
    assert "shards/000000.zarr/X/data/c/0: is damaged" in _run("verify", tmp_path / "atlas", code=1)


def test_a_rename_needs_two_names(tmp_path: Path, files: list[Path]) -> None:
    with pytest.raises(InputError, match="--rename takes OLD=NEW, but got 'cell_type'"):
        _run("build", *files, "--out", tmp_path / "atlas", "--rename", "cell_type")


def test_a_folder_without_an_atlas_is_refused(tmp_path: Path) -> None:
    for command in ("info", "verify"):
        with pytest.raises(InputError, match="is not an atlas"):
            _run(command, tmp_path)
