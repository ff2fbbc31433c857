"""A disk that is full, read-only or fails: a message with the path, the old file as it was, and nothing left over."""

import contextlib
import ctypes
import errno
import os
import pickle
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mudata
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

import selfcell
from selfcell.benchmark.run import run_benchmark
from selfcell.benchmark.trials import Workplace
from selfcell.core.atomic import atomic_folder, atomic_path, write_text
from selfcell.core.errors import InputError
from selfcell.core.exchange import exchange
from selfcell.core.write_errors import CannotWriteError, writing
from selfcell.data.atlas.build import build_atlas
from selfcell.data.simulate import simulate_cells

pages = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "docs" / "cells_of_pages.py")))
_LIBRARY = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def mounted(folder, *, size="300k"):
    """Mount a small disk in memory, or skip where this may not be done."""
    folder.mkdir()
    mount = getattr(_LIBRARY, "mount", None)
    if mount is None or mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()) != 0:
        pytest.skip("no disk can be mounted here: that takes Linux and its root user")
    try:
        yield folder
    finally:
        # At once, whatever still has a file open.
        detach = 2
        assert _LIBRARY.umount2(os.fsencode(folder), detach) == 0


def remounted(folder, *, read_only):
    remount, only_reading = 32, 1
    how = remount | (only_reading if read_only else 0)
    assert _LIBRARY.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", how, b"") == 0


@pytest.fixture
def small_disk(tmp_path):
    with mounted(tmp_path / "disk") as folder:
        yield folder


@pytest.fixture
def read_only(tmp_path):
    """A disk with some files on it, which can then only be read."""
    with mounted(tmp_path / "disk", size="8m") as folder:
        (folder / "out.h5ad").write_bytes(b"old")
        (folder / "out.csv").write_bytes(b"old")
        (folder / "out.h5mu").write_bytes(b"old")
        (folder / "run").mkdir()
        (folder / "run" / ".selfcell").touch()
        (folder / "run" / "manifest.json").write_text("{}")
        remounted(folder, read_only=True)
        yield folder


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


RANDOM = np.random.default_rng(0).random(10**5)
WRITERS = {
    "text": lambda path: path.write_text("x" * 10**6),
    "CSV": lambda path: pd.DataFrame({"x": RANDOM}).to_csv(path),
    "Parquet": lambda path: pd.DataFrame({"x": RANDOM}).to_parquet(path),
    "safetensors": lambda path: safetensors.torch.save_file({"x": torch.from_numpy(RANDOM)}, path),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_told_with_the_path_and_the_old_file_stays(small_disk, kind):
    path = small_disk / "a.dat"
    path.write_bytes(b"old")
    message = r"a\.dat cannot be written: .*Make room"
    with pytest.raises(CannotWriteError, match=message) as told, atomic_path(path) as temporary:
        WRITERS[kind](temporary)
    assert told.value.errno == errno.ENOSPC
    assert files_of(small_disk) == {"a.dat": b"old"}


def test_a_folder_that_does_not_fit_leaves_the_old_one(small_disk):
    with atomic_folder(small_disk / "model") as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(CannotWriteError, match="model cannot be written"), atomic_folder(small_disk / "model") as new:
        (new / "a").write_text("x" * 10**6)
    assert files_of(small_disk) == {"model/a": b"old"}


QUICK = ["--set", "training.max_epochs=1", "--set", "training.device=cpu"]
LABELLED = ["--label", "cell_type", "--donor", "donor"]
COMMANDS = {
    "embed": (["RUN", "CELLS"], "out.h5ad"),
    "embed into a MuData": (["RUN", "MUDATA"], "out.h5mu"),
    "annotate": (["TYPED", "CELLS"], "out.h5ad"),
    "predict": (["RUN", "CELLS", "--reference", "CITE", "--target", "protein_counts"], "out.h5ad"),
    "impute": (["RUN", "CELLS"], "out.h5ad"),
    "score": (["CELLS", "--embedding", "X_pca", "--label", "cell_type"], "out.csv"),
    "report": (["RUN"], "out.html"),
    "export": (["RUN"], "out.pt2"),
    "pretrain": (["CELLS", "--donor", "donor", *QUICK], "run"),
    "finetune": (["RUN", "CELLS", *LABELLED, *QUICK], "run"),
    "import-checkpoint": (["CHECKPOINT", "--genes", "GENES"], "run"),
    "pull": (["lab/blood"], "run"),
    "evaluate": (["RUN", "CELLS", *LABELLED, "--jobs", "1", "--regime", "zero_shot", "--seeds", "1"], "run"),
    "atlas build": (["CELLS"], "atlas"),
    "atlas export": (["ATLAS"], "out.h5ad"),
    "benchmark": (["PLAN", "--jobs", "1"], "results"),
    "benchmark merge": (["RESULTS"], "results"),
    "benchmark init": (["CELLS", *LABELLED], "plan.toml"),
}
"""To the arguments, and to what is made on the disk."""
NAMED = {"embed into a MuData": "embed"}
SMALL = {"score", "benchmark init", "evaluate", "benchmark", "benchmark merge"}
"""Of these all that is written, or so much that the message is another one, fits on some pages."""


PLAN = """
name = "tiny"
seeds = { pretraining = [0], finetuning = [0] }
[cells.made]
source = "cells.h5ad"
label = "cell_type"
donor = "donor"
[corpora.made]
cells = "made"
[corpora.made.settings]
data = { donor_key = "donor", test_fraction = 0.3 }
training = { max_epochs = 1, minibatch_size = 32, device = "cpu" }
network = { hidden_sizes = [8], n_latent = 4 }
[targets.types]
cells = "made"
regimes = ["zero_shot"]
baselines = ["pca_knn"]
"""


@pytest.fixture(scope="module")
def given(model, classifier, tmp_path_factory):
    """What the words in capitals stand for."""
    folder = tmp_path_factory.mktemp("given")
    cells = simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, n_proteins=4, seed=0)
    cells.obsm["X_pca"] = np.random.default_rng(0).normal(size=(300, 4))
    cells.write_h5ad(folder / "cells.h5ad")
    simulate_cells(n_cells=90, n_genes=60, n_proteins=4, seed=1).write_h5ad(folder / "cite.h5ad")
    pages.write_checkpoint(list(cells.var_names), folder)
    with mudata.set_options(pull_on_update=False):
        mudata.MuData({"rna": cells}).write(folder / "cells.h5mu")
    build_atlas([folder / "cells.h5ad"], folder / "atlas")
    (folder / "plan.toml").write_text(PLAN)
    run_benchmark(folder / "plan.toml", out=folder / "results", workplace=Workplace(jobs=1, show_progress=False))
    names = {"CELLS": "cells.h5ad", "CITE": "cite.h5ad", "CHECKPOINT": "RandomMask.ckpt", "GENES": "var.parquet"}
    names |= {"MUDATA": "cells.h5mu", "ATLAS": "atlas", "PLAN": "plan.toml", "RESULTS": "results"}
    return {"RUN": model.path, "TYPED": classifier.path, **{word: folder / name for word, name in names.items()}}


