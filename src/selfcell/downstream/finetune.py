"""Fine-tune a pre-trained encoder with labels: model and cells in, run folder out."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from selfcell.core.atomic import write_text
from selfcell.core.config import Settings, build, to_toml
from selfcell.core.errors import InputError
from selfcell.data.cell_hashes import CellHashes
from selfcell.data.cellxgene import composition, donor_column, label_column, warn_of_copies
from selfcell.data.counts import Scale
from selfcell.data.source import Cells, CellSource, obs_column, open_cells
from selfcell.data.splits import Split, sets_aside, split_cells
from selfcell.downstream import DOWNSTREAM_TASKS
from selfcell.downstream.base import Columns, SupervisedSettings
from selfcell.downstream.cell_type import N_TO_CALIBRATE
from selfcell.downstream.embed import as_model
from selfcell.downstream.supervised import Start, TrainingPlace
from selfcell.network.encoder import EncoderSettings
from selfcell.training.known_cells import write_known_cells
from selfcell.training.out_folder import check_folder, prepare_folder
from selfcell.training.pretrain import write_finished_run
from selfcell.training.processes import refuse_several
from selfcell.training.resume import check_resumable, why_finished
from selfcell.training.run_folder import TrainedModel, load, read_settings, write_genes, write_manifest

logger = logging.getLogger(__name__)


def finetune_settings(task: str, network: EncoderSettings, settings: SupervisedSettings) -> Settings:
    """Give what ``config.toml`` of a fine-tuning run holds: the sections ``[network]`` and that of the task."""
    fields: dict[str, Any] = {"network": (EncoderSettings, ...), task: (type(settings), ...)}
    holder: type[Settings] = pydantic.create_model("FinetuneSettings", __base__=Settings, **fields)
    return holder(**{"network": network, task: settings})


def finetune(
    model: TrainedModel | str | Path,
    cells: CellSource,
    *,
    out: str | Path,
    label_key: str | None = None,
    donor_key: str | None = None,
    batch_key: str | None = None,
    settings: SupervisedSettings | dict[str, Any] | None = None,
    task: str = "cell_type",
    from_scratch: bool = False,
    validation_fraction: float | None = None,
    layer: str | None = None,
    scale: Scale = "auto",
    gene_column: str | None = None,
    allow_low_overlap: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    show_progress: bool = True,
) -> TrainedModel:
    """Train an encoder further, for a downstream task.

    Parameters
    ----------
    model
        The pre-trained model, or its run folder. It is not changed.
    cells
        Cells of which the truth is known.
    out
        The run folder to make.
    label_key, batch_key
        Columns of ``obs`` with the type and the batch, for tasks that need them. A type that is not named is that of
        ``cell_type``, where it is there and the task needs it.
    donor_key
        Column of ``obs`` with the donor, ``donor_id`` if left out and there; an empty text for none. Validation cells
        are then of other donors. What pre-training set aside
        (``data.test_fraction``), donors or cells, is left out in any case, so that it can still be judged on.
    settings
        Settings of the task, or those that differ from the defaults. With ``resume`` they may be left out.
    task
        The downstream task; ``selfcell list tasks`` names them.
    from_scratch
        Begin from random weights, everything else the same: the comparison that tells whether pre-training helped.
    validation_fraction
        Share of the cells on which the loss is watched, whole donors where there is a donor column. If left out, none
        where ``training.patience`` is 0, as nothing is chosen by them, else 0.15.
    layer, scale, gene_column, allow_low_overlap
        As in :func:`selfcell.embed`.
    resume, overwrite, show_progress
        As in :func:`selfcell.pretrain`.

    Raises
    ------
    InputError
        If cells, labels, settings or folder cannot be worked with; before any training.

    Examples
    --------
    >>> settings = {"target": "protein_counts", "training": {"max_epochs": 2}}
    >>> proteins = selfcell.finetune(
    ...     "runs/mae", "cite.h5ad", task="cross_modality", settings=settings, out="runs/proteins", show_progress=False
    ... )
    """
    task_class = DOWNSTREAM_TASKS[task]
    out, model = Path(out), as_model(model)
    if resume and settings is None:
        settings = read_settings(out).get(task, {})
    if not isinstance(settings, SupervisedSettings):
        settings = build(task_class.Settings, settings or {})
    refuse_several(settings.training, "Fine-tuning")
    if validation_fraction is None:
        validation_fraction = 0.15 if settings.training.patience else 0.0
    if not 0 <= validation_fraction < 1:
        raise InputError(f"validation_fraction must lie between 0 and 1, but is {validation_fraction}.")
    check_folder(out, resume=resume, overwrite=overwrite)
    opened = open_cells(cells, layer=layer, scale=scale, gene_column=gene_column)
    if task == "cell_type" and (label_key := label_column(opened, label_key)) is not None:
        opened = opened.with_value_in(label_key, role="label")
    aligned = opened.aligned_to(model.genes, allow_low_overlap=allow_low_overlap)
    rows = _not_held_out(aligned, model)
    opened, aligned = opened.subset(rows), aligned.subset(rows)
    donor_key = donor_column(opened, donor_key)
    question = task_class.of(settings, opened, Columns(label_key, donor_key, batch_key))
    seed = settings.training.seed
    split = _split(opened, model, donor_key, validation_fraction=validation_fraction, seed=seed)
    question.check(model, aligned, regime="from_scratch" if from_scratch else "fine_tuned")
    about = {
        "kind": "fine-tuned",
        "task": task,
        "start": "random weights" if from_scratch else model.name,
        # What pre-training the network comes from: it says how a decoder is to be read.
        **{name: model.manifest.get(name) for name in ("pretext", "pretext_settings")},
        "seed": seed,
        "label_key": label_key,
        **question.about(),
        "data": {"origin": opened.origin, "fingerprint": opened.fingerprint(), "n_cells": len(opened)},
    }
    config = finetune_settings(task, model.encoder.settings, settings)
    prepare_folder(out, resume=resume, overwrite=overwrite)
    if resume and check_resumable(out, about, config):
        logger.info("%s", why_finished(out))
        return load(out)
    if resume:
        # Before the settings: killed between the two, a run that is prolonged would pass for finished.
        write_manifest(out, {**about, "status": "training"})
    _write_beginning(out, config, model, aligned, split)
    write_manifest(out, {**about, "status": "training"})
    _say_what_begins(opened, split, task)
    start, place = Start(model, from_scratch, seed), TrainingPlace(out, resume, show_progress)
    objective, outcome = question.train(start, aligned, split, place=place)
    learned = question.learned(objective, aligned, split)
    _say_how_calibrated(task, learned, split, patience=settings.training.patience)
    told = {**about, **learned, "composition": composition(opened), "fit": vars(outcome)}
    write_finished_run(out, objective, told)
    return load(out)


def _write_beginning(out: Path, config: Settings, model: TrainedModel, cells: Cells, split: Split) -> None:
    write_text(out / "config.toml", to_toml(config))
    write_genes(out / "genes.csv", model.genes)
    split.write(out / "split.json")
    write_known_cells(out, cells, split, before=model.known_cells)


def _say_what_begins(cells: Cells, split: Split, task: str) -> None:
    warn_of_copies(cells)
    n_watched = len(split.validation)
    watched = f"watching the loss on {n_watched:,}" if n_watched else "none to watch the loss on"
    logger.info("Training on %s cells, %s.", f"{len(split.train):,}", watched)
    if task == "cell_type" and not n_watched:
        logger.info(
            "Confidence needs cells held out to be calibrated on: --validation-fraction 0.15 (validation_fraction)."
        )


def _say_how_calibrated(task: str, learned: Mapping[str, Any], split: Split, *, patience: int) -> None:
    if task != "cell_type":
        return
    if len(split.validation) and not learned:
        logger.warning(
            "The %d cells that were held out, or those of known types among them, are too few to calibrate confidence "
            "on: it takes %d. A larger --validation-fraction (validation_fraction) holds more out.",
            len(split.validation),
            N_TO_CALIBRATE,
        )
    elif learned and patience:
        logger.warning(
            "Confidence is calibrated on the cells by which training was stopped (training.patience), so it may come "
            "out a little too high."
        )


def _split(cells: Cells, model: TrainedModel, donor_key: str | None, *, validation_fraction: float, seed: int) -> Split:
    """Split the cells, and name the donors that the model's run set aside, so that what begins here leaves them out."""
    donors = None if donor_key is None else obs_column(cells.obs, donor_key, role="donor")
    split = split_cells(len(cells), donors, validation_fraction=validation_fraction, seed=seed)
    if donor_key is None or model.split is None or model.split["unit"] != donor_key:
        return split
    return dataclasses.replace(split, donors={**split.donors, "test": tuple(model.split["donors"]["test"])})


def _not_held_out(cells: Cells, model: TrainedModel) -> np.ndarray:
    """Give the positions of the cells that the model's run did not set aside to be judged on.

    What it set aside are donors, by the column that it was split by, and the very cells, wherever they are now.
    """
    held_out = np.zeros(len(cells), dtype=bool)
    if model.split is not None and (column := model.split["unit"]) != "cell" and column in cells.obs:
        held_out |= cells.obs[column].astype(str).isin(model.split["donors"]["test"]).to_numpy()
    elif model.known_cells is None and model.split is not None and sets_aside(model.split):
        logger.warning(
            "Pre-training set cells aside to be judged on, but its run has kept no list of them and these do not have "
            "its column of donors: whether some of them are trained on here is not known."
        )
    if model.known_cells is not None:
        held_out |= CellHashes.of(cells).found_in(model.known_cells.set_aside)
    if held_out.all():
        raise InputError(
            "All of these cells were set aside by pre-training, themselves or their donors, to be judged on."
        )
    if held_out.any():
        logger.info(
            "%s of %s cells were set aside by pre-training, themselves or their donors, to be judged on: they are left "
            "out.",
            f"{int(held_out.sum()):,}",
            f"{len(cells):,}",
        )
    return np.flatnonzero(~held_out)
