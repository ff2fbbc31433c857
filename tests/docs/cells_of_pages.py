"""The files that pages name, with simulated cells; written once, and copied for each page."""

import itertools
from pathlib import Path

import anndata
import mudata
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp
import torch

from selfcell.data.simulate import simulate_cells

SMALL = {
    "data": {"donor_key": "donor_id", "test_fraction": 0.3},
    "network": {"hidden_sizes": [16], "n_latent": 8},
    "training": {"max_epochs": 1, "minibatch_size": 64},
}
"""Of models that a page takes as given."""


def make_cells() -> anndata.AnnData:
    """Simulate cells with the genes, proteins, columns and embeddings that pages name."""
    adata = simulate_cells(
        n_cells=400, n_genes=80, n_types=3, n_donors=10, n_batches=3, n_proteins=6, mean_counts=300.0, seed=3
    )
    adata.var_names = ["CD3E", "CD19", *adata.var_names[2:]]
    adata.uns["protein_names"] = np.array(["CD3", "CD19", "CD4", "CD8", "CD14", "CD45"], dtype=object)
    obs = adata.obs.rename(columns={"donor": "donor_id", "batch": "study"})
    obs["cell_type"] = obs["cell_type"].cat.rename_categories(["B cell", "T cell", "monocyte"])
    obs["study"] = obs["study"].cat.rename_categories(["Muraro", "Tosti", "Fasolino"])
    obs["Donor"], obs["Batch"], obs["mergedcelltype"] = obs["donor_id"], obs["study"], obs["cell_type"]
    obs["tissue"] = np.where(np.arange(len(obs)) % 3, "lung", "blood")
    obs["dataset_id"] = obs["study"]
    adata.obs = obs
    rng = np.random.default_rng(0)
    for key in ("X_other", "X_scGPT", "X_pca"):
        adata.obsm[key] = rng.normal(size=(adata.n_obs, 4)).astype(np.float32)
    return adata


def write_files(folder: Path) -> None:
    """Write the files of cells that pages name."""
    adata = make_cells()
    donors = adata.obs["donor_id"].cat.categories
    is_query = adata.obs["donor_id"].isin(list(donors[:2])).to_numpy()
    parts = {
        "query": is_query, "new": is_query, "other": is_query, "spleen": is_query,
        "cells": ~is_query, "reference": ~is_query, "cite": ~is_query, "atlas": ~is_query,
        "lung": ~is_query & (np.arange(adata.n_obs) % 2 == 0), "liver": ~is_query & (np.arange(adata.n_obs) % 2 == 1),
    }  # fmt: skip
    for name, chosen in parts.items():
        adata[chosen].copy().write_h5ad(folder / f"{name}.h5ad")
    mudata.MuData({"gex": adata[is_query].copy()}).write(folder / "cells.h5mu")
    write_census(adata, folder / "census.h5ad")
    write_10x(adata[is_query], folder / "10x_folder")
    for place in (folder, folder / "pretrained"):
        place.mkdir(exist_ok=True)
        write_checkpoint(list(adata.var_names), place)
    (folder / "cells").mkdir()
    for part in ("lung", "liver"):
        (folder / "cells" / f"{part}.h5ad").write_bytes((folder / f"{part}.h5ad").read_bytes())


def write_census(adata: anndata.AnnData, path: Path) -> None:
    """Write cells as CELLxGENE has them: normalized X, counts in raw, genes by Ensembl id, copies marked."""
    census = anndata.AnnData(adata.X.copy(), obs=adata.obs[["cell_type", "donor_id", "tissue"]].copy())
    census.var_names = [f"ENSG{place:011d}" for place in range(adata.n_vars)]
    census.var["feature_name"] = list(adata.var_names)
    census.obs["is_primary_data"] = True
    census.raw = census
    census.X = sp.csr_matrix(census.X.log1p())
    census.write_h5ad(path)


def write_10x(adata: anndata.AnnData, folder: Path) -> None:
    """Write cells as CellRanger does, in other cells than those of the files."""
    folder.mkdir()
    scipy.io.mmwrite(folder / "matrix.mtx", sp.coo_matrix(adata.X.T).astype(int))
    (folder / "barcodes.tsv").write_text("".join(f"{name}-10x\n" for name in adata.obs_names))
    rows = [f"ENSG{place:011d}\t{name}\tGene Expression\n" for place, name in enumerate(adata.var_names)]
    (folder / "features.tsv").write_text("".join(rows))


def write_checkpoint(genes: list[str], folder: Path) -> None:
    """Write a masked autoencoder as the paper's code does, and the genes of its input."""
    stacks = {"encoder": (len(genes), 16, 8), "decoder.0": (8, 16, len(genes))}
    shapes = {
        f"{name}.{3 * place}.{part}": shape
        for name, widths in stacks.items()
        for place, (n_in, n_out) in enumerate(itertools.pairwise(widths))
        for part, shape in (("weight", (n_out, n_in)), ("bias", (n_out,)))
    }
    generator = torch.Generator().manual_seed(0)
    state = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    torch.save({"state_dict": state}, folder / "RandomMask.ckpt")
    pd.DataFrame({"feature_name": genes}).to_parquet(folder / "var.parquet")
