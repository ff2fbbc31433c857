"""Killed at any moment that others could see, a command leaves the old or the new, and can be given again.

The moments are not chosen by a clock: the command is run once to list by which renames, removals and new folders it
changes its folder, and then killed before some of them (``kill_server.py``): the first, the last and the last
renaming, by which what is new takes its place; ``SELFCELL_FUZZ`` above 1 takes every one.
"""

import functools
import hashlib
import json
import os
import runpy
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import anndata
import mudata
import pytest

import selfcell
from selfcell.benchmark.results import read_results
from selfcell.core.errors import InputError
from selfcell.data.atlas.build import build_atlas
from selfcell.data.atlas.index import read_index
from selfcell.data.atlas.verify import verify_atlas
from selfcell.data.mudata_input import read_mudata
from selfcell.data.simulate import simulate_cells
from selfcell.training.out_folder import replaced_run
from selfcell.training.run_folder import load

pytestmark = pytest.mark.slow
pages = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "docs" / "cells_of_pages.py")))
EVERYWHERE = os.environ.get("SELFCELL_FUZZ", "1") != "1"
QUICK = ["--set", "training.max_epochs=1", "--set", "training.device=cpu"]
SMALL = [*QUICK, "--donor", "donor", "--set", "network.hidden_sizes=[8]", "--set", "network.n_latent=4"]


@pytest.fixture(scope="module")
def made(server, tmp_path_factory):
    """Cells, a run, a classifier and an atlas, to begin from."""
    folder = tmp_path_factory.mktemp("made")
    cells = simulate_cells(n_cells=120, n_genes=30, n_types=3, n_donors=5, n_proteins=4, seed=0)
    cells.write_h5ad(folder / "cells.h5ad")
    with mudata.set_options(pull_on_update=False):
        mudata.MuData({"rna": cells}).write(folder / "cells.h5mu")
    proteins = ("--task", "cross_modality", "--target", "protein_counts", "--out", folder / "proteins", *QUICK)
    for arguments in (
        ("pretrain", folder / "cells.h5ad", "--out", folder / "run", *SMALL),
        ("finetune", folder / "run", folder / "cells.h5ad", "--label", "cell_type", "--out", folder / "typed", *QUICK),
        ("finetune", folder / "run", folder / "cells.h5ad", *proteins),
        ("embed", folder / "run", folder / "cells.h5ad", "--out", folder / "embedded.h5ad"),
    ):
        assert server.run(arguments, folder)["code"] == 0
    build_atlas([folder / "cells.h5ad"], folder / "atlas", shard_cells=50)
    return folder


def content_of(place):
    """Give the files that a place has for others, by their hashes: none that are hidden."""
    paths = [place] if place.is_file() else sorted(place.rglob("*")) if place.exists() else []
    shown = [path for path in paths if path.is_file() and not path.relative_to(place.parent).name.startswith(".")]
    return {str(path.relative_to(place.parent)): hashlib.sha256(path.read_bytes()).hexdigest() for path in shown}


def places_to_kill(changes):
    if EVERYWHERE:
        return range(len(changes))
    renamings = [place for place, change in enumerate(changes) if change.startswith(("os.rename", "exchange"))]
    return sorted({0, *renamings[-1:], len(changes) - 1})


def kill_everywhere(server, work, begin, arguments, *, again, is_old, is_new):
    """Kill a command at each of its changes; what is there must be old or new each time, and then be made whole.

    Parameters
    ----------
    begin
        Puts the folder into the state before the command.
    again
        Gives the arguments by which it is gone on with, or given again.
    is_old, is_new
        Tell the state of the folder.
    """
    begin()
    told = server.run(arguments, work)
    assert told["code"] == 0 and is_new()
    for place in places_to_kill(told["made"]):
        begin()
        assert server.run(arguments, work, at=place)["killed"], told["made"][place]
        assert is_old() or is_new(), told["made"][place]
        assert server.run(again(), work)["code"] == 0, told["made"][place]
        assert is_new(), told["made"][place]


FILES = {
    "embed": ("run cells.h5ad --overwrite", lambda adata: "X_selfcell" in adata.obsm),
    "embed into a MuData": ("run cells.h5mu --overwrite", lambda mdata: "X_selfcell" in mdata["rna"].obsm),
    "annotate": ("typed cells.h5ad --overwrite", lambda adata: "predicted_type" in adata.obs),
    "impute": ("run cells.h5ad --overwrite", lambda adata: "imputed" in adata.layers),
    "atlas export": ("atlas --overwrite", lambda adata: adata.n_obs == 120),
    "score": ("embedded.h5ad --label cell_type --embedding X_selfcell --overwrite", None),
    "benchmark init": ("cells.h5ad --label cell_type --donor donor --overwrite", None),
    "report": ("run", None),
    "predict": ("proteins cells.h5ad --overwrite", lambda adata: "predicted_protein_counts" in adata.obsm),
    "export": ("run --overwrite", None),
}
COMMANDS = {"embed into a MuData": "embed"}
SUFFIXES = {
    "embed into a MuData": ".h5mu",
    "score": ".csv",
    "benchmark init": ".toml",
    "report": ".html",
    "export": ".pt2",
}


