import anndata
import numpy as np
import pandas as pd
import pytest

from selfcell.core.errors import InputError
from selfcell.data import source
from selfcell.data.atlas.build import build_atlas
from selfcell.data.source import encode, obs_column, open_cells, read_adata, refuse_empty_cells


@pytest.mark.filterwarnings("ignore:Consolidated metadata")  # anndata writes it; zarr warns that it is new
def test_a_file_gives_the_same_cells_as_the_object(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with anndata.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False):
        adata.write_zarr(tmp_path / "cells.zarr")
    fingerprints = {
        open_cells(given).fingerprint() for given in (adata, tmp_path / "cells.h5ad", tmp_path / "cells.zarr")
    }
    assert len(fingerprints) == 1


def test_an_atlas_is_read_whole_where_it_fits(adata, tmp_path, monkeypatch):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    build_atlas([tmp_path / "cells.h5ad"], tmp_path / "atlas")
    cells = open_cells(tmp_path / "atlas")
    assert cells.counts.shape == adata.shape and cells.counts.sum() == adata.X.sum()
    of_donor = cells.obs.groupby("donor", observed=True).size()
    assert of_donor.to_dict() == adata.obs.groupby("donor", observed=True).size().to_dict()
    monkeypatch.setattr(source, "available_memory", lambda: 1000)
    with pytest.raises(InputError, match=r"The 300 cells of the atlas .* GB are free.*selfcell atlas export"):
        open_cells(tmp_path / "atlas")


def test_a_fingerprint_changes_with_one_count(adata):
    before = open_cells(adata).fingerprint()
    adata.X.data[0] += 1
    assert open_cells(adata).fingerprint() != before


def test_a_missing_file_is_named_with_the_nearest_one(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match=r"There is no file .*Did you mean 'cells\.h5ad'\?"):
        read_adata(tmp_path / "cell.h5ad")


def test_a_truncated_file_is_named(adata, tmp_path):
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cells\.h5ad cannot be read as an AnnData file \([\d,]+ bytes\).*truncated"):
        read_adata(path)


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "empty.h5ad").touch()
    with pytest.raises(InputError, match=r"empty\.h5ad cannot be read as an AnnData file \(0 bytes\)"):
        read_adata(tmp_path / "empty.h5ad")


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "cells.csv").touch()
    with pytest.raises(InputError, match=r"cells\.csv is none of \.h5ad, \.h5mu and \.zarr"):
        read_adata(tmp_path / "cells.csv")


def test_cells_without_counts_are_refused(adata):
    adata.X = adata.X.toarray()
    adata.X[[2, 5]] = 0
    with pytest.raises(InputError, match=r"2 of 300 cells in adata have no counts .*the first is 'cell2'"):
        refuse_empty_cells(open_cells(adata))


def test_a_missing_column_is_refused_with_the_nearest_name(adata):
    with pytest.raises(
        InputError, match=r"There is no column 'cell_typ' in obs to use as label\. Did you mean 'cell_type'\?"
    ):
        obs_column(adata.obs, "cell_typ", role="label")


def test_cells_without_a_value_are_refused(adata):
    adata.obs.loc["cell3", "donor"] = np.nan
    with pytest.raises(InputError, match=r"1 of 300 cells have no value in obs\['donor'\], used as donor"):
        obs_column(adata.obs, "donor", role="donor")


@pytest.mark.parametrize("role", ["batch", "donor"])
def test_a_value_for_each_cell_groups_none(adata, role):
    adata.obs["depth"] = np.linspace(0, 1, adata.n_obs)
    with pytest.raises(InputError, match=rf"obs\['depth'\] has 300 different values .* cannot be used as {role}"):
        obs_column(adata.obs, "depth", role=role)


def test_values_are_encoded_by_their_place_among_the_classes():
    assert encode(pd.Series(["b", "a", "c"]), ("a", "b")).tolist() == [1, 0, -1]


def test_a_subset_keeps_rows_together(cells):
    some = cells.subset(np.array([5, 2]))
    assert list(some.obs.index) == ["cell5", "cell2"]
    assert (some.counts.toarray() == cells.counts.toarray()[[5, 2]]).all()