def errors_of(server, command, disk, *, given, more=(), environment=None):
    """Run a command that must fail, in a process of its own, and give what it says."""
    arguments, name = COMMANDS[command]
    words = [given.get(word, word) for word in arguments]
    words = [*NAMED.get(command, command).split(), *words, "--out", disk / name, *more]
    told = server.run(words, disk, environment=environment)
    assert told["code"] == 1, told
    said = str(told["errors"])
    assert "Traceback" not in said and str(disk) in said, said
    return said


def fill(disk, *, leaving):
    """Leave so many bytes of room, in pages of 4 KiB."""
    with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    os.truncate(disk / "filler", (disk / "filler").stat().st_size - leaving)


@pytest.mark.parametrize(
    ("command", "leaving"),
    [*((name, 0) for name in COMMANDS), *((name, 20480) for name in COMMANDS if name not in SMALL)],
)
def test_a_command_on_a_full_disk(server, given, request, small_disk, command, leaving):
    """Filled to the last page, or but for some: the smallest files still fit."""
    environment = None
    if command == "pull":
        environment = request.getfixturevalue("asking")
        selfcell.push(given["RUN"], "lab/blood", license_id="mit")
    fill(small_disk, leaving=leaving)
    before = files_of(small_disk)
    said = errors_of(server, command, small_disk, given=given, environment=environment)
    assert any(word in said for word in ("No space left on device", "no room left", "is free")), said
    if "." in COMMANDS[command][1]:
        assert files_of(small_disk) == before
    assert not list(small_disk.rglob("*.partial*"))


def test_the_old_file_stays_where_the_new_one_does_not_fit(server, given, small_disk):
    (small_disk / "out.h5ad").write_bytes(b"old")
    fill(small_disk, leaving=20480)
    before = files_of(small_disk)
    said = errors_of(server, "embed", small_disk, given=given, more=["--overwrite"])
    assert "No space left on device" in said and files_of(small_disk) == before


