"""What a pretext task is trained on: whether it can be, the gene programmes it asks for, minibatches."""

import logging
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from selfcell.core.errors import InputError
from selfcell.core.seeds import derive_seed, numpy_rng
from selfcell.data.atlas.index import is_atlas, is_url
from selfcell.data.atlas.obs import UNKNOWN
from selfcell.data.cellxgene import donor_column, warn_of_copies
from selfcell.data.genes import GeneTable
from selfcell.data.loader import CellLoader
from selfcell.data.order import Order
from selfcell.data.programs import GenePrograms, load_programs, read_stored_programs
from selfcell.data.resident import ResidentRows
from selfcell.data.schedule import Schedule
from selfcell.data.source import Cells, CellSource, obs_column, refuse_empty_cells
from selfcell.data.splits import Split, split_cells
from selfcell.data.stream import AnyCells, StreamSource, open_any
from selfcell.data.stream_split import StreamSplit, split_stream
from selfcell.data.streamed import StreamedCells
from selfcell.data.subset import CellSubset
from selfcell.pretext import PRETEXT_TASKS
from selfcell.training.processes import refuse_several
from selfcell.training.settings import DataSettings, PretrainSettings, TrainingSettings

logger = logging.getLogger(__name__)

TrainingSource: TypeAlias = CellSource | Cells | StreamedCells

_FEW_GENES = 0.05
_ROOM, _ROOM_PER_ENTRY = 2**30, 16
"""Bytes that training takes beside the cells: for weights and their like, and for each cell and gene of a minibatch."""


def check_task(settings: PretrainSettings, cells: AnyCells, split: Split | StreamSplit) -> None:
    """Refuse what the task cannot be trained on, before anything is written."""
    pretext, name = settings.pretext, settings.pretext.name
    if pretext.uses_batches and settings.data.batch_key is None:
        raise InputError(
            "A view mixes neighbors of other batches, so a batch column is needed: data.batch_key (--batch COLUMN), or "
            "mix_neighbors with among=all."
        )
    whole = isinstance(cells, StreamedCells) or (cells.scale == "counts" and np.all(cells.counts.data % 1 == 0))
    if pretext.needs_counts and not whole:
        raise InputError(
            f"With these settings {name} needs raw whole counts, but the values of {cells.counts_address} are "
            f"{'fractional' if cells.scale == 'counts' else 'log-normalized ones, undone'}. Name the layer with the "
            "raw counts (--layer), or take a loss and views that do without: pretext.likelihood=squared_error."
        )
    size, step = settings.training.cells_per_minibatch, settings.training.cells_per_step
    smallest = min(size, len(split.train), len(split.validation))
    if PRETEXT_TASKS[name].compares_cells and smallest < 2:
        raise InputError(
            f"{name} compares the cells of a minibatch, so two at least are needed, but training.minibatch_size is "
            f"{size}, with {len(split.train):,} cells to train on and "
            f"{len(split.validation):,} to watch the loss on."
        )
    if step > len(split.train):
        _warn_of_large_steps(settings.training, n_cells=len(split.train))
    if PRETEXT_TASKS[name].moving_target and settings.training.patience:
        logger.warning(
            "The loss of %s is measured against something that training moves, so stopping by it "
            "(training.patience=%d) may stop anywhere.",
            name,
            settings.training.patience,
        )


def _warn_of_large_steps(training: TrainingSettings, *, n_cells: int) -> None:
    several = f", training.accumulate={training.accumulate}" if training.accumulate > 1 else ""
    logger.warning(
        "The minibatch (training.minibatch_size=%s%s) is larger than the %s training cells, so an epoch is one step "
        "of the optimizer, %s in all. The paper's sizes, and learning rates made for them, are for millions of "
        "cells: here take 256, and with training.optimizer=lars a learning rate in proportion.",
        f"{training.cells_per_minibatch:,}",
        several,
        f"{n_cells:,}",
        f"{training.max_epochs:,}",
    )


def load_task_programs(settings: PretrainSettings, genes: GeneTable, *, stored: Path | None) -> GenePrograms | None:
    """Load the gene programmes that the task asks for; those stored with the run where it is resumed."""
    pretext = settings.pretext
    if not pretext.uses_programs:
        for name in ("program_min_genes", "program_max_genes", "program_min_coverage"):
            if getattr(pretext, name) != type(pretext).model_fields[name].default:
                raise InputError(
                    f"pretext.{name} is given, but these settings of {pretext.name} use no gene programmes."
                )
        if pretext.programs is not None:
            raise InputError(
                f"pretext.programs={pretext.programs} is given, but nothing in these settings of {pretext.name} uses "
                "gene programmes: leave it out, or choose a mask or a view that does."
            )
        return None
    if stored is not None and stored.exists():
        return read_stored_programs(stored, genes)
    if pretext.programs is None:
        suited = "trrust or msigdb-c3" if pretext.uses_regulons else "msigdb-c8 or msigdb-hallmark"
        raise InputError(
            f"These settings of {pretext.name} need gene programmes: pretext.programs={suited}, or the path of a file. "
            "`selfcell programs` lists those known by name."
        )
    programs, report = load_programs(
        pretext.programs,
        genes,
        min_genes=pretext.program_min_genes,
        max_genes=pretext.program_max_genes,
        min_coverage=pretext.program_min_coverage,
        as_regulons=pretext.uses_regulons,
    )
    if report.share_of_genes < _FEW_GENES:
        logger.warning(
            "Only %.1f %% of the genes are in any programme; the task says little of the others.",
            100 * report.share_of_genes,
        )
    return programs


