"""Run folders of every format, as they were written, are read for ever."""

import json
import runpy
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import selfcell
from selfcell.core.errors import InputError
from selfcell.training.migrations import FORMAT_VERSION, migrate
from selfcell.training.run_folder import read_settings

HERE = Path(__file__).parent
answers = runpy.run_path(str(HERE / "make.py"))["answers"]
FORMATS = range(1, FORMAT_VERSION + 1)
MODELS = [(version, model.name) for version in FORMATS for model in sorted((HERE / f"format_{version}").glob("*/"))]
KINDS = {"masked", "counts", "byol", "barlow_twins", "cell_type", "cross_modality", "integration", "reconstruction"}


@pytest.mark.parametrize("version", FORMATS)
def test_every_format_has_a_model_of_each_kind(version):
    assert {name for found, name in MODELS if found == version} == KINDS
    for name in KINDS:
        manifest = json.loads((HERE / f"format_{version}" / name / "manifest.json").read_text())
        assert manifest["format_version"] == version and manifest["status"] == "finished"


@pytest.mark.filterwarnings("ignore:.*trained on")
@pytest.mark.parametrize(("version", "name"), MODELS)
def test_a_model_of_any_format_says_what_it_said(version, name):
    folder = HERE / f"format_{version}"
    with np.load(folder / "expected.npz") as expected:
        genes = pd.DataFrame(index=expected["genes"])
        cells = anndata.AnnData(sp.csr_matrix(expected["counts"]), var=genes)
        said = answers(folder / name, cells)
        kept = {key.split("/")[1]: expected[key] for key in expected.files if key.startswith(f"{name}/")}
    assert set(said) == set(kept) and "embedding" in said
    for key, value in kept.items():
        if value.dtype.kind == "U":
            assert (said[key] == value).all(), key
        else:
            np.testing.assert_allclose(said[key], value, rtol=1e-3, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("version", FORMATS)
def test_a_model_of_any_format_is_fine_tuned(version, adata, tmp_path):
    model = HERE / f"format_{version}" / "masked"
    genes = selfcell.load(model).genes
    adata = adata[:, : len(genes)].copy()
    adata.var_names = genes.to_frame()["symbol"]
    training = {"max_epochs": 1, "minibatch_size": 64}
    tuned = selfcell.finetune(
        model, adata, label_key="cell_type", donor_key="donor", settings={"training": training}, out=tmp_path / "tuned"
    )
    assert tuned.labels == ("type 0", "type 1", "type 2")


def test_settings_are_read_in_the_words_of_the_present_format():
    settings = [read_settings(HERE / f"format_{version}" / "masked") for version in FORMATS]
    assert all(found == settings[-1] for found in settings)
    assert "rectify_embedding" not in (HERE / "format_1" / "masked" / "config.toml").read_text()


def test_migrating_leaves_what_it_is_given_alone():
    manifest, settings = {"format_version": 1}, {"network": {}, "pretext": {"name": "masked_autoencoder"}}
    described = migrate(manifest, settings)
    assert described.manifest["format_version"] == FORMAT_VERSION
    assert described.settings["pretext"]["output"] == "identity"
    assert (manifest, settings) == (
        {"format_version": 1}, {"network": {}, "pretext": {"name": "masked_autoencoder"}},
    )  # fmt: skip


@pytest.mark.parametrize("version", [None, 0, "2"])
def test_a_folder_without_a_format_is_refused(version, tmp_path):
    model = shutil.copytree(HERE / f"format_{FORMAT_VERSION}" / "masked", tmp_path / "model")
    manifest = json.loads((model / "manifest.json").read_text()) | {"format_version": version}
    (model / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest\.json is damaged, or not of selfcell: it names no format version"):
        selfcell.load(model)
