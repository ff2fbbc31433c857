"""Exported files, run by onnxruntime and by torch.export.load, against embed and annotate."""

import importlib.metadata
import json
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from torch import nn

import selfcell
from selfcell.core.errors import InputError
from selfcell.downstream import export as module
from selfcell.downstream import exported_files
from selfcell.downstream.finetune import finetune

LEARN = {"training": {"max_epochs": 12, "minibatch_size": 32, "device": "cpu", "learning_rate": 0.01}}


def run_onnx(path, counts):
    session = onnxruntime.InferenceSession(path)
    assert [(given.name, given.shape) for given in session.get_inputs()] == [("counts", ["n_cells", counts.shape[1]])]
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"counts": counts}), strict=True))


def run_pt2(path, counts):
    outputs = torch.export.load(path).module()(torch.from_numpy(counts))
    return {name: output.numpy() for name, output in outputs.items()}


def about_onnx(path):
    return json.loads(onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map["selfcell"])


def about_pt2(path):
    extra_files = {"selfcell.json": ""}
    torch.export.load(path, extra_files=extra_files)
    return json.loads(extra_files["selfcell.json"])


@pytest.fixture(params=[(".onnx", run_onnx, about_onnx), (".pt2", run_pt2, about_pt2)], ids=["onnx", "pt2"])
def kind(request):
    """A suffix, how such a file is run, and how what it says of itself is read."""
    return request.param


@pytest.fixture(scope="module")
def classifier(model, tmp_path_factory):
    """Fine-tuned, and calibrated on a held-out donor."""
    cells = selfcell.data.simulate.simulate_cells(
        n_cells=300, n_genes=60, n_types=3, n_donors=5, type_effect=0.6, seed=0
    )
    return finetune(
        model, cells, label_key="cell_type", donor_key="donor", validation_fraction=0.25, settings=LEARN,
        out=tmp_path_factory.mktemp("classifier") / "run", show_progress=False,
    )  # fmt: skip


@pytest.fixture
def as_in_paper(adata, tmp_path):
    """A network of ReLU that rectifies its embedding, from a checkpoint."""
    torch.manual_seed(0)
    sizes = {"encoder.0": (60, 20), "encoder.3": (20, 16), "encoder.6": (16, 8)}
    linears = {name: nn.Linear(*size).state_dict() for name, size in sizes.items()}
    state = {f"{name}.{part}": weight for name, linear in linears.items() for part, weight in linear.items()}
    torch.save(state | decoder(), tmp_path / "a.ckpt")
    pd.DataFrame({"feature_name": adata.var_names}).to_parquet(tmp_path / "var.parquet")
    return selfcell.import_checkpoint(
        tmp_path / "a.ckpt", genes=tmp_path / "var.parquet", out=tmp_path / "paper", as_evaluated_in_paper=True
    )


def decoder():
    sizes = {"decoder.0.0": (8, 16), "decoder.0.3": (16, 20), "decoder.0.6": (20, 60)}
    return {f"{name}.{part}": w for name, size in sizes.items() for part, w in nn.Linear(*size).state_dict().items()}


def dense(adata):
    return adata.X.toarray().astype(np.float32)


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("which", ["model", "as_in_paper"])
def test_an_exported_encoder_gives_what_embed_gives_for_any_number_of_cells(which, kind, adata, tmp_path, request):
    suffix, run, _ = kind
    model = request.getfixturevalue(which)
    path = tmp_path / f"encoder{suffix}"
    selfcell.export(model, path)
    selfcell.embed(adata, model)
    for n_cells in (1, 2, 300):
        outputs = run(path, dense(adata)[:n_cells])
        assert list(outputs) == ["embedding"]
        assert_same(outputs["embedding"], adata.obsm["X_selfcell"][:n_cells])
    if which == "as_in_paper":
        assert model.encoder.settings.rectify_embedding and (outputs["embedding"] == 0).any()


def test_a_classifier_gives_the_confidence_that_annotate_reports(kind, adata, classifier, tmp_path):
    suffix, run, about = kind
    path = tmp_path / f"classifier{suffix}"
    selfcell.export(str(classifier.path), path)
    selfcell.embed(adata, classifier)
    selfcell.annotate(adata, classifier)
    outputs = run(path, dense(adata))
    assert_same(outputs["embedding"], adata.obsm["X_selfcell"])
    assert_same(outputs["probability"].max(axis=1), adata.obs["predicted_type_confidence"].to_numpy())
    labels, calibration = about(path)["labels"], about(path)["calibration"]
    assert list(np.array(labels)[outputs["probability"].argmax(axis=1)]) == list(adata.obs["predicted_type"])
    assert abs(calibration["temperature"] - 1) > 0.01
    is_unknown = (outputs["probability"] < calibration["least_probability"]["0.05"]).all(axis=1)
    assert list(is_unknown) == list(adata.obs["predicted_type_is_unknown"])


def test_a_cell_that_embed_refuses_gives_nan_and_the_others_what_they_give_alone(kind, adata, classifier, tmp_path):
    suffix, run, _ = kind
    path = tmp_path / f"classifier{suffix}"
    selfcell.export(classifier, path)
    counts = dense(adata)[:6]
    good = run(path, counts)
    counts[0] = 0
    counts[1, 3], counts[2, 3], counts[3, 3] = -1, np.nan, np.inf
    for name, outputs in run(path, counts).items():
        assert np.isnan(outputs[:4]).all()
        assert_same(outputs[4:], good[name][4:])
    adata.X = counts[0] * np.ones((300, 1), dtype=np.float32)
    with pytest.raises(InputError, match="no counts"):
        selfcell.embed(adata, classifier)


