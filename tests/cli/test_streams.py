"""Commands on an atlas: those that stream it, and those that read all of it."""

import anndata
import numpy as np
import pytest

import selfcell
from selfcell.benchmark.results import read_results
from selfcell.core.errors import InputError
from selfcell.data import source
from selfcell.data.atlas.build import build_atlas
from selfcell.training.bottleneck import Pace, measure_pace
from selfcell.training.settings import PretrainSettings

SMALL = ["--set", "network.hidden_sizes=[16]", "--set", "network.n_latent=8", "--set", "training.device=cpu"]


@pytest.fixture
def atlas(file, tmp_path):
    build_atlas([file], tmp_path / "atlas", shard_cells=100)
    return tmp_path / "atlas"


def test_cells_of_an_atlas_have_the_embedding_that_they_have_in_memory(run, atlas, model, adata, tmp_path):
    selfcell.embed(adata, model)
    code, out, err = run("embed", model.path, atlas, "--out", tmp_path / "all.h5ad")
    assert code == 0 and "no counts" in out, err
    found = anndata.read_h5ad(tmp_path / "all.h5ad")
    assert found.shape == (300, 0) and sorted(found.obs_names) == sorted(adata.obs_names)
    expected = adata[found.obs_names]
    np.testing.assert_allclose(found.obsm["X_selfcell"], expected.obsm["X_selfcell"], rtol=1e-4, atol=1e-5)
    assert (found.obs["donor"].astype(str) == expected.obs["donor"].astype(str)).all()
    assert found.uns["selfcell"]["X_selfcell"]["share_of_genes"] == 1.0

    donor = str(adata.obs["donor"].iloc[0])
    query = f"donor == '{donor}'"
    some = selfcell.embed_atlas(atlas, model, where=query, key_added="X_some")
    assert set(some.obs["donor"]) == {donor} and some.n_obs == (adata.obs["donor"] == donor).sum()
    same = found[some.obs_names].obsm["X_selfcell"]
    np.testing.assert_allclose(some.obsm["X_some"], same, rtol=1e-4, atol=1e-5)
    assert some.uns["selfcell"]["X_some"]["where"] == query


def test_an_atlas_of_other_genes_is_refused_before_it_is_read(adata, model, tmp_path):
    adata.var_names = [f"other{place}" if place > 20 else name for place, name in enumerate(adata.var_names)]
    adata.var = adata.var[[]]
    adata.write_h5ad(tmp_path / "other.h5ad")
    build_atlas([tmp_path / "other.h5ad"], tmp_path / "atlas")
    with pytest.raises(InputError, match="allow_low_overlap"):
        selfcell.embed_atlas(tmp_path / "atlas", model)
    assert selfcell.embed_atlas(tmp_path / "atlas", model, allow_low_overlap=True).n_obs == 300


def test_a_cell_without_counts_in_the_encoders_genes_is_refused(adata, model, tmp_path):
    adata = adata[:, np.arange(adata.n_vars)].copy()
    adata.var_names = [f"other{place}" if place > 40 else name for place, name in enumerate(adata.var_names)]
    adata.var = adata.var[[]]
    counts = adata.X.tolil()
    counts[3, :41] = 0
    counts[3, 50] = 2
    adata.X = counts.tocsr()
    adata.write_h5ad(tmp_path / "other.h5ad")
    build_atlas([tmp_path / "other.h5ad"], tmp_path / "atlas")
    with pytest.raises(InputError, match=r"1 of 300 cells of atlas .* no counts in the genes used"):
        selfcell.embed_atlas(tmp_path / "atlas", model)


def test_options_for_files_are_refused_for_an_atlas(run, atlas, file, model, tmp_path):
    code, _, err = run("embed", model.path, atlas, "--out", tmp_path / "a.h5ad", "--layer", "counts")
    assert code == 1 and "leave --layer out" in err
    code, _, err = run("embed", model.path, file, "--out", tmp_path / "a.h5ad", "--where", "True")
    assert code == 1 and "--where chooses cells of an atlas" in err


def test_commands_that_need_cells_in_memory_name_the_export(run, atlas, model, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "available_memory", lambda: 1000)
    for command in (
        ["finetune", model.path, atlas, "--label", "cell_type", "--out", tmp_path / "typed"],
        ["annotate", model.path, atlas, "--out", tmp_path / "a.h5ad"],
        ["evaluate", model.path, atlas, "--label", "cell_type", "--out", tmp_path / "judged"],
    ):
        code, _, err = run(*command)
        assert code == 1 and f"selfcell atlas export {atlas} --where QUERY --out FILE.h5ad" in err, err
    code, _, err = run("annotate", model.path, "https://127.0.0.1/atlas", "--out", tmp_path / "a.h5ad")
    assert code == 1 and "is a URL" in err
    code, _, err = run("atlas", "info", "https://127.0.0.1/atlas")
    assert code == 1 and "is a URL, but a folder is needed" in err