@pytest.mark.parametrize("command", FILES)
def test_a_command_that_writes_a_file(server, made, tmp_path, command):
    options, is_whole = FILES[command]
    out = tmp_path / f"out{SUFFIXES.get(command, '.h5ad')}"
    words = [made / word if (made / word).exists() else word for word in options.split()]
    arguments = [*COMMANDS.get(command, command).split(), *words, "--out", out]

    def is_new():
        if out.read_bytes() == b"old":
            return False
        read = read_mudata if out.suffix == ".h5mu" else anndata.read_h5ad
        return is_whole is None or is_whole(read(out))

    kill_everywhere(
        server,
        tmp_path,
        lambda: out.write_bytes(b"old"),
        arguments,
        again=lambda: arguments,
        is_old=lambda: out.read_bytes() == b"old",
        is_new=is_new,
    )


def kill_while_a_folder_is_replaced(server, made, tmp_path, arguments, *, is_new):
    """What stood there is a whole model until the new one is."""
    out = tmp_path / "model"

    def begin():
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made / "run", out)

    before = content_of(made / "run")
    kill_everywhere(
        server,
        tmp_path,
        begin,
        [*arguments, "--out", out, "--overwrite"],
        again=lambda: [*arguments, "--out", out, "--overwrite"],
        is_old=lambda: list(content_of(out).values()) == list(before.values()),
        is_new=lambda: is_new(load(out)),
    )


def test_an_import(server, made, tmp_path):
    pages.write_checkpoint([f"G{place}" for place in range(30)], made)
    arguments = ["import-checkpoint", made / "RandomMask.ckpt", "--genes", made / "var.parquet"]
    kill_while_a_folder_is_replaced(
        server, made, tmp_path, arguments, is_new=lambda model: "imported" in model.manifest
    )


def test_a_pull(server, made, asking, tmp_path):
    selfcell.push(made / "run", "lab/blood", license_id="mit")
    with_hub = SimpleNamespace(run=functools.partial(server.run, environment=asking))
    kill_while_a_folder_is_replaced(
        with_hub, made, tmp_path, ["pull", "lab/blood"], is_new=lambda model: "command" not in model.manifest
    )


@pytest.mark.parametrize("there", ["nothing", "another model"])
def test_a_push(server, made, hub, asking, tmp_path, there):
    """Killed before the Hub answers a request, the last too: what it has is the old model or the new, whole."""
    push = functools.partial(server.run, watch=tmp_path, environment=asking)
    arguments = ["push", made / "run", "lab/blood", "--license", "mit"]
    if there == "another model":
        selfcell.push(made / "typed", "lab/blood", license_id="mit")
    before = {} if there == "nothing" else hub.files("lab/blood")

    def begin(kill_at):
        hub.repositories.clear()
        hub.uploads.clear()
        hub.asked.clear()
        if before:
            hub.put("lab/blood", before)
        process = server.errors.with_suffix(".pid")
        hub.before_answer = lambda n: os.kill(int(process.read_text()), signal.SIGKILL) if n == kill_at else None

    begin(None)
    assert push(arguments)["code"] == 0
    new, asked = hub.files("lab/blood"), [path for _, path, _ in hub.asked]
    commits = [place for place, path in enumerate(asked) if "/commit/" in path]
    assert len(commits) == 1 and new.keys() >= {"encoder.safetensors", "manifest.json", "README.md"}
    for place in range(len(asked)) if EVERYWHERE else [0, commits[0]]:
        begin(place)
        assert push(arguments)["killed"], asked[place]
        # The Hub may still answer what it was asked.
        left = hub.files("lab/blood") if "lab/blood" in hub.repositories else {}
        assert left in (before, new) or set(left) == {".gitattributes"}, asked[place]
        hub.before_answer = lambda _: None
        assert push(arguments)["code"] == 0 and hub.files("lab/blood") == new, asked[place]


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_a_training(server, made, tmp_path, command):
    """Until it is finished the run that it replaces is kept, and then it goes on, or begins anew."""
    out = tmp_path / "run"
    given = [made / "cells.h5ad"] if command == "pretrain" else [made / "run", made / "cells.h5ad"]
    options = SMALL if command == "pretrain" else ["--label", "cell_type", "--donor", "donor", *QUICK]
    arguments = [command, *given, "--out", out, *options]

    def begin():
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(replaced_run(out), ignore_errors=True)
        shutil.copytree(made / "run", out)

    before = content_of(made / "run")

    def is_old():
        return list(before.values()) in [list(content_of(place).values()) for place in (out, replaced_run(out))]

    def is_new():
        is_whole = out.exists() and not is_begun(out)
        return is_whole and load(out).manifest["command"].startswith(f"selfcell {command} ")

    kill_everywhere(
        server,
        tmp_path,
        begin,
        [*arguments, "--overwrite"],
        again=lambda: [*arguments, "--resume" if is_begun(out) else "--overwrite"],
        is_old=is_old,
        is_new=is_new,
    )
    assert not replaced_run(out).exists()