def open_training_cells(cells: TrainingSource, settings: PretrainSettings) -> AnyCells:
    """Open what is trained on: an atlas and, if asked to, a file as a stream from disk; else into memory.

    Raises
    ------
    InputError
        If there are no counts, cells without any, or no cells left by ``data.where``.
    """
    data = settings.data
    if not isinstance(cells, Cells | StreamedCells):
        cells = _opened(cells, data)
    if data.where is not None:
        n_before = len(cells)
        cells = cells.where(data.where)
        logger.info("%s of %s cells are used: those for which %s.", f"{len(cells):,}", f"{n_before:,}", data.where)
    if isinstance(cells, Cells):
        refuse_empty_cells(cells)
    warn_of_copies(cells)
    return cells


def with_donor_column(settings: PretrainSettings, cells: AnyCells) -> PretrainSettings:
    """Name the column of donors where the user has not: see :func:`selfcell.data.cellxgene.donor_column`."""
    data = settings.data.model_copy(update={"donor_key": donor_column(cells, settings.data.donor_key)})
    return settings.model_copy(update={"data": data})


def _opened(source: CellSource, data: DataSettings) -> AnyCells:
    atlas = isinstance(source, str | Path) and (is_url(source) or is_atlas(source))
    if data.cache_folder is not None and not atlas:
        raise InputError("data.cache_folder is for an atlas behind a URL: leave it out.")
    return open_any(
        source,
        layer=data.layer,
        scale=data.scale,
        gene_column=data.gene_column,
        backed=data.backed,
        cache_folder=data.cache_folder,
    )


def draw_split(cells: AnyCells, settings: PretrainSettings) -> Split | StreamSplit:
    """Choose the cells of training, validation and test."""
    data = settings.data
    how: Any = {
        "validation_fraction": data.validation_fraction,
        "test_fraction": data.test_fraction,
        "train_donor_fraction": data.train_donor_fraction,
        "seed": data.split_seed,
    }
    if isinstance(cells, StreamedCells):
        return split_stream(cells, data.donor_key, **how)
    donors = None if data.donor_key is None else obs_column(cells.obs, data.donor_key, role="donor")
    return split_cells(len(cells), donors, **how)


def task_loaders(settings: PretrainSettings, cells: AnyCells, split: Split | StreamSplit) -> dict[str, CellLoader]:
    """Make the loaders of training and validation cells."""
    training, data = settings.training, settings.data
    source = StreamSource(
        cells,
        minibatch_size=training.cells_per_minibatch,
        block_size=data.block_size,
        buffer_size=data.buffer_size,
    )
    compares = PRETEXT_TASKS[settings.pretext.name].compares_cells
    train = source.order(split.train, shuffle_seed=training.seed)
    if data.balance_key is not None:
        _warn_of_unknown(cells, data.balance_key)
        train = source.balanced(train, data.balance_key, seed=training.seed)
        logger.info("Each value of obs[%r] is drawn as often as any other.", data.balance_key)
    # Files are often sorted by type or donor, and cells of one kind are harder to tell apart.
    validation = _mixed(source, split.validation, data.split_seed) if compares else source.order(split.validation)
    batch_key = data.batch_key if settings.pretext.uses_batches else None
    on_gpu = _device(training).type == "cuda"
    resident = _resident(source, split.train, settings) if data.resident else None
    return {
        part: CellLoader(
            rows,
            Schedule(order, training.cells_per_minibatch, min_cells=2 if compares else 1, equal_shares=compares),
            codes={} if batch_key is None else {"batch": cells.coded(batch_key, role="batch").codes},
            reshuffle=part == "train",
            n_threads=data.loader_threads if source.on_disk and rows is source.rows else 0,
            pin_memory=on_gpu,
            packed=on_gpu,
        )
        for part, order, rows in (("train", train, resident or source.rows), ("validation", validation, source.rows))
    }


def _device(training: TrainingSettings) -> torch.device:
    """Give where cells are packed for: a CUDA GPU, or main memory."""
    return torch.device("cuda" if training.device != "cpu" and torch.cuda.is_available() else "cpu")


def _resident(source: StreamSource, part: np.ndarray | CellSubset, settings: PretrainSettings) -> ResidentRows:
    refuse_several(settings.training, "Training on cells held on the device (data.resident)")
    return ResidentRows(
        source.rows,
        source.order(np.sort(part) if isinstance(part, np.ndarray) else part),
        device=_device(settings.training),
        room=_ROOM + _ROOM_PER_ENTRY * settings.training.cells_per_minibatch * source.rows.n_genes,
        n_threads=settings.data.loader_threads if source.on_disk else 0,
    )


def _warn_of_unknown(cells: AnyCells, key: str) -> None:
    column = cells.coded(key, role="balance_key")
    if isinstance(cells, StreamedCells) and UNKNOWN in column.names and column.sizes[column.names.index(UNKNOWN)]:
        logger.warning(
            "%s cells have %r in obs[%r], as cells have whose input lacks the column: they are drawn as often as those "
            "of each real value. Leave them out: --where \"%s != '%s'\".",
            f"{column.sizes[column.names.index(UNKNOWN)]:,}",
            UNKNOWN,
            key,
            key,
            UNKNOWN,
        )


def _mixed(source: StreamSource, part: np.ndarray | CellSubset, seed: int) -> Order:
    """Mix cells for a loader that takes the same order every epoch."""
    if isinstance(part, np.ndarray):
        return source.order(numpy_rng(seed, "order of validation cells").permutation(part))
    return source.order(part, shuffle_seed=derive_seed(seed, "order of validation cells"))
