"""Write big made-up source files, cell types known and sorted within each file, block by block.

python benchmarks/simulate_atlas.py --out work/sources --cells 300000
python benchmarks/simulate_atlas.py --out work/big --cells 5000000 --nonzeros 1000 --cells-per-file 1000000 --compact

Whether a cell has a gene is drawn for each cell and gene independently, with the rate of its type; rates are
log-normal, so a few genes are in nearly every cell and most in few. Counts are geometric, with means that rise with the
rate. A cell's counts depend on the seed, its number, its type and its depth alone.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numba as nb
import numpy as np
import pandas as pd
from anndata.io import write_elem

CELLS_PER_BLOCK = 4096
_GUIDES_PER_GENE = 2
_QUANTILES = 4096
_COUNT_LEVELS = 64
_MEAN_FACTOR = 1.12
"""Between the means of two levels; the last level has ``1 + 0.2 * 1.12 ** 63``, some 250."""
_DEPTH_SPREAD = 0.45


@dataclass(frozen=True)
class Profiles:
    """What is true of the cells: how often each type has each gene, and how many counts it then has."""

    hazard: np.ndarray
    """``-log(1 - rate)`` of each type and gene at depth 1, float32."""
    count_level: np.ndarray
    """Which mean the counts of each gene have, uint8."""
    type_share: np.ndarray
    """Share of cells of each type."""

    @property
    def detection_rate(self) -> np.ndarray:
        """Chance of a cell of depth 1 to have the gene, by type and gene."""
        return -np.expm1(-self.hazard)


def draw_profiles(*, n_genes: int, n_types: int, nonzeros: float, seed: int) -> Profiles:
    """Draw the types: a tenth of the genes differs from type to type, by some four times up or down."""
    rng = np.random.default_rng([seed, 0])
    base = rng.normal(0.0, 2.2, size=n_genes)
    own = rng.random((n_types, n_genes)) < 0.1
    log_rate = base + own * rng.normal(0.4, 1.4, size=(n_types, n_genes))
    share = rng.dirichlet(np.full(n_types, 2.0))
    depth = np.exp(_DEPTH_SPREAD * np.linspace(-2.5, 2.5, 21))
    weight = np.exp(-0.5 * np.linspace(-2.5, 2.5, 21) ** 2)

    def mean_nonzeros(shift: float) -> float:
        rate = np.exp(np.clip(log_rate + shift, None, 2.0))
        of_depth = [share @ -np.expm1(-rate * factor).sum(axis=1) for factor in depth]
        return float(np.average(of_depth, weights=weight))

    low, high = -20.0, 20.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if mean_nonzeros(middle) < nonzeros else (low, middle)
    hazard = np.exp(np.clip(log_rate + low, None, 2.0)).astype(np.float32)
    mean = hazard.mean(axis=0) * rng.lognormal(0.0, 1.0, size=n_genes) * 2.0
    level = np.log(np.maximum(mean, 0.2) / 0.2) / np.log(_MEAN_FACTOR)
    return Profiles(hazard, np.clip(level, 0, _COUNT_LEVELS - 1).astype(np.uint8), share)


def _count_table() -> np.ndarray:
    """Quantiles of the counts of each level: one and a geometric rest."""
    mean = 0.2 * _MEAN_FACTOR ** np.arange(_COUNT_LEVELS)
    middle = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    rest = np.floor(np.log1p(-middle) / np.log(mean / (1 + mean))[:, None])
    return np.minimum(1 + rest, 65_535).astype(np.uint16)


def _exponential_table() -> np.ndarray:
    return -np.log1p(-(np.arange(_QUANTILES) + 0.5) / _QUANTILES).astype(np.float32)


def _guides(hazard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum hazards up along the genes, and note which gene lies at each of many equal steps of the sum."""
    edges = np.zeros((hazard.shape[0], hazard.shape[1] + 1), dtype=np.float32)
    edges[:, 1:] = np.cumsum(hazard, axis=1, dtype=np.float64)
    n_guides = _GUIDES_PER_GENE * hazard.shape[1]
    guide = np.zeros((len(edges), n_guides + 1), dtype=np.int32)
    for row, edge in zip(guide, edges, strict=True):
        steps = np.arange(n_guides + 1) * (float(edge[-1]) / n_guides)
        row[:] = np.maximum(np.searchsorted(edge, steps.astype(np.float32), side="right") - 2, 0)
    return edges, guide


