"""Tests of builds that something disturbs: interruption, sources that change, folders and disks that will not do."""

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from typer.testing import CliRunner

from selfcell.cli.app import app
from selfcell.core.errors import InputError
from selfcell.data.atlas import build as build_module
from selfcell.data.atlas import gather, pool, runs, scatter
from selfcell.data.atlas.build import append_to_atlas, build_atlas
from selfcell.data.atlas.index import read_index
from selfcell.data.atlas.lock import locked
from selfcell.data.atlas.verify import verify_atlas


@pytest.fixture
def files(tmp_path: Path, disk: SimpleNamespace) -> list[Path]:
    paths = [tmp_path / f"{name}.h5ad" for name in "abc"]
    for seed, path in enumerate(paths):
        disk.write_cells(path, seed=seed)
    return paths


class _Killed(BaseException):
    """As an interruption: no handler of errors sees it."""


@contextlib.contextmanager
def _broken_off_at(module: object, name: str, *, call: int) -> Iterator[None]:
    """Break off what is done in the block at one of the calls of a function."""
    function, n_calls = getattr(module, name), iter(range(10**6))

    def dying(*arguments: object, **options: object) -> object:
        if next(n_calls) == call:
            raise _Killed
        return function(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, dying)
        with pytest.raises(_Killed):
            yield


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (scatter, "write_run", 0),
        (scatter, "write_run", 2),
        (gather, "write_shard", 0),
        (gather, "write_shard", 3),
        (gather, "write_text", 1),
        (build_module, "_clean", 0),
    ],
)
def test_an_interrupted_build_goes_on_to_the_same_shards(
    tmp_path: Path, files: list[Path], disk: SimpleNamespace, module: object, name: str, call: int
) -> None:
    plain = build_atlas(files, tmp_path / "plain", shard_cells=40)
    with _broken_off_at(module, name, call=call):
        build_atlas(files, tmp_path / "atlas", shard_cells=40)
    if name == "_clean":
        # Only the cleaning was left to do.
        with pytest.raises(InputError, match="is an atlas already"):
            build_atlas(files, tmp_path / "atlas", shard_cells=40)
    else:
        with pytest.raises(InputError, match="is not finished"):
            read_index(tmp_path / "atlas")
        build_atlas(files, tmp_path / "atlas", shard_cells=40)
    assert read_index(tmp_path / "atlas").shards == plain.shards
    assert not (tmp_path / "atlas/.build").exists()