def test_pretrain_chooses_and_balances_cells_of_an_atlas_or_file(run, atlas, file, tmp_path, adata):
    common = ["--donor", "donor", "--balance", "cell_type", "--set", "training.max_epochs=1", *SMALL]
    kind = str(adata.obs["cell_type"].iloc[0])
    where = ["--where", f"cell_type != '{kind}'", "--set", "training.minibatch_size=32"]
    for name, given in (("atlas", [atlas]), ("file", [file, "--backed"])):
        code, out, err = run("pretrain", *given, "--out", tmp_path / "runs" / name, *where, *common)
        assert code == 0 and "Done: 1 epoch, " in out, err
        manifest = selfcell.load(tmp_path / "runs" / name).manifest
        assert manifest["data"]["n_cells"] == (adata.obs["cell_type"] != kind).sum()


def test_doctor_says_what_limits(run, atlas, file):
    options = ["--seconds", "1", "--minibatch-size", "32", "--set", "data.donor_key=donor", *SMALL]
    for given, kind in ((atlas, "atlas"), (file, "memory")):
        code, out, err = run("doctor", given, *options)
        assert code == 0, err
        assert f"cells/s from {kind}" in out and "minibatches of 32" in out and "(loader to network)" in out
        assert "limits" in out or "about as fast" in out
    code, _, err = run("doctor", "--minibatch-size", "32")
    assert code == 1 and "selfcell doctor CELLS" in err


def test_a_file_read_from_disk_is_named_as_such(file):
    settings = PretrainSettings.model_validate(
        {"data": {"backed": True, "donor_key": "donor"}, "training": {"device": "cpu", "minibatch_size": 64}}
    )
    pace = measure_pace(str(file), settings, seconds=0.3)
    assert pace.source == "file" and min(pace.loader, pace.network, pace.together) > 0


@pytest.mark.parametrize(
    ("source", "device", "loader", "limit", "said"),
    [
        ("atlas", "cpu", 1000, "network", "Train on a GPU"),
        ("atlas", "cuda", 1000, "network", "training.minibatch_size=1024"),
        ("atlas", "cuda", 10, "loader", "data.loader_threads=4"),
        ("remote atlas", "cuda", 10, "loader", "data.cache_folder=DIR"),
        ("file", "cuda", 10, "loader", "selfcell atlas build"),
        ("memory", "cuda", 10, "loader", "larger minibatch"),
        ("atlas", "cpu", 105, "both", "about as fast"),
    ],
)
def test_the_advice_fits_what_limits(source, device, loader, limit, said):
    pace = Pace(source, device, 2, 256, (60, 8, 4), loader=float(loader), network=100.0, together=10.0)
    assert pace.limit == limit and said in " ".join(pace.advice())


def test_an_atlas_is_held_on_the_device_where_that_is_asked_for(run, atlas, tmp_path):
    small = [*SMALL, "--set", "training.max_epochs=1"]
    code, _, err = run("pretrain", atlas, "--out", tmp_path / "run", "--donor", "donor", "--resident", *small)
    assert code == 0 and "Loading" in err, err
    assert "resident = true" in (tmp_path / "run" / "config.toml").read_text()


def test_an_atlas_is_fine_tuned_on_and_judged_on_as_a_file_is(run, atlas, file, tmp_path):
    quick = ["--set", "training.max_epochs=2", "--set", "training.device=cpu"]
    base = tmp_path / "base"
    data = ["--donor", "donor", "--set", "data.test_fraction=0.3"]
    assert run("pretrain", file, "--out", base, *data, "--set", "training.max_epochs=2", *SMALL)[0] == 0
    told = ["--label", "cell_type", "--donor", "donor", *quick]
    assert run("finetune", base, atlas, *told, "--out", tmp_path / "typed")[0] == 0
    few = ["--regime", "zero_shot", "--baseline", "pca_knn", "--seeds", "1", "--jobs", "1"]
    found = []
    for cells in (file, atlas):
        out = tmp_path / f"judged {cells.name}"
        assert run("evaluate", base, cells, *told, *few, "--out", out)[0] == 0
        results = read_results(out)
        assert results.about["has_seen"] is False
        found.append(results.scores.set_index(["method", "metric"])["value"].to_dict())
    assert found[0] == pytest.approx(found[1])