@nb.njit(nogil=True, cache=True, inline="always")
def _next(state: int) -> int:
    state ^= state << nb.uint64(13)
    state ^= state >> nb.uint64(7)
    return state ^ (state << nb.uint64(17))


@nb.njit(nogil=True, cache=True, inline="always")
def _seeded(seed: int, cell: int) -> int:
    """Mix seed and cell (SplitMix64)."""
    state = nb.uint64(seed) * nb.uint64(0xD1342543DE82EF95) + nb.uint64(cell + 1) * nb.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> nb.uint64(30))) * nb.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> nb.uint64(27))) * nb.uint64(0x94D049BB133111EB)
    return (state ^ (state >> nb.uint64(31))) | nb.uint64(1)


@nb.njit(parallel=True, cache=True, fastmath=True)
def _draw(seed, first, cell_type, depth, edges, guide, exponential, level, quantile, gene_index, count, n_drawn):  # noqa: PLR0913, PLR0917 - loops take arrays
    """Walk along the summed hazard by exponential steps; a gene that is hit is left at its end, so hit once."""
    n_genes = edges.shape[1] - 1
    n_guides = guide.shape[1] - 1
    for cell in nb.prange(len(cell_type)):
        edge, near = edges[cell_type[cell]], guide[cell_type[cell]]
        total = edge[n_genes]
        per_guide = np.float32(n_guides) / total
        step = np.float32(1.0) / depth[cell]
        state = _seeded(seed, first + cell)
        place, found = np.float32(0.0), 0
        while True:
            state = _next(state)
            place += exponential[(state >> nb.uint64(8)) & nb.uint64(_QUANTILES - 1)] * step
            if place >= total:
                break
            gene = near[min(int(place * per_guide), n_guides)]
            while edge[gene + 1] <= place:
                gene += 1
            gene_index[cell, found] = gene
            count[cell, found] = quantile[level[gene], (state >> nb.uint64(40)) & nb.uint64(_QUANTILES - 1)]
            found += 1
            place = edge[gene + 1]
        n_drawn[cell] = found


@nb.njit(parallel=True, cache=True)
def _pack(gene_index, count, offsets, packed_index, packed_count):
    for cell in nb.prange(len(offsets) - 1):
        start = offsets[cell]
        for entry in range(offsets[cell + 1] - start):
            packed_index[start + entry] = gene_index[cell, entry]
            packed_count[start + entry] = count[cell, entry]


