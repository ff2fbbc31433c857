"""Stream cells from a file as it is: nothing to build, but slower than an atlas, and shuffled only by small blocks."""

import atexit
import json
import logging
import shutil
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from selfcell.core.errors import InputError
from selfcell.data.atlas.inputs import CellInput, open_input
from selfcell.data.atlas.places import fingerprint
from selfcell.data.buffers import BufferPool
from selfcell.data.genes import GeneTable
from selfcell.data.rows import RowBuffer, runs_of
from selfcell.data.streamed import FrameObs, StreamedCells
from selfcell.data.subset import CellSubset

logger = logging.getLogger(__name__)

_MAX_GAP = 8
_MEMORY = 2**28


class BackedRows:
    """Cells of one open file.

    Parameters
    ----------
    source
        The file.
    """

    def __init__(self, source: CellInput) -> None:
        self.source = source
        self.n_genes = len(source.genes)
        self.boundaries = np.array([0, source.n_cells])

    def __len__(self) -> int:
        return self.source.n_cells

    def read(self, rows: np.ndarray, pool: BufferPool) -> RowBuffer:  # noqa: ARG002 - the file's reader makes arrays
        """Read the stretches of cells that these are in."""
        starts, stops = runs_of(rows, boundaries=self.boundaries, max_gap=_MAX_GAP)
        blocks = [self.source.read(int(start), int(stop)) for start, stop in zip(starts, stops, strict=True)]
        lengths = [np.diff(block.indptr) for block in blocks]
        return RowBuffer(
            np.concatenate([np.zeros(1, dtype=np.int64), *lengths]).cumsum(),
            np.concatenate([block.indices for block in blocks]),
            np.concatenate([block.data for block in blocks]),
            starts,
            np.concatenate([[0], np.cumsum(stops - starts)[:-1]]).astype(np.int64),
        )


def open_backed(path: str | Path, *, layer: str | None = None, gene_column: str | None = None) -> StreamedCells:
    """Open a file of cells as a stream, and read it once to check that it holds counts.

    Parameters
    ----------
    path
        A file of any format that :mod:`selfcell.data.atlas.inputs` reads.
    layer, gene_column
        Where the counts are, and which column of ``var`` names the genes.

    Raises
    ------
    InputError
        If it cannot be read, some cells have no counts or what is no count, or genes are named twice.
    """
    path = Path(path)
    scratch = Path(tempfile.mkdtemp(prefix="selfcell-"))
    # What is written there is read until the program ends, by whoever holds the cells.
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    source = open_input(path, layer=layer, gene_column=gene_column, scratch=scratch, memory_bytes=_MEMORY)
    if source.counts_address not in {"X", "matrix"}:
        logger.info("Counts are taken from %s.", source.counts_address)
    _check(source)
    logger.info(
        "%s is read from disk. Its cells are shuffled in blocks: where they lie sorted by type or donor, minibatches "
        "are less mixed than those of an atlas (selfcell atlas build).",
        path.name,
    )
    return StreamedCells(
        rows=BackedRows(source),
        genes=_gene_table(source),
        obs=FrameObs(source.obs(list(source.obs_kinds))),
        subset=CellSubset(source.n_cells),
        origin=path.name,
        digest=json.dumps(fingerprint(path), sort_keys=True),
        counts_address=source.counts_address,
    )


def _check(source: CellInput) -> None:
    size = source.block_size(_MEMORY)
    with tqdm(total=source.n_cells, desc="Checking the counts", unit=" cells", unit_scale=True, disable=None) as bar:
        for start in range(0, source.n_cells, size):
            block = source.read(start, min(start + size, source.n_cells))
            empty = np.flatnonzero(np.diff(block.indptr) == 0)
            if empty.size:
                raise InputError(
                    f"Cell {source.names()[start + empty[0]]!r} of {source.path} has no counts. Remove such cells "
                    "first, or build an atlas, which leaves them out."
                )
            bar.update(block.shape[0])


def _gene_table(source: CellInput) -> GeneTable:
    ids = source.genes.ids
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InputError(
            f"{source.path} names gene {twice!r} twice. Name another column of var (--gene-column), or build an atlas, "
            "which sums them."
        )
    return GeneTable(ids, source.genes.symbols)
