"""Pre-train an encoder without labels: cells and settings in, run folder out."""

import logging
from pathlib import Path
from typing import Any

from torch import nn

from selfcell.core.atomic import write_text
from selfcell.core.config import build, to_toml
from selfcell.data.cellxgene import composition
from selfcell.data.genes import GeneTable
from selfcell.data.programs import GenePrograms, write_programs
from selfcell.data.source import Cells
from selfcell.data.splits import Split
from selfcell.data.stream import AnyCells
from selfcell.data.stream_split import StreamSplit
from selfcell.data.streamed import StreamedCells
from selfcell.network.encoder import MlpEncoder
from selfcell.pretext import PRETEXT_TASKS
from selfcell.pretext.base import Objective, PretextTask, TargetNetworkTask
from selfcell.training.faults import explained
from selfcell.training.fit import fit, seeded
from selfcell.training.inputs import (
    TrainingSource,
    check_task,
    draw_split,
    load_task_programs,
    open_training_cells,
    task_loaders,
    with_donor_column,
)
from selfcell.training.known_cells import write_known_cells
from selfcell.training.minibatch_size import with_minibatch_size
from selfcell.training.out_folder import check_folder, drop_replaced, prepare_folder
from selfcell.training.processes import check_processes, check_shares, is_first_process, mute_others, wait_for_all
from selfcell.training.resume import check_resumable, why_finished
from selfcell.training.run_folder import (
    TrainedModel,
    load,
    read_manifest,
    read_settings,
    write_genes,
    write_manifest,
    write_weights,
)
from selfcell.training.settings import PretrainSettings
from selfcell.training.variable_genes import with_variable_genes

logger = logging.getLogger(__name__)


def pretrain(
    cells: TrainingSource,
    settings: PretrainSettings | dict[str, Any] | None = None,
    *,
    out: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    show_progress: bool = True,
) -> TrainedModel:
    """Pre-train an encoder on unlabelled cells :cite:p:`richter2025`.

    Parameters
    ----------
    cells
        An AnnData, or the path of an .h5ad file or .zarr folder, with raw counts, or of an atlas, or the URL of one.
        It is not changed.
    settings
        Settings, or nested mappings with those that differ from the defaults. With ``resume`` they may be left out.
    out
        The run folder to make.
    resume
        Go on with an interrupted run in ``out``, on the same cells with the same settings (``training.max_epochs`` may
        differ, and what is said of the machine; a cosine schedule, of learning rate or target network, is stretched by
        more epochs).
    overwrite
        Replace a run folder that is there already.
    show_progress
        Show a progress bar.

    Returns
    -------
    The encoder with the weights of the best validation loss.

    Raises
    ------
    InputError
        If the cells, the settings or the folder cannot be worked with; before any training.
    KeyboardInterrupt
        If interrupted; the run can be resumed.

    Examples
    --------
    >>> settings = {"data": {"donor_key": "donor_id", "test_fraction": 0.3}, "training": {"max_epochs": 2}}
    >>> model = selfcell.pretrain("cells.h5ad", settings, out="runs/mae", show_progress=False)
    >>> model.manifest["fit"]["epochs"]
    2
    """
    out = Path(out)
    settings = _resolved(settings, out, resume=resume)
    check_processes(settings.training)
    mute_others()
    if is_first_process():
        check_folder(out, resume=resume, overwrite=overwrite)
    cells = open_training_cells(cells, settings)
    settings = with_donor_column(settings, cells)
    if settings.data.donor_key is None:
        logger.warning(
            "No donor column is named (data.donor_key, --donor), so cells are "
            "set aside one by one, not by donor: what is measured on them overstates what holds for new donors."
        )
    split = draw_split(cells, settings)
    fingerprint = cells.fingerprint()
    cells = with_variable_genes(cells, split, n_top_genes=settings.data.n_top_genes)
    settings = with_minibatch_size(settings, n_cells=len(split.train), n_genes=len(cells.genes))
    check_task(settings, cells, split)
    programs = load_task_programs(settings, cells.genes, stored=out / "programs.csv" if resume else None)
    loaders = task_loaders(settings, cells, split)
    check_shares(settings.training, loaders)
    if is_first_process():
        prepare_folder(out, resume=resume, overwrite=overwrite)
    task = make_task(settings, cells.genes, programs)
    about = _describe(cells, settings, split, programs, fingerprint=fingerprint)
    if resume and check_resumable(out, about, settings):
        logger.info("%s", why_finished(out))
        return load(out)
    if is_first_process():
        _begin(out, settings, cells, split, about, programs, resume=resume)
    outcome = fit(
        task, settings.training, **loaders, out=out, title="Pre-training", resume=resume, show_progress=show_progress
    )
    if is_first_process():
        with explained(settings.training, checkpoint=out / "checkpoints" / "last.safetensors"):
            write_finished_run(out, task, {**about, "composition": composition(cells), "fit": vars(outcome)})
    wait_for_all(lambda: read_manifest(out)["status"] == "finished")
    return load(out)