def test_a_full_cache_of_the_hub_is_told_with_its_place(server, given, hub, asking, small_disk):
    selfcell.push(given["RUN"], "lab/blood", license_id="mit")
    fill(small_disk, leaving=0)
    told = server.run(["pull", "lab/blood"], small_disk, environment={**asking, "HF_HOME": str(small_disk)})
    said = told["errors"]
    assert told["code"] == 1 and "Traceback" not in said
    assert f"has no room for lab/blood@{hub.repositories['lab/blood'].branches['main']} (No space left" in said
    assert f"{small_disk}/hub. Make room there, or name another place (HF_HUB_CACHE)" in said


NOT_WRITTEN_OVER = {"benchmark", "benchmark merge", "pull"}
"""They add to what is there, or ask the Hub first."""


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in NOT_WRITTEN_OVER])
def test_a_command_on_a_disk_that_can_only_be_read(server, given, read_only, command):
    before = files_of(read_only)
    more = [] if command == "report" else ["--overwrite"]
    said = errors_of(server, command, read_only, given=given, more=more)
    assert "Read-only file system" in said
    assert files_of(read_only) == before


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.ENOSPC, "Make room"),
        (errno.EDQUOT, "Make room"),
        (errno.EROFS, "Name a place that you may write to"),
        (errno.EACCES, "Name a place that you may write to"),
        (errno.EIO, "The disk or the network drive fails"),
        (errno.ENAMETOOLONG, "Take a shorter name"),
    ],
)
def test_what_the_system_says_comes_with_path_and_mend(tmp_path, monkeypatch, number, mend):
    """Put in by hand, so that it is tested without root too."""
    path = tmp_path / "a.json"
    path.write_text("old")

    def failing(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", failing)
        with pytest.raises(CannotWriteError, match=rf"a\.json cannot be written: {os.strerror(number)}\. {mend}"):
            write_text(path, "new")
    assert files_of(tmp_path) == {"a.json": b"old"}


def test_what_is_no_fault_of_writing_passes(tmp_path):
    for error in (ValueError("shapes"), FileNotFoundError(errno.ENOENT, "no", "x"), InputError("said"), OSError("odd")):
        with pytest.raises(type(error)) as raised, writing(tmp_path / "a"):
            raise error
        assert raised.value is error
    elsewhere = PermissionError(errno.EACCES, "Permission denied", "/elsewhere/secret.csv")
    with pytest.raises(PermissionError) as raised, writing(tmp_path / "a"):
        raise elsewhere
    assert raised.value is elsewhere


def test_without_an_exchange_of_the_system_folders_are_exchanged_by_renames(tmp_path, monkeypatch):
    monkeypatch.setattr("selfcell.core.exchange._exchanged", lambda *_: False)
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    exchange(tmp_path / "new", tmp_path / "old")
    assert set(files_of(tmp_path)) == {"old/new", "new/old"}


@pytest.mark.skipif(sys.platform != "linux", reason="the system's exchange of two folders is Linux's")
def test_a_folder_is_never_missing_while_it_is_replaced(tmp_path):
    """Looked at by another process, over and over."""
    model, stop = tmp_path / "model", tmp_path / "stop"
    with atomic_folder(model) as temporary:
        (temporary / "a").touch()
    program = (
        "import os, sys\nn = missing = 0\n"
        "while not os.path.exists(sys.argv[2]):\n n += 1; missing += not os.path.exists(sys.argv[1])\n"
        "print(n, missing)"
    )
    looker = subprocess.Popen([sys.executable, "-c", program, model, stop], stdout=subprocess.PIPE, text=True)
    for _ in range(300):
        with atomic_folder(model) as temporary:
            (temporary / "a").touch()
    stop.touch()
    n_looks, n_missing = map(int, looker.communicate(timeout=60)[0].split())
    assert n_looks and not n_missing


def test_an_error_goes_through_to_another_process_whole():
    error = pickle.loads(pickle.dumps(CannotWriteError("a cannot be written", errno.ENOSPC)))
    assert str(error) == "a cannot be written" and error.errno == errno.ENOSPC and isinstance(error, InputError)


def test_a_folder_of_ours_stays_ours_however_its_emptying_ends(model, tmp_path, small_settings, adata, monkeypatch):
    """What says that it may be replaced goes never, and what makes it a model goes first."""
    run = tmp_path / "run"
    shutil.copytree(model.path, run)
    unlink, n_calls = Path.unlink, iter(range(100))

    def killed(path, **how):
        if next(n_calls) == 3:
            raise KeyboardInterrupt
        unlink(path, **how)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            selfcell.pretrain(adata, small_settings, out=run, overwrite=True, show_progress=False)
    assert (run / ".selfcell").exists() and not (run / "manifest.json").exists()
    with pytest.raises(InputError, match="is not a run folder"):
        selfcell.load(run)
    selfcell.pretrain(adata, small_settings, out=run, overwrite=True, show_progress=False)
