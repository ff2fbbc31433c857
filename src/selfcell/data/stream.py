"""Minibatches of cells from anywhere: an AnnData in memory, a file, an atlas."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from selfcell.core.errors import InputError, did_you_mean
from selfcell.data.atlas.cells import open_atlas
from selfcell.data.atlas.index import is_atlas, is_url
from selfcell.data.backed import BackedRows, open_backed
from selfcell.data.counts import Scale
from selfcell.data.loader import CellLoader
from selfcell.data.order import BlockOrder, CrossedCodes, Order, WeightedOrder, WholeOrder, balanced_weights, sizes_in
from selfcell.data.rows import MemoryRows
from selfcell.data.schedule import Schedule
from selfcell.data.source import Cells, CellSource, open_cells
from selfcell.data.streamed import StreamedCells
from selfcell.data.subset import CellSubset

AnyCells: TypeAlias = Cells | StreamedCells
"""Open cells: in memory, or on disk."""

BLOCK_SIZE, BUFFER_SIZE = 128, 4096
"""Of an atlas, whose cells are shuffled."""
FILE_BLOCK_SIZE, FILE_BUFFER_SIZE = 32, 8192
"""Of a file as it is, whose cells may lie sorted by type or donor."""


def stream_cells(
    cells: CellSource | Cells | StreamedCells,
    *,
    minibatch_size: int,
    shuffle_seed: int | None = 0,
    codes: Sequence[str] = (),
    where: str | None = None,
    only: Mapping[str, Sequence[str]] | None = None,
    balance_key: str | None = None,
    weights: Mapping[str, Mapping[str, float]] | None = None,
    layer: str | None = None,
    scale: Scale = "auto",
    gene_column: str | None = None,
    backed: bool = False,
    block_size: int | None = None,
    buffer_size: int | None = None,
    n_threads: int = 1,
    pin_memory: bool = False,
) -> CellLoader:
    """Iterate over cells in minibatches, each iteration another epoch.

    Parameters
    ----------
    cells
        An AnnData, a MuData, the path of a file, the path or URL of an atlas, or cells that are open already.
    minibatch_size
        Cells of a minibatch; the last of an epoch has what is left.
    shuffle_seed
        Seed of the order; None keeps the cells in order.
    codes
        Columns of ``obs`` whose codes come along in :attr:`CellMinibatch.codes`; what they stand for is in the loader's
        ``names``.
    where
        Only cells for which this holds, written as for :meth:`pandas.DataFrame.query`.
    only
        Only cells with these values in columns of ``obs``, such as ``{"donor_id": ["d1", "d2"]}``.
    balance_key
        Column of ``obs`` whose values are drawn equally often.
    weights
        Columns of ``obs``, and for their values how often such a cell comes beside others; those not named have 1.
        Of several columns the weights are multiplied.
    layer, scale, gene_column
        Of an AnnData or a file: where the counts are, what they are, which column of ``var`` names the genes; see
        :func:`selfcell.data.source.open_cells`.
    backed
        Read a file from disk while it is streamed; an atlas always is.
    block_size, buffer_size
        On disk: cells read at one go, and cells shuffled together; left out, 128 and 4,096 of an atlas, 32 and 8,192 of
        a file.
    n_threads
        On disk: threads that read ahead. They change no number.
    pin_memory
        Put minibatches into page-locked memory, for a GPU.

    Examples
    --------
    >>> loader = selfcell.stream_cells("atlas", minibatch_size=1024, codes=["cell_type"], where="tissue == 'lung'")
    >>> for minibatch in loader:
    ...     expression = minibatch.expression()
    ...     first_type = loader.names["cell_type"][minibatch.codes["cell_type"][0]]
    """
    _require_counts(minibatch_size=minibatch_size, block_size=block_size, buffer_size=buffer_size, n_threads=n_threads)
    if not isinstance(cells, Cells | StreamedCells):
        cells = open_any(cells, layer=layer, scale=scale, gene_column=gene_column, backed=backed)
    if where is not None:
        cells = cells.where(where)
    source = StreamSource(cells, minibatch_size=minibatch_size, block_size=block_size, buffer_size=buffer_size)
    order = source.order(source.everything(only or {}), shuffle_seed=shuffle_seed)
    if balance_key is not None and weights is not None:
        raise InputError("balance_key and weights contradict each other: give one of them.")
    if balance_key is not None:
        order = source.balanced(order, balance_key, seed=shuffle_seed or 0)
    if weights:
        order = source.weighted(order, weights, seed=shuffle_seed or 0)
    coded = {key: cells.coded(key, role="code") for key in _listed(codes)}
    return CellLoader(
        source.rows,
        Schedule(order, minibatch_size),
        codes={key: column.codes for key, column in coded.items()},
        names={key: column.names for key, column in coded.items()},
        reshuffle=shuffle_seed is not None,
        n_threads=n_threads if source.on_disk else 0,
        pin_memory=pin_memory,
    )


def open_any(
    source: CellSource,
    *,
    layer: str | None = None,
    scale: Scale = "auto",
    gene_column: str | None = None,
    backed: bool = False,
    cache_folder: str | Path | None = None,
) -> AnyCells:
    """Open an atlas and, if asked to, a file as a stream from disk; else into memory.

    Raises
    ------
    InputError
        If there are no counts, or what is asked for does not go together.
    """
    atlas = isinstance(source, str | Path) and (is_url(source) or is_atlas(source))
    if scale != "auto" and (atlas or backed):
        raise InputError("Cells are streamed from disk as whole counts only: leave scale (data.scale, --scale) out.")
    if atlas:
        given = {"layer": layer, "gene_column": gene_column}
        for name in [name for name, value in given.items() if value is not None]:
            option = name.replace("_", "-")
            raise InputError(f"An atlas knows where its counts and genes are: leave {name} (--{option}) out.")
        return open_atlas(str(source), cache_folder=cache_folder)
    if backed:
        if not isinstance(source, str | Path):
            raise InputError(
                "Only a file can be read from disk while it is streamed: give its path, or leave backed out."
            )
        return open_backed(source, layer=layer, gene_column=gene_column)
    return open_cells(source, layer=layer, scale=scale, gene_column=gene_column)


def _require_counts(**given: object) -> None:
    for name, value in given.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InputError(f"{name} must be a whole number of 1 or more, but is {value!r}.")


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


class StreamSource:
    """Open cells, as what loaders are made of.

    Parameters
    ----------
    cells
        The cells.
    minibatch_size
        Cells of a minibatch; no fewer are shuffled together.
    block_size, buffer_size
        On disk: cells read at one go, and cells shuffled together.
    """

    def __init__(
        self, cells: AnyCells, *, minibatch_size: int, block_size: int | None = None, buffer_size: int | None = None
    ) -> None:
        self.cells = cells
        self.on_disk = isinstance(cells, StreamedCells)
        self.rows = cells.rows if isinstance(cells, StreamedCells) else MemoryRows(cells.counts)
        is_file = isinstance(self.rows, BackedRows)
        self.block_size = block_size or (FILE_BLOCK_SIZE if is_file else BLOCK_SIZE)
        self.buffer_size = max(minibatch_size, buffer_size or (FILE_BUFFER_SIZE if is_file else BUFFER_SIZE))

    def everything(self, only: Mapping[str, Sequence[str]]) -> np.ndarray | CellSubset:
        """Give the cells that have certain values in columns of ``obs``."""
        cells = self.cells
        part: np.ndarray | CellSubset = cells.subset if isinstance(cells, StreamedCells) else np.arange(len(cells))
        for key, names in only.items():
            column = cells.coded(key, role="what cells are chosen by")
            unknown = [name for name in _listed(names) if name not in column.names]
            if unknown:
                raise InputError(
                    f"No cell has {unknown[0]!r} in obs[{key!r}]. {did_you_mean(unknown[0], list(column.names))}"
                )
            wanted = np.isin(np.array(column.names, dtype=object), _listed(names))
            if isinstance(part, CellSubset):
                part = part.common(self.cells.of_codes(column, _listed(names)))  # type: ignore[union-attr]
            else:
                part = part[wanted[column.codes[part]]]
        return part

    def order(self, part: np.ndarray | CellSubset, *, shuffle_seed: int | None = None) -> Order:
        """Give the order of some of the cells: an exact shuffle in memory, one by blocks on disk."""
        if isinstance(part, np.ndarray):
            return WholeOrder(part, shuffle_seed=shuffle_seed)
        return BlockOrder(
            self.rows.boundaries,
            part,
            shuffle_seed=shuffle_seed,
            block_size=self.block_size,
            buffer_size=self.buffer_size,
        )

    def balanced(self, order: Order, key: str, *, seed: int) -> Order:
        """Draw the values of a column of ``obs`` equally often."""
        column = self.cells.coded(key, role="balance_key")
        weights = balanced_weights(sizes_in(order, column.codes, len(column.names)))
        return WeightedOrder(order, column.codes, weights, seed=seed)

    def weighted(self, order: Order, weights: Mapping[str, Mapping[str, float]], *, seed: int) -> Order:
        """Draw the values of columns of ``obs`` as often as their weights say."""
        columns = [self.cells.coded(key, role="what is weighted") for key in weights]
        given: np.ndarray = np.ones(())
        for key, column in zip(weights, columns, strict=True):
            given = np.multiply.outer(given, _weights_of(key, column.names, weights[key]))
        codes = CrossedCodes([column.codes for column in columns], given.shape)
        given = given.ravel()
        sizes = sizes_in(order, codes, given.size)
        if not (given * sizes).sum():
            raise InputError(f"The weights of {' and '.join(f'obs[{key!r}]' for key in weights)} leave no cell.")
        return WeightedOrder(order, codes, given * sizes.sum() / (given * sizes).sum(), seed=seed)


def _weights_of(key: str, names: Sequence[str], weights: Mapping[str, float]) -> np.ndarray:
    unknown = [name for name in weights if name not in names]
    if unknown or any(weight < 0 for weight in weights.values()):
        wrong = f"no cell has {unknown[0]!r} there" if unknown else "weights must not be negative"
        raise InputError(f"The weights of obs[{key!r}] cannot be used: {wrong}.")
    return np.array([float(weights.get(name, 1.0)) for name in names])
