"""What a pretext task is trained on: whether it can be, the gene programmes it asks for, minibatches."""

import logging
from pathlib import Path

import numpy as np

from selfcell.core.errors import InputError
from selfcell.core.seeds import numpy_rng
from selfcell.data.genes import GeneTable
from selfcell.data.loader import CellLoader, cell_loader
from selfcell.data.programs import GenePrograms, load_programs, read_stored_programs
from selfcell.data.source import Cells, obs_column
from selfcell.data.splits import Split
from selfcell.pretext import PRETEXT_TASKS
from selfcell.training.settings import PretrainSettings

logger = logging.getLogger(__name__)

_FEW_GENES = 0.05


def check_task(settings: PretrainSettings, cells: Cells, split: Split) -> None:
    """Refuse what the task cannot be trained on, before anything is written."""
    pretext, name = settings.pretext, settings.pretext.name
    if pretext.uses_batches and settings.data.batch_key is None:
        raise InputError(
            "A view mixes neighbors of other batches, so a batch column is needed: data.batch_key (--batch COLUMN), or "
            "mix_neighbors with among=all."
        )
    if pretext.needs_counts and not (cells.scale == "counts" and np.all(cells.counts.data % 1 == 0)):
        raise InputError(
            f"With these settings {name} needs raw whole counts, but the values of {cells.counts_address} are "
            f"{'fractional' if cells.scale == 'counts' else 'log-normalized ones, undone'}. Name the layer with the "
            "raw counts (--layer), or take a loss and views that do without: pretext.likelihood=squared_error."
        )
    smallest = min(settings.training.minibatch_size, len(split.train), len(split.validation))
    if PRETEXT_TASKS[name].compares_cells and smallest < 2:
        raise InputError(
            f"{name} compares the cells of a minibatch, so two at least are needed, but training.minibatch_size is "
            f"{settings.training.minibatch_size}, with {len(split.train):,} cells to train on and "
            f"{len(split.validation):,} to watch the loss on."
        )
    n_steps = -(-len(split.train) // settings.training.minibatch_size) * settings.training.max_epochs
    if settings.training.minibatch_size > len(split.train):
        logger.warning(
            "The minibatch (training.minibatch_size=%s) is larger than the %s training cells, so an epoch is one step "
            "of the optimizer, %s in all. The paper's sizes, and learning rates made for them, are for millions of "
            "cells: here take 256, and with training.optimizer=lars a learning rate in proportion.",
            f"{settings.training.minibatch_size:,}",
            f"{len(split.train):,}",
            f"{n_steps:,}",
        )
    if PRETEXT_TASKS[name].moving_target and settings.training.patience:
        logger.warning(
            "The loss of %s is measured against something that training moves, so stopping by it "
            "(training.patience=%d) may stop anywhere.",
            name,
            settings.training.patience,
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


def task_loaders(settings: PretrainSettings, cells: Cells, split: Split) -> dict[str, CellLoader]:
    """Make the loaders of training and validation cells."""
    compares = PRETEXT_TASKS[settings.pretext.name].compares_cells
    validation = split.validation
    if compares:
        # Files are often sorted by type or donor, and cells of one kind are harder to tell apart.
        validation = numpy_rng(settings.data.split_seed, "order of validation cells").permutation(validation)
    batch_code = _batch_codes(settings, cells)
    size, min_cells = settings.training.minibatch_size, 2 if compares else 1
    seeds = {"train": settings.training.seed, "validation": None}
    return {
        part: cell_loader(
            cells.counts,
            minibatch_size=size,
            codes=batch_code,
            positions=rows,
            shuffle_seed=seeds[part],
            min_cells=min_cells,
        )
        for part, rows in (("train", split.train), ("validation", validation))
    }


def _batch_codes(settings: PretrainSettings, cells: Cells) -> dict[str, np.ndarray]:
    if not settings.pretext.uses_batches or settings.data.batch_key is None:
        return {}
    batch = obs_column(cells.obs, settings.data.batch_key, role="batch")
    return {"batch": np.unique(batch.astype(str), return_inverse=True)[1].astype(np.int64)}
