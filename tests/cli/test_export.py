"""A model in one file, from the command line."""

import numpy as np
import onnxruntime
import torch

import selfcell


def test_a_model_is_exported_in_either_format(run, adata, model, tmp_path):
    selfcell.embed(adata, model)
    counts = adata.X.toarray().astype(np.float32)
    code, out, errors = run("export", model.path, "--out", tmp_path / "encoder.onnx")
    assert code == 0 and "Input: counts of 60 genes. Output: embedding (16 dimensions)." in out
    assert "Checked: run by onnxruntime on 64 simulated cells" in errors
    (embedding,) = onnxruntime.InferenceSession(tmp_path / "encoder.onnx").run(["embedding"], {"counts": counts})
    np.testing.assert_allclose(embedding, adata.obsm["X_selfcell"], rtol=1e-5, atol=1e-5)

    code, out, errors = run("export", model.path, "--out", tmp_path / "encoder.pt2")
    assert code == 0 and "Checked: run by torch.export.load" in errors
    embedding = torch.export.load(tmp_path / "encoder.pt2").module()(torch.from_numpy(counts))["embedding"]
    np.testing.assert_allclose(embedding, adata.obsm["X_selfcell"], rtol=1e-5, atol=1e-5)


def test_what_cannot_be_written_is_refused(run, model, tmp_path):
    code, _, errors = run("export", model.path, "--out", tmp_path / "encoder.pt")
    assert code == 1 and "--out must name a .onnx or a .pt2 file" in errors
    (tmp_path / "encoder.pt2").touch()
    code, _, errors = run("export", model.path, "--out", tmp_path / "encoder.pt2")
    assert code == 1 and "exists already" in errors
    assert run("export", model.path, "--out", tmp_path / "encoder.pt2", "--overwrite")[0] == 0
    assert (tmp_path / "encoder.pt2").stat().st_size > 1000
