"""Made-up cells with known types, donors and batches, for tests, docs and speed measurements."""

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float

from selfcell.core.seeds import numpy_rng
from selfcell.data.programs import GenePrograms


def simulate_cells(
    *,
    n_cells: int = 600,
    n_genes: int = 200,
    n_types: int = 4,
    n_donors: int = 6,
    n_batches: int = 2,
    mean_counts: float = 400.0,
    type_effect: float = 1.0,
    n_proteins: int = 0,
    n_peaks: int = 0,
    seed: int = 0,
) -> anndata.AnnData:
    """Simulate cells whose types differ in a tenth of their genes.

    Counts are Poisson around a gene's base rate, times effects of type, donor and batch, times the cell's size; all
    effects are log-normal. Donor ``d`` is of batch ``d % n_batches``.

    Parameters
    ----------
    n_cells, n_genes, n_types, n_donors, n_batches
        Sizes.
    mean_counts
        Mean counts of a cell.
    type_effect
        Standard deviation of the log fold change of a type's own genes; 0 makes types the same.
    n_proteins, n_peaks
        Proteins and peaks of chromatin measured in the same cells, of which each follows the type and three genes.
    seed
        Seed of everything; the genes are the same with other proteins and peaks.

    Returns
    -------
    AnnData with counts in ``X`` (sparse rows, float32) and ``cell_type``, ``donor``, ``batch`` in ``obs``; with
    proteins ``protein_counts`` in ``obsm`` and ``protein_names`` in ``uns``, with peaks ``atac_counts`` (sparse rows)
    and ``atac_names``.
    """
    rng = np.random.default_rng(seed)
    cell_type, donor = rng.integers(n_types, size=n_cells), rng.integers(n_donors, size=n_cells)
    batch = donor % n_batches
    base = rng.normal(0.0, 1.5, size=n_genes)
    own_genes = rng.random((n_types, n_genes)) < 0.1
    type_shift = own_genes * rng.normal(2.0, 0.5, size=(n_types, n_genes)) * type_effect
    donor_shift = rng.normal(0.0, 0.1, size=(n_donors, n_genes))
    batch_shift = rng.normal(0.0, 0.2, size=(n_batches, n_genes))
    log_rate = base + type_shift[cell_type] + donor_shift[donor] + batch_shift[batch]
    rate = np.exp(log_rate)
    size = mean_counts * rng.lognormal(0.0, 0.3, size=n_cells)
    counts = rng.poisson(rate / rate.sum(axis=1, keepdims=True) * size[:, None]).astype(np.float32)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"type {code}" for code in cell_type]),
            "donor": pd.Categorical([f"donor {code}" for code in donor]),
            "batch": pd.Categorical([f"batch {code}" for code in batch]),
        },
        index=[f"cell{place}" for place in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"GENE{place}" for place in range(n_genes)])
    adata = anndata.AnnData(X=sp.csr_matrix(counts), obs=obs, var=var)
    if n_proteins:
        log_level = _following(counts, cell_type, n_proteins, numpy_rng(seed, "proteins"))
        counted = numpy_rng(seed, "protein counts").poisson(np.exp(log_level + 2.0)).astype(np.float32)
        adata.obsm["protein_counts"] = counted
        adata.uns["protein_names"] = np.array([f"CD{place + 1}" for place in range(n_proteins)], dtype=object)
    if n_peaks:
        log_level = _following(counts, cell_type, n_peaks, numpy_rng(seed, "peaks"))
        counted = numpy_rng(seed, "peak counts").poisson(np.exp(log_level - 2.0)).astype(np.float32)
        adata.obsm["atac_counts"] = sp.csr_matrix(counted)
        names = [f"chr1-{1_000 * place}-{1_000 * place + 500}" for place in range(n_peaks)]
        adata.uns["atac_names"] = np.array(names, dtype=object)
    return adata


def _following(
    counts: np.ndarray, cell_type: np.ndarray, n_features: int, rng: np.random.Generator
) -> Float[np.ndarray, "n_cells n_features"]:
    """Give logarithms of levels that differ by type and follow three genes each."""
    own = rng.normal(0.0, 1.0, size=n_features) + rng.normal(0.0, 0.7, size=(cell_type.max() + 1, n_features))
    weight = np.zeros((counts.shape[1], n_features))
    for feature in range(n_features):
        weight[rng.choice(counts.shape[1], 3, replace=False), feature] = 0.3
    expression = np.log1p(counts)
    return np.asarray(own[cell_type] + (expression - expression.mean(axis=0)) @ weight)


def simulate_programs(
    *,
    n_cells: int = 600,
    n_programs: int = 8,
    genes_per_program: int = 10,
    n_other_genes: int = 20,
    n_factors: int = 3,
    mean_counts: float = 1_500.0,
    seed: int = 0,
) -> tuple[anndata.AnnData, GenePrograms]:
    """Simulate cells whose genes vary together in programmes that do not overlap.

    Each cell has an activity of each programme, and the genes of a programme follow it up and down, each with a base
    rate of its own. Activities are linear in a few factors, so that the programmes of a cell tell of one another.
    Counts are Poisson.

    Parameters
    ----------
    n_cells, n_programs, genes_per_program, n_other_genes, n_factors
        Sizes; the other genes are of no programme.
    mean_counts
        Counts of a cell.
    seed
        Seed of everything.

    Returns
    -------
    AnnData with counts in ``X`` (sparse rows, float32) and activities in ``obsm["activity"]``, and the programmes.
    """
    rng = np.random.default_rng(seed)
    n_genes = n_programs * genes_per_program + n_other_genes
    loading = rng.normal(size=(n_factors, n_programs))
    activity = rng.normal(size=(n_cells, n_factors)) @ loading / np.sqrt(n_factors)
    place = rng.permutation(n_genes)[: n_programs * genes_per_program].reshape(n_programs, genes_per_program)
    log_rate = np.tile(rng.normal(0.0, 0.7, size=n_genes), (n_cells, 1))
    for program in range(n_programs):
        log_rate[:, place[program]] += activity[:, [program]]
    rate = np.exp(log_rate)
    counts = rng.poisson(rate / rate.sum(axis=1, keepdims=True) * mean_counts).astype(np.float32)
    adata = anndata.AnnData(
        X=sp.csr_matrix(counts),
        obs=pd.DataFrame(index=[f"cell{cell}" for cell in range(n_cells)]),
        var=pd.DataFrame(index=[f"GENE{gene}" for gene in range(n_genes)]),
        obsm={"activity": activity},
    )
    names = tuple(f"PROGRAM{program}" for program in range(n_programs))
    genes = tuple(np.sort(genes).astype(np.int64) for genes in place)
    return adata, GenePrograms(names, genes, n_genes)


def simulate_counts(*, n_cells: int, n_genes: int, density: float, seed: int) -> sp.csr_matrix:
    """Simulate counts of a given size and density, without any structure.

    Parameters
    ----------
    n_cells, n_genes
        Shape.
    density
        Share of entries that are not zero, between 0 and 1.
    seed
        Seed.
    """
    rng = np.random.default_rng(seed)
    counts = sp.random(n_cells, n_genes, density=density, format="csr", rng=rng, dtype=np.float32)
    counts.data = rng.geometric(0.5, size=counts.nnz).astype(np.float32)
    return counts