def _resolved(settings: PretrainSettings | dict[str, Any] | None, out: Path, *, resume: bool) -> PretrainSettings:
    """Give whole settings; those of the run where one is resumed without any, and what it has chosen by itself."""
    if resume and settings is None:
        settings = read_settings(out)
    settings = settings if isinstance(settings, PretrainSettings) else build(PretrainSettings, settings or {})
    if not resume or (settings.training.minibatch_size != "auto" and settings.data.donor_key is not None):
        return settings
    before = read_settings(out)
    training, data = settings.training, settings.data
    if training.minibatch_size == "auto":
        training = training.model_copy(update={"minibatch_size": before["training"]["minibatch_size"]})
    if data.donor_key is None:
        data = data.model_copy(update={"donor_key": before.get("data", {}).get("donor_key", "")})
    return settings.model_copy(update={"training": training, "data": data})


def _named(settings: PretrainSettings) -> str:
    """Name the task with what sets it apart, for the log."""
    values = settings.pretext.model_dump(exclude_defaults=True, exclude={"name"})
    details = ", ".join(
        f"{name}={value}" for name, value in values.items() if name in {"mask", "likelihood", "programs"}
    )
    return f"Training {settings.pretext.name}{f' ({details})' if details else ''}"


def _warn_of_stretching(out: Path, settings: PretrainSettings) -> None:
    """Say where more epochs than a run began with lead elsewhere than they would have from the start."""
    before = read_settings(out)["training"]["max_epochs"]
    task_class = PRETEXT_TASKS[settings.pretext.name]
    moves = issubclass(task_class, TargetNetworkTask) and task_class.follows_progress
    has_begun = (out / "checkpoints" / "last.safetensors").exists()
    if has_begun and before != settings.training.max_epochs and (moves or settings.training.schedule == "cosine"):
        logger.warning(
            "The run began with %d epochs, and %s goes by the share of epochs trained: it will not be what %d epochs "
            "from the start would have been.",
            before,
            "its target network" if moves else "its learning rate",
            settings.training.max_epochs,
        )


def make_task(settings: PretrainSettings, genes: GeneTable, programs: GenePrograms | None = None) -> PretextTask:
    """Make the encoder and its pretext task, with weights drawn from the run's seed."""
    with seeded(settings.training.seed, "weights"):
        encoder = MlpEncoder(settings.network, n_genes=len(genes))
        return PRETEXT_TASKS[settings.pretext.name](settings.pretext, encoder=encoder, programs=programs)


def write_finished_run(out: Path, objective: Objective, manifest: dict[str, Any]) -> None:
    """Write weights, and then the manifest that says the run is whole; then the one that it replaces is removed."""
    write_weights(out / "encoder.safetensors", objective.encoder)
    heads = {name: child for name, child in objective.named_children() if name != "encoder"}
    # A container keeps each head's name as the prefix of its weights.
    write_weights(out / "heads.safetensors", nn.ModuleDict(heads))
    write_manifest(out, {**manifest, "status": "finished"})
    drop_replaced(out)


def _describe(
    cells: AnyCells,
    settings: PretrainSettings,
    split: Split | StreamSplit,
    programs: GenePrograms | None,
    *,
    fingerprint: str,
) -> dict[str, Any]:
    return {
        "kind": "pretrained",
        "pretext": settings.pretext.name,
        "pretext_settings": settings.pretext.model_dump(mode="json", exclude={"name"}),
        "seed": settings.training.seed,
        "data": {
            "origin": cells.origin,
            "fingerprint": fingerprint,
            "n_cells": len(cells),
            "n_genes": len(cells.genes),
            "counts_from": cells.counts_address,
            "scale": cells.scale,
            "n_train": len(split.train),
            "n_validation": len(split.validation),
            "n_test": len(split.test),
        },
        **({} if programs is None else {"programs": {"n_programs": len(programs), "sha256": programs.fingerprint()}}),
    }


def _begin(
    out: Path,
    settings: PretrainSettings,
    cells: AnyCells,
    split: Split | StreamSplit,
    about: dict[str, Any],
    programs: GenePrograms | None,
    *,
    resume: bool,
) -> None:
    """Write what a run begins with, and say what it is."""
    if resume:
        _warn_of_stretching(out, settings)
        # Before the settings: another process that looks meanwhile must not take the run for finished.
        write_manifest(out, {**about, "status": "training"})
    write_text(out / "config.toml", to_toml(settings))
    write_genes(out / "genes.csv", cells.genes)
    split.write(out / "split.json")
    if isinstance(cells, Cells) and isinstance(split, Split):
        write_known_cells(out, cells, split)
    if programs is not None:
        write_programs(out / "programs.csv", programs, cells.genes)
    write_manifest(out, {**about, "status": "training"})
    n_processes = settings.training.devices * settings.training.nodes
    logger.info(
        "%s on %s cells x %s genes, watching the loss on %s%s%s%s.",
        _named(settings),
        f"{len(split.train):,}",
        f"{len(cells.genes):,}",
        f"{len(split.validation):,}",
        f", with {len(split.test):,} set aside to be judged on" if len(split.test) else "",
        ", streamed from disk" if isinstance(cells, StreamedCells) else "",
        f", in {n_processes} processes" if n_processes > 1 else "",
    )