class CellSimulator:
    """Draw any cells of the atlas, by their number."""

    def __init__(self, profiles: Profiles, *, seed: int) -> None:
        self.profiles = profiles
        self.seed = seed
        self.edges, self.guide = _guides(profiles.hazard)
        self._quantile, self._exponential = _count_table(), _exponential_table()
        n_genes = profiles.hazard.shape[1]
        # As wide as a cell can be; pages that no cell reaches are never taken.
        self._gene_index = np.empty((CELLS_PER_BLOCK, n_genes), dtype=np.uint16 if n_genes <= 65_536 else np.uint32)
        self._count = np.empty((CELLS_PER_BLOCK, n_genes), dtype=np.uint16)
        self._buffers: dict[str, np.ndarray] = {}

    def draw(
        self, first: int, cell_type: np.ndarray, depth: np.ndarray, *, index_dtype: type, count_dtype: type
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw up to ``CELLS_PER_BLOCK`` cells; gives counts, genes and offsets, good until the next call."""
        n_drawn = np.zeros(len(cell_type), dtype=np.int64)
        level = self.profiles.count_level
        tables = (self.edges, self.guide, self._exponential, level, self._quantile)
        _draw(self.seed, first, cell_type, depth, *tables, self._gene_index, self._count, n_drawn)
        offsets = np.concatenate([[0], np.cumsum(n_drawn)])
        gene_index = self._packed("gene_index", offsets[-1], index_dtype)
        count = self._packed("count", offsets[-1], count_dtype)
        _pack(self._gene_index, self._count, offsets, gene_index, count)
        return count, gene_index, offsets

    def _packed(self, name: str, size: int, dtype: type) -> np.ndarray:
        """Give a buffer, the same again where it is large enough: fresh pages cost more than filling them."""
        known = self._buffers.get(name)
        if known is None or known.dtype != dtype or len(known) < size:
            known = self._buffers[name] = np.empty(size + size // 4, dtype)
        return known[:size]


def describe_cells(
    n_cells: int, *, first: int, profiles: Profiles, donors: np.ndarray, batch: int, seed: int
) -> tuple[pd.DataFrame, np.ndarray]:
    """Draw ``obs`` of a file, sorted by type, and the depth of each cell."""
    rng = np.random.default_rng([seed, 1, first])
    n_types = len(profiles.type_share)
    cell_type = np.sort(rng.choice(n_types, size=n_cells, p=profiles.type_share))
    donor = donors[rng.integers(len(donors), size=n_cells)]
    depth = (
        rng.lognormal(0.0, _DEPTH_SPREAD, size=n_cells)
        * np.random.default_rng([seed, 2]).lognormal(0.0, 0.15, size=int(donors.max()) + 1)[donor]
    )
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(cell_type, [f"type {code:03d}" for code in range(n_types)]),
            "donor": pd.Categorical([f"donor {code:03d}" for code in donor]),
            "batch": pd.Categorical([f"batch {batch:03d}"] * n_cells),
        },
        index=pd.Index([f"cell{number:09d}" for number in range(first, first + n_cells)], dtype=object),
    )
    return obs, depth.astype(np.float32)


def genes(n_genes: int) -> pd.DataFrame:
    """Name genes as CELLxGENE does: Ensembl-like ids, symbols in ``feature_name``."""
    ids = [f"ENSG{11_000_000_000 + 7 * gene}" for gene in range(n_genes)]
    symbols = [f"SIM{gene}" for gene in range(n_genes)]
    return pd.DataFrame({"feature_name": symbols}, index=pd.Index(ids, dtype=object))


class _GrowingArray:
    """A one-dimensional HDF5 array, chunked as AnnData has it, that is written a whole chunk at a time."""

    def __init__(self, group: h5py.Group, name: str, *, expected: int, dtype: type) -> None:
        # h5py derives the chunk from the size that is expected.
        self._array = group.create_dataset(name, (expected,), dtype, maxshape=(None,))
        self._chunk = np.empty(self._array.chunks[0], dtype)
        self._filled = self._written = 0

    def append(self, values: np.ndarray) -> None:
        """Put values at the end."""
        size = len(self._chunk)
        if self._written + self._filled + len(values) > self._array.shape[0]:
            self._array.resize((self._array.shape[0] * 9 // 8 + len(values),))
        while len(values):
            if not self._filled and len(values) >= size:
                piece, values = values[:size], values[size:]
            else:
                taken = values[: size - self._filled]
                self._chunk[self._filled : self._filled + len(taken)] = taken
                self._filled, values = self._filled + len(taken), values[len(taken) :]
                if self._filled < size:
                    return
                piece, self._filled = self._chunk, 0
            self._array.id.write_direct_chunk((self._written,), piece)
            self._written += size

    def close(self) -> None:
        """Write what is left."""
        self._array.resize((self._written + self._filled,))
        self._array[self._written :] = self._chunk[: self._filled]


def write_file(
    path: Path, simulator: CellSimulator, obs: pd.DataFrame, depth: np.ndarray, *, first: int, compact: bool
) -> int:
    """Write one uncompressed ``.h5ad`` in AnnData's layout; gives the number of values."""
    index_dtype, count_dtype = (np.uint16, np.uint16) if compact else (np.int32, np.float32)
    n_genes = simulator.profiles.hazard.shape[1]
    codes = obs["cell_type"].cat.codes.to_numpy().astype(np.int64)
    offsets = np.zeros(len(obs) + 1, dtype=np.int64)
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        matrix = file.create_group("X")
        matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [len(obs), n_genes]})
        expected = max(1, int(len(obs) * simulator.profiles.detection_rate.mean(axis=0).sum()))
        data = _GrowingArray(matrix, "data", expected=expected, dtype=count_dtype)
        indices = _GrowingArray(matrix, "indices", expected=expected, dtype=index_dtype)
        for start in range(0, len(obs), CELLS_PER_BLOCK):
            block = slice(start, min(start + CELLS_PER_BLOCK, len(obs)))
            count, gene_index, ends = simulator.draw(
                first + start, codes[block], depth[block], index_dtype=index_dtype, count_dtype=count_dtype
            )
            data.append(count)
            indices.append(gene_index)
            offsets[block.start + 1 : block.stop + 1] = offsets[block.start] + ends[1:]
        data.close()
        indices.close()
        n_values = int(offsets[-1])
        matrix.create_dataset("indptr", data=offsets if n_values >= 2**31 else offsets.astype(np.int32))
        write_elem(file, "obs", obs)
        write_elem(file, "var", genes(n_genes))
        for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
            write_elem(file, name, {})
    return n_values


