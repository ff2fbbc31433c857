import logging
import sys

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from selfcell.core.errors import InputError
from selfcell.data.mudata_input import adata_of_mudata
from selfcell.data.source import open_cells, read_adata
from selfcell.data.stream import open_any, stream_cells
from selfcell.data.targets import read_targets


@pytest.fixture(params=[False, True], ids=["obs of its own", "copies of obs"])
def mdata(adata, rng, request):
    """RNA of 300 cells; proteins of all but two, in reverse order; chromatin of all but one other."""
    proteins = anndata.AnnData(
        rng.poisson(3, size=(298, 4)).astype(np.float32),
        obs=pd.DataFrame({"n_proteins": 4}, index=adata.obs_names[2:][::-1]),
        var=pd.DataFrame(index=["CD3", "CD4", "CD8a", "HLA-DR"]),
    )
    peaks = anndata.AnnData(
        sp.csr_matrix(rng.poisson(0.3, size=(299, 6)).astype(np.float32)),
        obs=pd.DataFrame(index=adata.obs_names[:-1]),
        var=pd.DataFrame(index=[f"chr1:{start}-{start + 9}" for start in range(6)]),
    )
    with mudata.set_options(pull_on_update=request.param):
        made = mudata.MuData({"rna": adata, "prot": proteins, "atac": peaks})
        made.obs["site"] = [f"s{number % 3}" for number in range(300)]
        yield made


def test_other_modalities_come_into_obsm_with_their_names(mdata, adata):
    found = adata_of_mudata(mdata)
    assert list(found.obs_names) == list(adata.obs_names[2:-1])
    assert (found.X != adata[found.obs_names].X).nnz == 0
    for name, key in (("prot", "protein"), ("atac", "atac")):
        targets, expected = read_targets(found, f"{key}_counts"), mdata[name][found.obs_names]
        assert targets.names == tuple(expected.var_names)
        assert (sp.csr_matrix(targets.matrix) != sp.csr_matrix(expected.X)).nnz == 0
    assert sp.issparse(read_targets(found, "atac_counts").matrix)


def test_obs_of_the_modality_and_of_all_are_joined(mdata, adata):
    obs = adata_of_mudata(mdata).obs
    assert obs["cell_type"].tolist() == adata.obs["cell_type"].tolist()[2:-1]
    assert obs["site"].tolist() == mdata.obs["site"].tolist()[2:-1]
    assert not [name for name in obs.columns if name.startswith("rna:")]


def test_neither_the_mudata_nor_its_modalities_change(mdata, adata):
    before = adata.copy()
    adata_of_mudata(mdata).obsm["protein_counts"].data[:] = 0
    assert mdata.n_obs == 300 and mdata["rna"].shape == before.shape and not mdata["rna"].obsm
    assert list(mdata["rna"].obs.columns) == list(before.obs.columns) and mdata["prot"].X.sum() > 0


def test_dropped_cells_are_counted(mdata, caplog):
    with caplog.at_level(logging.WARNING, logger="selfcell"):
        adata_of_mudata(mdata)
    assert "3 of 300 cells lack one of the modalities prot, atac and are dropped." in caplog.text


def test_a_modality_without_counts_is_left_out_and_drops_no_cells(mdata, caplog):
    mdata["prot"].X = mdata["prot"].X / 7
    with caplog.at_level(logging.WARNING, logger="selfcell"):
        found = adata_of_mudata(mdata)
    assert found.n_obs == 299 and list(found.obsm) == ["atac_counts"]
    assert "Modality 'prot' is left out. Raw counts are needed, but X has fractional values" in caplog.text


def test_two_modalities_of_proteins_keep_their_names(adata, rng):
    other = anndata.AnnData(np.ones((300, 2), dtype=np.float32), obs=pd.DataFrame(index=adata.obs_names))
    again = other.copy()
    other.var_names, again.var_names = ["a", "b"], ["c", "d"]
    with mudata.set_options(pull_on_update=False):
        both = mudata.MuData({"rna": adata, "prot": other, "adt": again})
    assert sorted(adata_of_mudata(both).obsm) == ["adt_counts", "prot_counts"]