def is_begun(out):
    """Tell whether there is something to go on with: without a manifest there is not."""
    return (out / "manifest.json").exists() and json.loads((out / "manifest.json").read_text())["status"] == "training"


def test_a_finetuning_that_is_prolonged_is_not_taken_for_finished(server, made, tmp_path):
    out = tmp_path / "typed"
    longer = ["--set", "training.max_epochs=3", "--set", "training.device=cpu", "--resume"]
    arguments = ["finetune", made / "run", made / "cells.h5ad", "--label", "cell_type", "--out", out, *longer]

    def begin():
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made / "typed", out)

    kill_everywhere(
        server,
        tmp_path,
        begin,
        arguments,
        again=lambda: arguments,
        is_old=lambda: is_begun(out) or load(out).manifest["fit"]["epochs"] == 1,
        is_new=lambda: not is_begun(out) and load(out).manifest["fit"]["epochs"] == 3,
    )


def test_an_evaluation(server, made, tmp_path):
    """The old results stay until all of the new are there, and trials that are done are not lost."""
    out = tmp_path / "judged"
    how = ["--label", "cell_type", "--donor", "donor", "--seeds", "1", "--jobs", "1", "--regime", "zero_shot"]
    arguments = ["evaluate", made / "run", made / "cells.h5ad", *how, "--baseline", "pca_knn", "--out", out]
    assert server.run(arguments, tmp_path)["code"] == 0
    shutil.copytree(out, tmp_path / "before")
    before = content_of(out)

    def begin():
        shutil.rmtree(out)
        shutil.copytree(tmp_path / "before", out)

    def has_new_tables():
        try:
            return read_results(out).about["n_seeds"] == 2
        except InputError:
            return False

    two = list(arguments)
    two[two.index("--seeds") + 1] = "2"
    kill_everywhere(
        server,
        tmp_path,
        begin,
        [*two, "--overwrite"],
        again=lambda: [*two, "--overwrite"],
        # The page is made of the tables, after them.
        is_old=lambda: content_of(out) == before or has_new_tables(),
        is_new=lambda: has_new_tables() and len(content_of(out)) == len(before),
    )


@pytest.mark.parametrize("command", ["build", "append"])
def test_an_atlas(server, made, tmp_path, command):
    out = tmp_path / "atlas"
    more = tmp_path / "more.h5ad"
    simulate_cells(n_cells=90, n_genes=30, n_types=3, n_donors=5, seed=1).write_h5ad(more)
    arguments = ["atlas", command, *([] if command == "build" else [out]), more]
    arguments += ["--out", out, "--overwrite", "--shard-cells", "50"] if command == "build" else []
    n_cells = 90 if command == "build" else 210

    def begin():
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made / "atlas", out)

    def is_old():
        """The old one, whole; or none that anyone could take for one."""
        try:
            return read_index(out).n_cells == 120 and verify_atlas(out) == []
        except InputError:
            return True

    def again():
        # Killed in its last step, there is nothing left to do but to clean.
        done = (out / "atlas.json").exists() and read_index(out).n_cells == n_cells
        return ["atlas", "verify", out] if done else arguments

    kill_everywhere(
        server,
        tmp_path,
        begin,
        arguments,
        again=again,
        is_old=is_old,
        is_new=lambda: (out / "atlas.json").exists() and read_index(out).n_cells == n_cells and not verify_atlas(out),
    )


@pytest.mark.network
@pytest.mark.parametrize(("among", "at"), [("/runs/seed1", 0), ("study.json", 0)])
def test_the_demo(server, tmp_path, among, at):
    """What was there is left, until all of the new is; the same command makes that."""
    arguments = ["demo", "--quick", "--out", tmp_path / "demo", "--overwrite"]
    old = {".selfcell": b"", "study.json": b"old"}
    (tmp_path / "demo").mkdir()
    for name, content in old.items():
        (tmp_path / "demo" / name).write_bytes(content)
    assert server.run(arguments, tmp_path, at=at, among=among)["killed"]
    assert {file.name: file.read_bytes() for file in (tmp_path / "demo").iterdir()} == old
    assert server.run(arguments, tmp_path)["code"] == 0
    assert read_results(tmp_path / "demo").about["quick"] and (tmp_path / "demo" / "report.html").exists()