def test_a_file_says_which_genes_it_takes_and_where_it_comes_from(kind, model, tmp_path):
    suffix, _, about = kind
    selfcell.export(model, tmp_path / f"a{suffix}")
    found = about(tmp_path / f"a{suffix}")
    assert found["gene_ids"] == list(model.genes.ids) and found["gene_symbols"] == list(model.genes.symbols)
    assert found["selfcell_version"] == "0.1.0" and found["torch_version"] == importlib.metadata.version("torch")
    assert found["normalization"] == {"target_total": 10_000.0, "transform": "log1p"}
    origin = found["model"]
    assert origin["name"] == "run" and origin["pretext"] == "masked_autoencoder" and origin["kind"] == "pretrained"
    assert origin["weights_sha256"] == model.weights_digest and "labels" not in found
    assert origin["data"]["fingerprint"] == model.manifest["data"]["fingerprint"]


def test_the_check_is_told_with_its_numbers(kind, model, tmp_path, caplog):
    caplog.set_level("INFO", logger="selfcell")
    selfcell.export(model, tmp_path / f"a{kind[0]}")
    assert "on 64 simulated cells" in caplog.text and "(at most 0.0001)" in caplog.text


def test_a_file_that_differs_from_its_model_is_not_left(kind, model, tmp_path, monkeypatch):
    embed = module.embed_counts
    monkeypatch.setattr(module, "embed_counts", lambda *arguments: embed(*arguments) * 1.001)
    with pytest.raises(FloatingPointError, match=r"is not written: run by .*, its embedding differs .* by 1\.0e-03"):
        selfcell.export(model, tmp_path / f"a{kind[0]}")
    assert not list(tmp_path.iterdir())


def test_one_file_of_either_format_suffices_and_neither_holds_a_pickle(model, tmp_path):
    selfcell.export(model, tmp_path / "a.onnx")
    selfcell.export(model, tmp_path / "a.pt2")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.onnx", "a.pt2"]
    onnx.checker.check_model(tmp_path / "a.onnx", full_check=True)
    with zipfile.ZipFile(tmp_path / "a.pt2") as archive:
        # A pickle of protocol 2 and later begins so, an archive with one inside as a zip.
        assert not [name for name in archive.namelist() if archive.read(name)[:2] in {b"\x80\x02", b"\x80\x04", b"PK"}]


def test_exporting_changes_nothing_in_the_model(model, adata, tmp_path):
    before = model.weights_digest
    strides = model.encoder.layers[0].weight.stride()
    selfcell.export(model, tmp_path / "a.pt2")
    assert model.encoder.layers[0].weight.stride() == strides == (1, 64)
    del model.__dict__["weights_digest"]
    assert model.weights_digest == before


def test_another_suffix_is_refused_with_the_two_there_are(model, tmp_path):
    with pytest.raises(InputError, match=r"a\.pt must end in \.onnx or \.pt2"):
        selfcell.export(model, tmp_path / "a.pt")


def test_a_file_is_replaced_only_when_asked(model, tmp_path):
    path = tmp_path / "a.pt2"
    path.write_text("mine")
    with pytest.raises(InputError, match=r"exists already.*--overwrite"):
        selfcell.export(model, path)
    assert path.read_text() == "mine"
    selfcell.export(model, path, overwrite=True)
    assert zipfile.is_zipfile(path)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_a_missing_extra_is_named(missing, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=rf"needs {missing}: in a clone of selfcell, pip install '\.\[onnx\]'"):
        selfcell.export(model, tmp_path / "a.onnx")
    selfcell.export(model, tmp_path / "a.pt2")


def test_without_onnxruntime_a_file_is_written_and_said_to_be_unchecked(model, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    selfcell.export(model, tmp_path / "a.onnx")
    assert "not checked against the model, as onnxruntime is not installed" in caplog.text
    assert (tmp_path / "a.onnx").exists()


def test_weights_that_no_onnx_file_holds_are_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(exported_files, "LARGEST_ONNX", 1000)
    with pytest.raises(InputError, match=r"an ONNX file holds 2 GB\. Export it to a \.pt2 file"):
        selfcell.export(model, tmp_path / "a.onnx")


def test_what_is_not_exported_or_not_calibrated_is_told(adata, model, tmp_path, caplog):
    caplog.set_level("INFO", logger="selfcell")
    quick = {"training": {**LEARN["training"], "max_epochs": 1}}
    decodes = finetune(model, adata, task="reconstruction", settings=quick, out=tmp_path / "a", show_progress=False)
    selfcell.export(decodes, tmp_path / "a.pt2")
    assert "what was trained beside it for reconstruction is not" in caplog.text
    types = finetune(model, adata, label_key="cell_type", settings=quick, out=tmp_path / "b", show_progress=False)
    selfcell.export(types, tmp_path / "b.pt2")
    assert "the probabilities are not calibrated" in caplog.text
    assert about_pt2(tmp_path / "b.pt2")["calibration"] is None


@pytest.mark.parametrize("library", ["onnxruntime", "torch"])
def test_the_example_of_the_docs_runs_as_it_stands(library, adata, model, classifier, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    (code,) = re.findall(rf"```python\n(import json.*?{library}.*?)```", page.split(f"## With {library}")[1], re.DOTALL)
    monkeypatch.chdir(tmp_path)
    adata.write_h5ad("cells.h5ad")
    selfcell.export(model, "encoder.onnx")
    selfcell.export(classifier, "types.pt2")
    names = {}
    exec(code, names)
    if library == "onnxruntime":
        selfcell.embed(adata, model)
        assert_same(names["embedding"], adata.obsm["X_selfcell"])
    else:
        assert "torch.Size([2, 16])" in capsys.readouterr().out
