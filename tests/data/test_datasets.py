import numpy as np
import pytest

from selfcell.core.errors import InputError
from selfcell.data import datasets
from selfcell.data.dataset_table import DATASETS
from selfcell.data.source import open_cells


def test_an_unknown_data_set_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match=r"Unknown data set 'kang'\. .*Known: liu_covid_pbmc"):
        datasets.load("kang")


@pytest.mark.network
@pytest.mark.parametrize("name", list(DATASETS))
def test_a_real_data_set_is_what_the_table_says(name, tmp_path):
    info = DATASETS[name]
    adata = datasets.load(name)
    assert adata.shape == (info.n_cells, info.n_genes)
    assert adata.obs_names.is_unique and adata.var_names.is_unique
    for key in (info.donor_key, info.batch_key):
        assert key is None or adata.obs[key].notna().all()
    if info.label_key is not None:
        assert adata.obs[info.label_key].nunique() == info.n_labels
    for modality in ("protein", "atac"):
        if f"{modality}_counts" in adata.obsm:
            assert adata.obsm[f"{modality}_counts"].shape[1] == len(adata.uns[f"{modality}_names"])
    assert adata.uns["selfcell_dataset"]["licence"] == info.licence
    adata[:50].copy().write_h5ad(tmp_path / "part.h5ad")
    if name == "pbmc68k_reduced":
        with pytest.raises(InputError, match=r"looks scaled or centred; raw\.X has .* looks log-normalized"):
            open_cells(adata)
    else:
        cells = open_cells(adata)
        assert cells.counts_address == "X" and cells.counts.dtype == np.float32


@pytest.mark.network
def test_labels_and_counts_of_kang_are_of_the_same_cells():
    """Monocytes, by the labels of one package, express CD14 in the counts of the other."""
    adata = datasets.load("kang_ifnb")
    expressed = np.asarray((adata[:, "CD14"].X > 0).todense()).ravel()
    is_monocyte = (adata.obs["cell_type"] == "CD14+ Monocytes").to_numpy()
    assert expressed[is_monocyte].mean() > 5 * expressed[~is_monocyte].mean()