def test_a_file_gives_the_same_cells_as_the_object(mdata, tmp_path):
    mdata.write(tmp_path / "cells.h5mu")
    from_file, from_object = open_cells(tmp_path / "cells.h5mu"), open_cells(mdata)
    assert from_file.fingerprint() == from_object.fingerprint() and len(from_file) == 297
    assert (from_file.origin, from_object.origin) == ("cells.h5mu", "mdata")
    assert read_targets(read_adata(tmp_path / "cells.h5mu"), "protein_counts").names[3] == "HLA-DR"


def test_a_mudata_can_be_streamed(mdata):
    assert sum(minibatch.n_cells for minibatch in stream_cells(mdata, minibatch_size=64)) == 297
    with pytest.raises(InputError, match="Only a file can be read from disk"):
        open_any(mdata, backed=True)


def test_without_mudata_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "cells.h5mu").touch()
    monkeypatch.setitem(sys.modules, "mudata", None)
    with pytest.raises(
        InputError, match=r"cells\.h5mu is a MuData file.*in a clone of selfcell, pip install '\.\[mudata\]'"
    ):
        read_adata(tmp_path / "cells.h5mu")


def test_a_truncated_file_is_named(mdata, tmp_path):
    path = tmp_path / "cells.h5mu"
    mdata.write(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cells\.h5mu cannot be read as a MuData file \([\d,]+ bytes\).*truncated"):
        read_adata(path)


def test_an_anndata_file_of_that_name_is_refused(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5mu")
    with pytest.raises(InputError, match=r"cannot be read as a MuData file.*it is an AnnData file"):
        read_adata(tmp_path / "cells.h5mu")


def test_a_missing_modality_is_refused_with_those_there_are(mdata):
    with pytest.raises(InputError, match=r"no modality 'rn' with the genes\. Did you mean 'rna'.*cells\.h5mu/NAME"):
        adata_of_mudata(mdata, "rn")
    assert adata_of_mudata(mdata, "atac").obsm["rna_counts"].shape == (297, 60)


def test_columns_of_one_name_must_agree(mdata):
    mdata.obs["donor"] = mdata["rna"].obs["donor"].astype(object)
    assert adata_of_mudata(mdata).obs["donor"].dtype == "category"
    mdata.obs["donor"] = "other"
    with pytest.raises(
        InputError, match=r"Column 'donor' of obs has other values in the MuData.*mdata\.obs\['donor'\]"
    ):
        adata_of_mudata(mdata)


def test_cells_that_share_no_name_are_refused(adata):
    other = anndata.AnnData(np.ones((5, 2), dtype=np.float32), obs=pd.DataFrame(index=list("abcde")))
    with mudata.set_options(pull_on_update=False):
        both = mudata.MuData({"rna": adata, "prot": other})
    with pytest.raises(InputError, match=r"No cell has all modalities \(rna 300, prot 5 cells\)"):
        adata_of_mudata(both)


def test_cells_named_twice_are_refused(mdata):
    names = mdata["prot"].obs_names.to_numpy().copy()
    names[1] = names[0]
    mdata.mod["prot"].obs_names = names
    with pytest.raises(InputError, match=rf"Cells of modality 'prot' are named twice, for example '{names[0]}'"):
        adata_of_mudata(mdata)


def test_modalities_that_share_genes_are_refused(adata):
    other = adata[:5].copy()
    other.obs_names = list("abcde")
    with mudata.set_options(pull_on_update=False):
        by_genes = mudata.MuData({"rna": adata, "other": other}, axis=1)
    with pytest.raises(InputError, match=r"do not share cells \(its axis is not 0\)"):
        adata_of_mudata(by_genes)


def test_a_place_that_is_taken_is_named(mdata):
    mdata["rna"].obsm["protein_counts"] = np.ones((300, 1))
    with pytest.raises(InputError, match=r"obsm\['protein_counts'\] of modality 'rna' is where the counts of 'prot'"):
        adata_of_mudata(mdata)
