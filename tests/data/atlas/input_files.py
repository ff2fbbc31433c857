"""Write the same cells in every format that an atlas can be made of."""

import gzip
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp

Writer = Callable[[Path, anndata.AnnData], Path]


def make_cells(counts: np.ndarray | sp.spmatrix) -> anndata.AnnData:
    """Make an AnnData of counts, with ids beside symbols, and columns of each kind."""
    counts = sp.csr_matrix(counts)
    n_cells, n_genes = counts.shape
    cell = np.arange(n_cells)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(cell % 3 - 1, ["T", "B"]),
            "donor": [f"d{place % 2}" for place in cell],
            "age": cell / 2,
            "is_primary": cell % 2 == 0,
        },
        index=[f"cell{place}" for place in cell],
    )
    var = pd.DataFrame({"gene_ids": gene_ids(n_genes)}, index=[f"GENE{place}" for place in range(n_genes)])
    return anndata.AnnData(counts, obs=obs, var=var)


def gene_ids(n_genes: int) -> list[str]:
    """Give made-up Ensembl ids."""
    return [f"ENSG{place:011d}" for place in range(n_genes)]


def write_csr(folder: Path, adata: anndata.AnnData) -> Path:
    adata.write_h5ad(folder / "csr.h5ad", compression="gzip")
    return folder / "csr.h5ad"


def write_csc(folder: Path, adata: anndata.AnnData) -> Path:
    adata = adata.copy()
    adata.X = sp.csc_matrix(adata.X)
    adata.write_h5ad(folder / "csc.h5ad")
    return folder / "csc.h5ad"


def write_dense(folder: Path, adata: anndata.AnnData) -> Path:
    adata = adata.copy()
    adata.X = adata.X.toarray()
    adata.write_h5ad(folder / "dense.h5ad")
    return folder / "dense.h5ad"


def write_zarr_2(folder: Path, adata: anndata.AnnData) -> Path:
    return _write_zarr(folder / "two.zarr", adata, 2)


def write_zarr_3(folder: Path, adata: anndata.AnnData) -> Path:
    return _write_zarr(folder / "three.zarr", adata, 3)


def _write_zarr(path: Path, adata: anndata.AnnData, version: int) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    with anndata.settings.override(zarr_write_format=version), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_zarr(path)
    return path


def write_tenx(folder: Path, adata: anndata.AnnData) -> Path:
    """Write as Cell Ranger 3 and later do."""
    path = folder / "tenx.h5"
    with h5py.File(path, "w") as file:
        group = _write_tenx_matrix(file.create_group("matrix"), adata)
        features = group.create_group("features")
        features["id"] = adata.var["gene_ids"].to_numpy(dtype="S")
        features["name"] = adata.var_names.to_numpy(dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * adata.n_vars, dtype="S")
    return path


def write_tenx_2(folder: Path, adata: anndata.AnnData) -> Path:
    """Write as Cell Ranger 2 did."""
    path = folder / "tenx2.h5"
    with h5py.File(path, "w") as file:
        group = _write_tenx_matrix(file.create_group("hg19"), adata)
        group["genes"] = adata.var["gene_ids"].to_numpy(dtype="S")
        group["gene_names"] = adata.var_names.to_numpy(dtype="S")
    return path


def _write_tenx_matrix(group: h5py.Group, adata: anndata.AnnData) -> h5py.Group:
    group["data"], group["indices"], group["indptr"] = adata.X.data, adata.X.indices, adata.X.indptr
    group["shape"] = np.array(adata.shape[::-1], dtype=np.int32)
    group["barcodes"] = adata.obs_names.to_numpy(dtype="S")
    return group


def write_mtx(folder: Path, adata: anndata.AnnData) -> Path:
    path = folder / "mtx"
    path.mkdir(exist_ok=True)
    field = "integer" if _is_whole(adata) else "real"
    scipy.io.mmwrite(path / "matrix.mtx", sp.coo_matrix(adata.X.T), field=field, symmetry="general")
    genes = adata.var["gene_ids"].astype(str) + "\t" + adata.var_names.astype(str)
    (path / "genes.tsv").write_text("".join(f"{line}\n" for line in genes))
    (path / "barcodes.tsv").write_text("".join(f"{name}\n" for name in adata.obs_names))
    return path


def write_mtx_gz(folder: Path, adata: anndata.AnnData) -> Path:
    plain = write_mtx(folder, adata)
    path = folder / "mtx_gz"
    path.mkdir(exist_ok=True)
    genes = (plain / "genes.tsv").read_text().replace("\n", "\tGene Expression\n")
    texts = {"features.tsv": genes, **{name: (plain / name).read_text() for name in ("matrix.mtx", "barcodes.tsv")}}
    for name, text in texts.items():
        (path / f"GSM1_{name}.gz").write_bytes(gzip.compress(text.encode()))
    return path


def _is_whole(adata: anndata.AnnData) -> bool:
    return bool((np.isfinite(adata.X.data) & (adata.X.data == np.rint(adata.X.data))).all())


def write_loom(folder: Path, adata: anndata.AnnData) -> Path:
    path = folder / "cells.loom"
    with h5py.File(path, "w") as file:
        file["matrix"] = adata.X.toarray().T
        file["row_attrs/Gene"] = adata.var_names.to_numpy(dtype=object)
        file["row_attrs/Accession"] = adata.var["gene_ids"].to_numpy(dtype=object)
        file["col_attrs/CellID"] = adata.obs_names.to_numpy(dtype=object)
        for key in ("cell_type", "donor"):
            file[f"col_attrs/{key}"] = adata.obs[key].astype(object).fillna("").to_numpy(dtype=object)
        file["col_attrs/age"] = adata.obs["age"].to_numpy()
    return path


WRITERS: dict[str, Writer] = {
    "csr": write_csr,
    "csc": write_csc,
    "dense": write_dense,
    "zarr 2": write_zarr_2,
    "zarr 3": write_zarr_3,
    "10x h5": write_tenx,
    "10x h5 of version 2": write_tenx_2,
    "10x mtx": write_mtx,
    "10x mtx.gz": write_mtx_gz,
    "loom": write_loom,
}
ANNDATA = ("csr", "csc", "dense", "zarr 2", "zarr 3")