def test_what_is_done_is_not_done_again(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with _broken_off_at(gather, "write_shard", call=2):
        build_atlas(files, tmp_path / "atlas", shard_cells=40)
    written = []
    write_shard = gather.write_shard
    monkeypatch.setattr(
        gather, "write_shard", lambda path, **parts: written.append(path.name) or write_shard(path, **parts)
    )
    monkeypatch.setattr(scatter, "write_run", lambda *_, **__: pytest.fail("a run was written again"))
    build_atlas(files, tmp_path / "atlas", shard_cells=40)
    assert "000000.zarr" not in written and "000001.zarr" not in written


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_build_killed_at_any_moment_goes_on_to_the_same_shards(
    tmp_path: Path, disk: SimpleNamespace, workers: int
) -> None:
    files = [tmp_path / f"{name}.h5ad" for name in "ab"]
    for seed, file in enumerate(files):
        disk.write_cells(file, seed=seed, n_cells=2_000)
    plain = build_atlas(files, tmp_path / "plain", shard_cells=100)
    command = [sys.executable, "-c", "from selfcell.cli.app import main; main()", "atlas", "build", *map(str, files)]
    command += ["--shard-cells", "100", "--out", str(tmp_path / "atlas"), "--workers", str(workers)]
    rng = random.Random(workers)
    moments = ["plan.json", "runs/*.run", "shards/*.json", "shards/000010.json"]
    for moment in moments:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not any((tmp_path / "atlas/.build").glob(moment)) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    if not (tmp_path / "atlas/atlas.json").exists():
        subprocess.run(command, check=True, capture_output=True)
    assert read_index(tmp_path / "atlas").shards == plain.shards
    assert verify_atlas(tmp_path / "atlas") == []


def test_control_c_says_how_to_go_on(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gather, "write_shard", interrupted)
    result = CliRunner().invoke(app, ["atlas", "build", *map(str, files), "--out", str(tmp_path / "atlas")])
    assert result.exit_code == 130
    assert "Give the same command again to go on." in result.output


def test_other_options_are_refused_by_name(tmp_path: Path, files: list[Path]) -> None:
    with _broken_off_at(gather, "write_shard", call=1):
        build_atlas(files, tmp_path / "atlas", shard_cells=40)
    with pytest.raises(InputError, match="other options: shard_cells is 50, but was 40"):
        build_atlas(files, tmp_path / "atlas", shard_cells=50)
    with pytest.raises(InputError, match="other options: inputs is"):
        build_atlas(files[:2], tmp_path / "atlas", shard_cells=40)
    index = build_atlas(files[:2], tmp_path / "atlas", shard_cells=50, overwrite=True)
    assert index.n_cells == 120 and verify_atlas(tmp_path / "atlas") == []


def test_an_interrupted_append_goes_on(tmp_path: Path, files: list[Path], disk: SimpleNamespace) -> None:
    for name in ("plain", "atlas"):
        before = build_atlas(files[:1], tmp_path / name, shard_cells=40)
    plain = append_to_atlas(tmp_path / "plain", files[1:])
    with _broken_off_at(gather, "write_shard", call=1):
        append_to_atlas(tmp_path / "atlas", files[1:])
    assert read_index(tmp_path / "atlas") == before
    assert verify_atlas(tmp_path / "atlas") == []
    with pytest.raises(InputError, match=r"Give the same to go on, or begin anew \(--restart\)"):
        append_to_atlas(tmp_path / "atlas", files[1:2])
    assert append_to_atlas(tmp_path / "atlas", files[1:]).shards == plain.shards


def test_an_append_can_be_begun_anew(tmp_path: Path, files: list[Path]) -> None:
    build_atlas(files[:1], tmp_path / "atlas", shard_cells=40)
    with _broken_off_at(gather, "write_shard", call=1):
        append_to_atlas(tmp_path / "atlas", files[1:])
    assert append_to_atlas(tmp_path / "atlas", files[1:2], restart=True).n_cells == 120
    assert verify_atlas(tmp_path / "atlas") == []


@pytest.mark.parametrize("fault", ["changed", "gone", "cut"])
def test_a_source_that_changes_is_named_and_nothing_is_lost(
    tmp_path: Path, files: list[Path], disk: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    plain = build_atlas(files, tmp_path / "plain", shard_cells=40)
    whole, facts = files[1].read_bytes(), files[1].stat()
    read_block, n_calls = scatter._read_block, iter(range(100))

    def disturbed(task: object, source: object, **place: int) -> object:
        if next(n_calls) == 1:
            if fault == "changed":
                files[1].write_bytes(whole[:-1] + b"?")
            elif fault == "gone":
                files[1].unlink()
            else:
                os.truncate(files[1], len(whole) // 3)
        return read_block(task, source, **place)

    with monkeypatch.context() as patch:
        patch.setattr(scatter, "_read_block", disturbed)
        with pytest.raises(InputError, match=str(files[1])):
            build_atlas(files, tmp_path / "atlas", shard_cells=40)
    with pytest.raises(InputError, match=str(files[1])):
        build_atlas(files, tmp_path / "atlas", shard_cells=40)
    assert len(list((tmp_path / "atlas/.build/runs").glob("000000_*.run"))) == 1
    files[1].write_bytes(whole)
    os.utime(files[1], ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert build_atlas(files, tmp_path / "atlas", shard_cells=40).shards == plain.shards


@pytest.mark.parametrize("module", [runs, gather])
def test_a_disk_that_fills_up_is_told_and_nothing_is_lost(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch, module: object
) -> None:
    plain = build_atlas(files, tmp_path / "plain", shard_cells=40)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "os", SimpleNamespace(fsync=full, open=os.open, close=os.close, O_RDONLY=0, name="posix"))
        with pytest.raises(InputError, match=r"no room left on the disk .* Make room and give the same command again"):
            build_atlas(files, tmp_path / "atlas", shard_cells=40)
    assert build_atlas(files, tmp_path / "atlas", shard_cells=40).shards == plain.shards


@pytest.mark.parametrize(("value", "message"), [(-1.0, "negative"), (0.5, "fractional")])
def test_values_that_are_no_counts_are_refused(
    tmp_path: Path, disk: SimpleNamespace, value: float, message: str
) -> None:
    adata = disk.write_cells(tmp_path / "a.h5ad")
    adata.X.data[100] = value
    anndata.AnnData(sp.csr_matrix(adata.X), adata.obs, adata.var).write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match=f"a.h5ad.*{message}"):
        build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas")


def test_two_builds_into_one_folder_are_refused(tmp_path: Path, files: list[Path]) -> None:
    program = f"""
import sys, time
from pathlib import Path
from selfcell.data.atlas.lock import locked
with locked(Path({str(tmp_path / "atlas")!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match=rf"Another process \(process {holder.pid}\) is writing to"):
        build_atlas(files, tmp_path / "atlas")
    holder.kill()
    holder.wait()
    holder.stdout.close()
    # The lock of a killed process is gone with it.
    assert build_atlas(files, tmp_path / "atlas").n_cells == 180


def test_without_locks_of_the_system_a_file_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfcell.data.atlas.lock.fcntl", None)
    with locked(tmp_path), pytest.raises(InputError, match="If it was killed, remove"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_folder_with_other_things_is_refused(tmp_path: Path, files: list[Path]) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/thesis.tex").touch()
    with pytest.raises(InputError, match=r"holds other things, such as thesis\.tex"):
        build_atlas(files, tmp_path / "taken", overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        build_atlas(files, files[0])


def test_an_atlas_is_replaced_on_request_only_and_once_the_new_one_is_sure(tmp_path: Path, files: list[Path]) -> None:
    before = build_atlas(files[:1], tmp_path / "atlas")
    with pytest.raises(InputError, match=r"is an atlas already"):
        build_atlas(files, tmp_path / "atlas")
    with pytest.raises(InputError, match="There is no file"):
        build_atlas([*files, tmp_path / "d.h5ad"], tmp_path / "atlas", overwrite=True)
    assert read_index(tmp_path / "atlas") == before
    assert build_atlas(files, tmp_path / "atlas", overwrite=True).n_cells == 180


def test_a_file_named_twice_is_refused(tmp_path: Path, files: list[Path]) -> None:
    with pytest.raises(InputError, match="is named twice"):
        build_atlas([files[0], files[0]], tmp_path / "atlas")
    with pytest.raises(InputError, match="Name at least one file"):
        build_atlas([], tmp_path / "atlas")


def test_a_worker_that_is_killed_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="A worker was killed"):
        # A function that a worker can import, and that ends it.
        pool.run_tasks(os._exit, [1, 2], workers=2, dask=None, advance=len, look=time.monotonic)


def test_dask_that_is_not_there_is_named(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"in a clone of selfcell, pip install '\.\[dask\]'"):
        build_atlas(files, tmp_path / "atlas", dask="tcp://localhost:1")


def test_a_dask_cluster_builds_the_same_shards(tmp_path: Path, files: list[Path]) -> None:
    distributed = pytest.importorskip("distributed")
    plain = build_atlas(files, tmp_path / "plain", shard_cells=40)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        index = build_atlas(files, tmp_path / "atlas", shard_cells=40, dask=cluster.scheduler_address)
    assert index.shards == plain.shards


def test_no_cell_left_is_told(tmp_path: Path, disk: SimpleNamespace) -> None:
    disk.write_cells(tmp_path / "a.h5ad", is_primary_data=np.zeros(60, dtype=bool))
    with pytest.raises(InputError, match="No cell is left"):
        build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas", primary_only=True)