def simulate(  # noqa: PLR0913 - a setting each
    out: Path,
    *,
    n_cells: int,
    n_genes: int = 19_331,
    nonzeros: float = 1_600,
    n_types: int = 30,
    n_donors: int = 50,
    cells_per_file: int = 1_000_000,
    compact: bool = False,
    seed: int = 0,
) -> list[Path]:
    """Write the files and ``profiles.npz``; gives their paths. A file has donors and a batch of its own.

    Parameters
    ----------
    out
        Folder, made if need be.
    n_cells, n_genes, n_types, n_donors, cells_per_file
        Sizes; the last file may have fewer cells.
    nonzeros
        Mean number of genes that a cell has.
    compact
        Write counts and genes as uint16 instead of float32 and int32.
    seed
        Seed of everything.
    """
    out.mkdir(parents=True, exist_ok=True)
    profiles = draw_profiles(n_genes=n_genes, n_types=n_types, nonzeros=nonzeros, seed=seed)
    np.savez(out / "profiles.npz", detection_rate=profiles.detection_rate, type_share=profiles.type_share)
    simulator = CellSimulator(profiles, seed=seed)
    starts = range(0, n_cells, cells_per_file)
    owned = np.array_split(np.arange(max(n_donors, len(starts))), len(starts))
    paths = []
    for batch, (first, donors) in enumerate(zip(starts, owned, strict=True)):
        started = time.perf_counter()
        here = min(cells_per_file, n_cells - first)
        obs, depth = describe_cells(here, first=first, profiles=profiles, donors=donors, batch=batch, seed=seed)
        path = out / f"source_{batch:03d}.h5ad"
        n_values = write_file(path, simulator, obs, depth, first=first, compact=compact)
        seconds = time.perf_counter() - started
        print(f"{path}: {here} cells, {n_values / here:.0f} non-zeros a cell, {here / seconds:.0f} cells/s", flush=True)
        paths.append(path)
    return paths


def main() -> None:
    """Write the files that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=300_000)
    parser.add_argument("--genes", type=int, default=19_331)
    parser.add_argument("--nonzeros", type=float, default=1_600, help="mean number of genes a cell has")
    parser.add_argument("--types", type=int, default=30)
    parser.add_argument("--donors", type=int, default=50)
    parser.add_argument("--cells-per-file", type=int, default=1_000_000)
    parser.add_argument(
        "--compact", action="store_true", help="uint16 instead of float32 and int32: a third of the size"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    simulate(
        given.out,
        n_cells=given.cells,
        n_genes=given.genes,
        nonzeros=given.nonzeros,
        n_types=given.types,
        n_donors=given.donors,
        cells_per_file=given.cells_per_file,
        compact=given.compact,
        seed=given.seed,
    )


if __name__ == "__main__":
    main()
