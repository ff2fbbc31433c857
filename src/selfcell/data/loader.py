"""Minibatches of cells held in memory, shuffled anew each epoch by a seed."""

from collections.abc import Iterator, Mapping

import numpy as np
import scipy.sparse as sp
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from selfcell.core.seeds import numpy_rng
from selfcell.data.minibatch import CellMinibatch


class CellRows(Dataset[CellMinibatch]):
    """Cells in memory, taken many at a time by their positions.

    Parameters
    ----------
    counts
        Cells x genes, in the encoder's order of genes.
    codes
        Integer codes per cell to travel along.
    """

    def __init__(self, counts: sp.csr_matrix, codes: Mapping[str, np.ndarray] | None = None) -> None:
        self.counts = counts
        self.codes = dict(codes or {})

    def __len__(self) -> int:
        return int(self.counts.shape[0])

    def __getitem__(self, rows: np.ndarray) -> CellMinibatch:
        part = self.counts[rows]
        return CellMinibatch(
            values=torch.from_numpy(part.data),
            gene_index=torch.from_numpy(part.indices.astype(np.int64)),
            cell_offsets=torch.from_numpy(part.indptr.astype(np.int64)),
            n_genes=int(self.counts.shape[1]),
            codes={key: torch.from_numpy(code[rows]) for key, code in self.codes.items()},
        )


class MinibatchSampler(Sampler[np.ndarray]):
    """Positions of the cells of each minibatch; the last one of an epoch may be smaller.

    The order depends on the seed and the epoch alone, so that a resumed run sees the same minibatches. Lightning calls
    :meth:`set_epoch`.

    Parameters
    ----------
    n_cells
        Cells in an epoch.
    minibatch_size
        Cells per minibatch.
    shuffle_seed
        Seed of the order; None keeps the cells in order.
    min_cells
        Leave the last minibatch out where it has fewer cells.
    """

    def __init__(
        self, n_cells: int, *, minibatch_size: int, shuffle_seed: int | None = None, min_cells: int = 1
    ) -> None:
        n_left = n_cells % minibatch_size
        self.n_cells = n_cells
        self.n_used = n_cells if n_left >= min_cells else n_cells - n_left
        self.minibatch_size = minibatch_size
        self.shuffle_seed = shuffle_seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next iteration belongs to."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n_used // self.minibatch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        order = np.arange(self.n_cells)
        if self.shuffle_seed is not None:
            order = numpy_rng(self.shuffle_seed, "order", self.epoch).permutation(self.n_cells)
        for start in range(0, self.n_used, self.minibatch_size):
            yield order[start : min(start + self.minibatch_size, self.n_used)]


def cell_loader(
    counts: sp.csr_matrix,
    *,
    minibatch_size: int,
    codes: Mapping[str, np.ndarray] | None = None,
    shuffle_seed: int | None = None,
    min_cells: int = 1,
) -> DataLoader[CellMinibatch]:
    """Make a loader of minibatches; the arguments are those of :class:`CellRows` and :class:`MinibatchSampler`.

    Minibatches are cut in the training process itself: they are quick to make and slow to send between processes.
    """
    sampler = MinibatchSampler(
        int(counts.shape[0]), minibatch_size=minibatch_size, shuffle_seed=shuffle_seed, min_cells=min_cells
    )
    return DataLoader(CellRows(counts, codes), sampler=sampler, batch_size=None)
