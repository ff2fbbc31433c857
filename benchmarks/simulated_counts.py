"""Made-up counts in memory, as uneven from gene to gene and from cell to cell as those of real cells."""

import numpy as np
import scipy.sparse as sp
from simulate_atlas import CELLS_PER_BLOCK, CellSimulator, describe_cells, draw_profiles

N_TYPES, N_DONORS = 30, 50


def simulated_counts(*, n_cells: int, n_genes: int, nonzeros: float, seed: int = 0) -> sp.csr_matrix:
    """Simulate cells of all types in random order.

    Parameters
    ----------
    n_cells, n_genes
        Sizes.
    nonzeros
        Mean number of genes that a cell has.
    seed
        Seed of everything.

    Returns
    -------
    Cells x genes, float32.
    """
    profiles = draw_profiles(n_genes=n_genes, n_types=N_TYPES, nonzeros=nonzeros, seed=seed)
    donors = np.arange(N_DONORS)
    obs, depth = describe_cells(n_cells, first=0, profiles=profiles, donors=donors, batch=0, seed=seed)
    order = np.random.default_rng([seed, 3]).permutation(n_cells)
    cell_type, depth = obs["cell_type"].cat.codes.to_numpy()[order], depth[order]
    simulator, parts, sizes = CellSimulator(profiles, seed=seed), [], [np.zeros(1, dtype=np.int64)]
    for start in range(0, n_cells, CELLS_PER_BLOCK):
        block = slice(start, start + CELLS_PER_BLOCK)
        count, gene_index, offsets = simulator.draw(
            start, cell_type[block], depth[block], index_dtype=np.int32, count_dtype=np.float32
        )
        # The simulator uses its arrays again.
        parts.append((count[: offsets[-1]].copy(), gene_index[: offsets[-1]].copy()))
        sizes.append(np.diff(offsets))
    values, genes = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return sp.csr_matrix((values, genes, np.cumsum(np.concatenate(sizes))), shape=(n_cells, n_genes))
