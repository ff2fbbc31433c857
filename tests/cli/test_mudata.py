"""MuData in, MuData out: what commands write keeps the other modalities, and adds to that of the genes."""

import anndata
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest

from selfcell.cli.written_files import write_adata
from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.data.atlas.build import build_atlas
from selfcell.data.simulate import simulate_cells
from selfcell.training.pretrain import pretrain
from selfcell.training.settings import PretrainSettings

TINY = {
    "network": {"hidden_sizes": [16], "n_latent": 8},
    "training": {"max_epochs": 1, "minibatch_size": 32, "device": "cpu"},
}
N_CELLS, N_WITHOUT_PROTEINS = 90, 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory, take_proteins):
    """A model, a reference, and a MuData file of cells of which some have no proteins."""
    folder = tmp_path_factory.mktemp("mudata")
    every = simulate_cells(n_cells=2 * N_CELLS, n_genes=40, n_types=3, n_donors=3, n_proteins=5, seed=0)
    reference, adata = every[N_CELLS:].copy(), every[:N_CELLS].copy()
    pretrain(reference, build(PretrainSettings, TINY), out=folder / "base", show_progress=False)
    reference.write_h5ad(folder / "reference.h5ad")
    proteins = take_proteins(adata)
    proteins.layers["normalized"] = np.log1p(proteins.X)
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData({"gex": adata, "prot": proteins[N_WITHOUT_PROTEINS:].copy()})
        mdata.obs["hospital"] = "north"
        # What mudata would take for its own, or for whole numbers.
        mdata.obs["age"], mdata.obs["gex:batch"] = np.where(np.arange(N_CELLS) % 2, np.nan, 40.0), "of the MuData"
        mdata.write(folder / "cells.h5mu")
    return folder


def commands(folder):
    reference = ["--reference", folder / "reference.h5ad"]
    return {
        "embed": [],
        "annotate": [*reference, "--label", "cell_type", "--n-neighbors", "3"],
        "predict": [*reference, "--target", "protein_counts"],
    }


def content_of(node):
    """Give all values and attributes below a node of a file, by their place."""
    found = {"": str(sorted((key, str(value)) for key, value in node.attrs.items()))}
    if isinstance(node, h5py.Dataset):
        return found | {"value": (str(node.dtype), np.asarray(node[()]).tolist().__repr__())}
    return found | {f"{name}/{key}": value for name in node for key, value in content_of(node[name]).items()}


def what_is_new(adata, command):
    if command == "annotate":
        return adata.obs["predicted_type_confidence"].to_numpy()
    return adata.obsm["X_selfcell" if command == "embed" else "predicted_protein_counts"]


@pytest.mark.parametrize("command", ["embed", "annotate", "predict"])
def test_all_modalities_are_written(run, folder, tmp_path, command):
    cells, out = folder / "cells.h5mu" / "gex", tmp_path / "new.h5mu"
    code, said, errors = run(command, folder / "base", cells, "--out", out, *commands(folder)[command])
    assert code == 0, errors
    assert f"Wrote {out} (gex, prot; 90 cells). What is new is in modality 'gex'." in said
    with mudata.set_options(pull_on_update=False):
        before, after = mudata.read_h5mu(folder / "cells.h5mu"), mudata.read_h5mu(out)
    assert (after.mod["prot"].X == before.mod["prot"].X).all() and after.n_obs == N_CELLS
    assert (after.mod["prot"].layers["normalized"] == before.mod["prot"].layers["normalized"]).all()
    assert (after.mod["gex"].X != before.mod["gex"].X).nnz == 0 and (after.obs["hospital"] == "north").all()
    pd.testing.assert_frame_equal(after.obs, before.obs)
    with h5py.File(folder / "cells.h5mu") as old, h5py.File(out) as new:
        # As mudata reads them, some types are others.
        for name in ("obs", "var", "obsm", "mod/prot/X", "mod/prot/obs", "mod/gex/X", "mod/gex/var"):
            assert content_of(new[name]) == content_of(old[name]), name
        kept = {name: content for name, content in content_of(old["mod/gex/obs"]).items() if name}
        assert kept.items() <= content_of(new["mod/gex/obs"]).items()
    code, _, errors = run(command, folder / "base", cells, "--out", tmp_path / "new.h5ad", *commands(folder)[command])
    assert code == 0, errors
    alone = anndata.read_h5ad(tmp_path / "new.h5ad")
    # Of an AnnData they are the cells that have all modalities.
    assert list(alone.obs_names) == list(after.mod["prot"].obs_names)
    np.testing.assert_allclose(
        what_is_new(after.mod["gex"][alone.obs_names], command), what_is_new(alone, command), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("command", ["embed", "annotate", "predict"])
def test_a_mudata_is_not_made_of_an_anndata(run, folder, tmp_path, command):
    cells, out = folder / "reference.h5ad", tmp_path / "new.h5mu"
    code, _, errors = run(command, folder / "base", cells, "--out", out, *commands(folder)[command])
    assert code == 1 and "keeps all modalities of an .h5mu file, but" in errors and "Name new.h5ad" in errors
    assert not out.exists()


def test_a_missing_file_or_modality_is_said(run, folder, tmp_path):
    out = tmp_path / "new.h5mu"
    code, _, errors = run("embed", folder / "base", folder / "cell.h5mu", "--out", out)
    assert code == 1 and "There is no file" in errors and "Did you mean 'cells.h5mu'" in errors
    code, _, errors = run("embed", folder / "base", folder / "cells.h5mu", "--out", out)
    assert code == 1 and "There is no modality 'rna' with the genes" in errors
    assert list(tmp_path.iterdir()) == []


def test_a_column_that_the_mudata_has_is_not_given_a_second_time(run, folder, tmp_path):
    out, taken = tmp_path / "new.h5mu", ["--key-added", "hospital"]
    annotate = ["annotate", folder / "base", folder / "cells.h5mu" / "gex", *commands(folder)["annotate"]]
    code, _, errors = run(*annotate, *taken, "--out", out)
    assert code == 1 and "obs['hospital'] of the MuData is there already" in errors and not out.exists()
    assert run(*annotate, "--by", "logistic", "--out", out)[0] == 0
    # What was written can be read and annotated again.
    assert (
        run("annotate", folder / "base", out / "gex", *commands(folder)["annotate"], "--out", tmp_path / "b.h5mu")[0]
        == 0
    )


def test_an_atlas_has_no_modalities(run, folder, tmp_path):
    build_atlas([folder / "reference.h5ad"], tmp_path / "atlas")
    code, _, errors = run("embed", folder / "base", tmp_path / "atlas", "--out", tmp_path / "new.h5mu")
    assert code == 1 and "An atlas has no other modalities" in errors and "name new.h5ad" in errors


def test_what_the_format_cannot_hold_is_said(folder, tmp_path):
    adata = anndata.read_h5ad(folder / "reference.h5ad")
    adata.obs["mixed"] = pd.Series([1, "a", None] * (N_CELLS // 3), index=adata.obs_names, dtype=object)
    with pytest.raises(InputError, match=r"new\.h5ad cannot be written: .*astype\(str\)"):
        write_adata(adata, tmp_path / "new.h5ad")
    assert [file.name for file in tmp_path.iterdir() if "partial" in file.name] == []


def test_what_else_is_written_is_no_mudata(run, folder, tmp_path):
    code, _, errors = run("impute", folder / "base", folder / "cells.h5mu" / "gex", "--out", tmp_path / "new.h5mu")
    assert code == 1 and "--out must name an .h5ad file" in errors
