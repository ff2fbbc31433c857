"""Every file of a run, of results, of an atlas and of a checkpoint, damaged: it works, or we say which file it is."""

import contextlib
import json
import os
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from hypothesis import given

import selfcell
from selfcell.benchmark.evaluate import evaluate
from selfcell.core.errors import InputError
from selfcell.data.atlas.build import build_atlas
from selfcell.data.atlas.cells import open_atlas
from selfcell.data.atlas.export import export_cells
from selfcell.data.atlas.verify import verify_atlas
from selfcell.data.buffers import BufferPool
from selfcell.data.simulate import simulate_cells
from selfcell.downstream.impute import impute
from selfcell.reporting.html import write_report
from selfcell.reporting.terminal import print_results
from selfcell.training.resume import Reached
from selfcell.training.run_folder import load
from selfcell.training.safe_checkpoint import SafetensorsCheckpointIO

damage = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "damage.py")))
RUN = ("manifest.json", "config.toml", "genes.csv", "encoder.safetensors", "heads.safetensors", "split.json")
ALL = (*RUN, "cells.safetensors", "log.csv")
PAGE = ("manifest.json", "config.toml", "log.csv")
ADATA = simulate_cells(n_cells=60, n_genes=60, n_types=3, n_donors=5, seed=0)


def fresh(source, target):
    """Copy a folder over what was there."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def use(run, folder, name):
    """Load a run and use it in each way that reads a file of its."""
    if name in PAGE:
        with damage.works_or_says(*PAGE, str(run)):
            write_report(run, out=folder / "page.html")
    # A threshold that is missing is one that the classifier was not asked to learn.
    with damage.works_or_says(*ALL, "classifier knows alpha"):
        model = load(run)
        assert model.known_cells is None or len(model.known_cells.learned_from)
        selfcell.embed(ADATA.copy(), model)
        if model.labels is not None:
            selfcell.annotate(ADATA.copy(), model)
        elif model.manifest["kind"] == "pretrained":
            impute(ADATA.copy(), model)


@pytest.mark.parametrize("kind", ["model", "classifier"])
@pytest.mark.parametrize("name", ALL)
@damage.examples(5)
@given(random=damage.randoms)
def test_a_file_of_a_run(request, tmp_path, kind, name, random):
    run = fresh(request.getfixturevalue(kind).path, tmp_path / "run")
    damage.of_file(run / name, random)
    use(run, tmp_path, name)


@pytest.mark.parametrize("name", RUN)
@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"[]", b"\x00" * 64, b'{"format_version": 2}', None])
def test_a_file_of_a_run_that_is_emptied_or_something_else(model, tmp_path, name, content):
    run = fresh(model.path, tmp_path / "run")
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(content)
    if name == "split.json" and content is None:  # of an imported model there is none
        assert load(run).split is None
        return
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        load(run)


def test_settings_that_ask_for_a_huge_network_take_no_memory(model, tmp_path):
    run = fresh(model.path, tmp_path / "run")
    text = (run / "config.toml").read_text()
    assert "n_latent = 16\n" in text
    (run / "config.toml").write_text(text.replace("n_latent = 16\n", f"n_latent = {10**12}\n"))
    with pytest.raises(InputError, match=r"encoder\.safetensors is damaged, .*layers.*1000000000000"):
        load(run)


def test_weights_that_are_not_finite_are_refused(model, tmp_path):
    run = fresh(model.path, tmp_path / "run")
    weights = safetensors.torch.load_file(run / "encoder.safetensors")
    name = next(iter(weights))
    weights[name].view(-1)[0] = torch.nan
    safetensors.torch.save_file(weights, run / "encoder.safetensors")
    with pytest.raises(InputError, match=f"{name} has values that are not finite"):
        load(run)


@damage.examples(10)
@given(random=damage.randoms)
def test_the_checkpoint_of_an_interrupted_run(model, tmp_path, random):
    file = tmp_path / "last.safetensors"
    content = (model.path / "checkpoints" / "last.safetensors").read_bytes()
    if random.random() < 0.5:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        state = damage.of_json(json.loads(header["__metadata__"]["state"]), random)
        header["__metadata__"]["state"] = json.dumps(state)
        written = json.dumps(header).encode()
        content = len(written).to_bytes(8, "little") + written + content[8 + size :]
    else:
        content = damage.of_bytes(content, random)
    file.write_bytes(content)
    with damage.works_or_says("last.safetensors"):
        Reached.of(file)
    with damage.works_or_says("last.safetensors"):
        SafetensorsCheckpointIO().load_checkpoint(file)


@pytest.fixture(scope="module")
def results(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "judged"
    how = {"n_seeds": 1, "regimes": ("zero_shot",), "baselines": ("pca_knn",), "jobs": 1, "show_progress": False}
    cells = simulate_cells(n_cells=90, n_genes=60, n_types=3, n_donors=5, seed=1)
    evaluate(model, cells, label_key="cell_type", donor_key="donor", out=out, **how)
    return out


@damage.examples(4)
@given(random=damage.randoms)
def test_a_file_of_results(results, tmp_path, random):
    folder = fresh(results, tmp_path / "judged")
    damage.of_file(random.choice(sorted(folder.glob("[a-z]*.*"))), random)
    with damage.works_or_says(str(folder)):
        write_report(folder, out=tmp_path / "page.html")
    with damage.works_or_says(str(folder)), Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        print_results(folder)


def test_tables_of_other_folders_are_not_read(results, tmp_path):
    folder = fresh(results, tmp_path / "judged")
    about = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({**about, "details": ["../../secret"]}))
    with pytest.raises(InputError, match=r"study\.json is damaged.*details cannot be"):
        write_report(folder)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    folder = tmp_path_factory.mktemp("atlas")
    ADATA.write_h5ad(folder / "cells.h5ad")
    build_atlas([folder / "cells.h5ad"], folder / "atlas", shard_cells=30)
    return folder / "atlas"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("which", ["atlas.json", "shards"])
@damage.examples(4)
@given(random=damage.randoms)
def test_a_file_of_an_atlas(atlas, tmp_path, which, random):
    folder = fresh(atlas, tmp_path / "atlas")
    below = [folder / which] if which == "atlas.json" else sorted(folder.glob("shards/**/*"))
    damage.of_file(random.choice([file for file in below if file.is_file()]), random)
    with damage.works_or_says(str(folder), "atlas"):
        verify_atlas(folder)
    with damage.works_or_says(str(folder), "atlas"):
        export_cells(folder)
    with damage.works_or_says(str(folder), "atlas"):
        cells = open_atlas(folder)
        rows = cells.rows.read(torch.arange(len(cells.rows)).numpy(), BufferPool())
        assert len(rows.gene_index) == len(rows.values)
        cells.obs.table(cells.subset)


def test_an_atlas_names_no_shard_elsewhere(atlas, tmp_path):
    folder = fresh(atlas, tmp_path / "atlas")
    index = json.loads((folder / "atlas.json").read_text())
    index["shards"][0]["name"] = "../../elsewhere.zarr"
    (folder / "atlas.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"atlas\.json is damaged: shards\.0\.name"):
        open_atlas(folder)
