"""A copy of the census in small, made by tiledbsoma: the layout of the published one, and its columns."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp
import tiledbsoma

N_CELLS, N_GENES = 300, 40
DAY = "2025-01-30"


def cells_of_census(*, seed: int = 0) -> anndata.AnnData:
    """Give all cells as the census would give them: counts, obs by number, and genes by Ensembl id."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 300, size=(N_CELLS, N_GENES)) * (rng.random((N_CELLS, N_GENES)) < 0.3)
    counts[:, 0] = 1 + np.arange(N_CELLS) % 3
    place = np.arange(N_CELLS)
    obs = pd.DataFrame(
        {
            "dataset_id": pd.Categorical([f"set{number // 100}" for number in place]),
            "cell_type": pd.Categorical([f"type {number % 4}" for number in place]),
            "tissue_general": pd.Categorical(["lung" if number % 3 else "blood" for number in place]),
            "donor_id": pd.Categorical([f"donor{number % 7}" for number in place]),
            "is_primary_data": place % 5 > 0,
            "observation_joinid": [f"{number:010x}" for number in place],
            "raw_sum": counts.sum(axis=1).astype(np.float64),
            "nnz": (counts > 0).sum(axis=1),
        },
        index=place.astype(str),
    )
    var = pd.DataFrame(
        {"feature_name": [f"GENE{number}" for number in range(N_GENES)], "feature_length": np.arange(N_GENES) + 500},
        index=[f"ENSG{number:011d}" for number in range(N_GENES)],
    )
    return anndata.AnnData(X=sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)


def write_census(folder: Path, adata: anndata.AnnData, *, day: str | None = DAY) -> Path:
    """Write a copy of the census with these cells and give its folder."""
    obs = adata.obs.reset_index(drop=True)
    obs.insert(0, "soma_joinid", np.arange(adata.n_obs))
    var = adata.var.reset_index(names="feature_id")
    var.insert(0, "soma_joinid", np.arange(adata.n_vars))
    facts = {"census_schema_version": "2.1.0"} | ({} if day is None else {"census_build_date": day})
    summary = pd.DataFrame({"soma_joinid": range(len(facts)), "label": facts.keys(), "value": facts.values()})
    with tiledbsoma.Collection.create(str(folder)) as census:
        info = census.add_new_collection("census_info")
        _add_frame(info, "summary", summary)
        data = census.add_new_collection("census_data")
        human = data.add_new_collection("homo_sapiens", tiledbsoma.Experiment)
        _add_frame(human, "obs", obs)
        measured = human.add_new_collection("ms").add_new_collection("RNA", tiledbsoma.Measurement)
        _add_frame(measured, "var", var)
        layers = measured.add_new_collection("X")
        layers.add_new_sparse_ndarray("raw", type=pa.float32(), shape=adata.shape).close()
    # Written once all is made: values of names that are written in the same moment as their table are lost.
    root = folder / "census_data/homo_sapiens"
    _write_frame(folder / "census_info/summary", summary)
    _write_frame(root / "obs", obs)
    _write_frame(root / "ms/RNA/var", var)
    write_counts(folder, adata.X)
    return folder


def write_counts(folder: Path, counts: sp.csr_matrix, *, first_cell: int = 0) -> None:
    """Write counts of cells into a copy."""
    found = sp.coo_matrix(counts)
    columns = {"soma_dim_0": found.row.astype(np.int64) + first_cell, "soma_dim_1": found.col.astype(np.int64)}
    with tiledbsoma.SparseNDArray.open(str(folder / "census_data/homo_sapiens/ms/RNA/X/raw"), "w") as raw:
        raw.write(pa.table(columns | {"soma_data": found.data.astype(np.float32)}))


def _add_frame(parent: tiledbsoma.Collection, key: str, frame: pd.DataFrame) -> None:
    schema = pa.Schema.from_pandas(frame, preserve_index=False)
    domain = [[0, len(frame) - 1]]
    parent.add_new_dataframe(key, schema=schema, index_column_names=["soma_joinid"], domain=domain).close()


def _write_frame(folder: Path, frame: pd.DataFrame) -> None:
    with tiledbsoma.DataFrame.open(str(folder), "w") as table:
        table.write(pa.Table.from_pandas(frame, preserve_index=False))
