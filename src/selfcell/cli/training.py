"""``selfcell pretrain``, ``selfcell finetune`` and ``selfcell import-checkpoint``."""

from pathlib import Path
from typing import Annotated

import typer

from selfcell.cli.options import (
    BatchOption,
    CellsArgument,
    ConfigOption,
    DonorOption,
    GeneColumnOption,
    LayerOption,
    LowOverlapOption,
    ModelArgument,
    OptionalLabelOption,
    OverwriteOption,
    PresetOption,
    ResumeOption,
    RunOption,
    ScaleChoice,
    ScaleOption,
    SetOption,
    StreamArgument,
    TargetOption,
    TaskOption,
    WhereOption,
    gather_settings,
    resumable,
    task_settings,
)


def pretrain(
    cells: StreamArgument,
    out: RunOption,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    donor: DonorOption = None,
    batch: BatchOption = None,
    layer: LayerOption = None,
    scale: Annotated[
        ScaleChoice | None, typer.Option("--scale", help="What values are: auto, counts or log1p (data.scale).")
    ] = None,
    gene_column: GeneColumnOption = None,
    n_top_genes: Annotated[
        int | None,
        typer.Option("--n-top-genes", min=2, help="Train on the most variable genes alone. As data.n_top_genes."),
    ] = None,
    where: WhereOption = None,
    balance: Annotated[
        str | None, typer.Option("--balance", metavar="COLUMN", help="As data.balance_key: draw its values equally.")
    ] = None,
    backed: Annotated[
        bool | None, typer.Option("--backed", help="As data.backed: stream the file from disk.", show_default=False)
    ] = None,
    resident: Annotated[
        bool | None,
        typer.Option(
            "--resident",
            help="As data.resident: hold the training cells packed, on the GPU if there is one.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="TIME", help="Train for 30m, 2h or 1h30m, then stop. As training.budget."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all that is random but the split (training.seed).")] = None,
    exact: Annotated[
        bool | None, typer.Option("--exact", help="As training.exact: densely, in float32.", show_default=False)
    ] = None,
    devices: Annotated[
        int | None, typer.Option("--devices", min=1, help="Processes on this machine, one a GPU. As training.devices.")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", min=1, help="Machines with so many devices each. As training.nodes.")
    ] = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Pre-train an encoder on unlabelled cells.

    Pretext tasks and presets by name: selfcell list. Every setting, with its default: selfcell list settings

    Example: selfcell pretrain cells.h5ad --out runs/mae --donor donor_id --set training.max_epochs=50

    Example: selfcell pretrain cells.h5ad --out runs/byol --donor donor_id --set pretext.name=byol

    Example: selfcell pretrain cells.h5ad --out runs/paper --preset paper-random --set training.minibatch_size=256

    Example: selfcell pretrain cells.h5ad --out runs/mae --donor donor_id --budget 2h

    Example: torchrun --nproc-per-node 4 -m selfcell pretrain atlas --out runs/mae --donor donor_id --devices 4
    """
    from selfcell.core.words import counted
    from selfcell.training.pretrain import pretrain as run
    from selfcell.training.processes import is_first_process

    options = {
        "data.donor_key": donor,
        "data.batch_key": batch,
        "data.layer": layer,
        "data.scale": None if scale is None else scale.value,
        "data.gene_column": gene_column,
        "data.n_top_genes": n_top_genes,
        "data.where": where,
        "data.balance_key": balance,
        "data.backed": backed,
        "data.resident": resident,
        "training.budget": budget,
        "training.seed": seed,
        "training.exact": exact,
        "training.devices": devices,
        "training.nodes": nodes,
    }
    settings = gather_settings(config, set_, options, preset=preset)
    with resumable():
        model = run(cells, settings or None, out=out, resume=resume, overwrite=overwrite)
    if not is_first_process():
        return
    outcome = model.manifest["fit"]
    epochs = counted(round(outcome["epochs"], 2), "epoch")
    typer.echo(
        f"Done: {epochs}, stopped by training.{outcome['stopped_by']}; validation loss "
        f"{outcome['validation_loss']:.4f} at epoch {round(outcome['kept_epoch'], 2)}. The run is in {out}."
    )
    typer.echo(f"Next: selfcell embed {out} {cells} --out embedded.h5ad, or selfcell report {out}")
    if n_aside := model.manifest["data"].get("n_test"):
        judge = f"selfcell evaluate {out} CELLS --label COLUMN --out judged"
        typer.echo(f"Does it help? On the {n_aside:,} cells that were set aside: {judge} (docs/does-it-help.md)")


def finetune(
    model: ModelArgument,
    cells: CellsArgument,
    out: RunOption,
    task: TaskOption = "cell_type",
    label: OptionalLabelOption = None,
    donor: DonorOption = None,
    batch: BatchOption = None,
    target: TargetOption = None,
    validation_fraction: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=0.9,
            help="Share of cells to watch the loss on and, for types, to calibrate confidence on: whole donors where "
            "--donor is known. None if left out, but 0.15 with training.patience.",
        ),
    ] = None,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Begin from random weights instead.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of all that is random (training.seed).")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    layer: LayerOption = None,
    scale: ScaleOption = ScaleChoice.auto,
    gene_column: GeneColumnOption = None,
    allow_low_overlap: LowOverlapOption = False,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Train an encoder further for a downstream task; the run folder then answers it for any cells.

    Every setting, with its default and what it does: selfcell list settings

    Example: selfcell finetune runs/mae cells.h5ad --label cell_type --donor donor_id --validation-fraction 0.15 --out
    runs/typed

    Example: selfcell finetune runs/mae cells.h5ad --task reconstruction --donor donor_id --out runs/decoder

    Example: selfcell finetune runs/mae cells.h5ad --task integration --batch study --out runs/integrated

    Example: selfcell finetune runs/mae cite.h5ad --task cross_modality --target protein_counts --out runs/proteins
    """
    from selfcell.core.words import counted
    from selfcell.downstream.finetune import finetune as run

    seeded = [*(set_ or ()), *([] if seed is None else [f"training.seed={seed}"])]
    settings = task_settings(task, config, seeded, target=target)
    with resumable():
        trained = run(
            str(model),
            cells,
            label_key=label,
            donor_key=donor,
            batch_key=batch,
            out=out,
            settings=settings or None,
            task=task,
            from_scratch=from_scratch,
            validation_fraction=validation_fraction,
            layer=layer,
            scale=scale.value,
            gene_column=gene_column,
            allow_low_overlap=allow_low_overlap,
            resume=resume,
            overwrite=overwrite,
        )
    outcome = trained.manifest["fit"]
    watched = outcome["validation_loss"]
    loss = "" if watched is None else f", validation loss {watched:.4f}"
    epochs = counted(round(outcome["epochs"], 2), "epoch")
    typer.echo(f"Done: {epochs}, stopped by training.{outcome['stopped_by']}{loss}. The run is in {out}.")
    if task == "integration":
        typer.echo(f"Next, for these cells and any others: selfcell embed {out} CELLS.h5ad --out integrated.h5ad")
    following = {
        "cell_type": ("annotate", "annotated"),
        "reconstruction": ("impute", "imputed"),
        "cross_modality": ("predict", "predicted"),
    }.get(task)
    if following is not None:
        command, result = following
        typer.echo(f"Next: selfcell {command} {out} QUERY.h5ad --out {result}.h5ad")


def import_checkpoint(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A checkpoint of Richter et al. 2025, or of their code: FILE.ckpt.")
    ],
    genes: Annotated[
        Path,
        typer.Option(
            "--genes",
            metavar="FILE",
            help="Parquet or CSV with the genes of the input, in order: symbols as feature_name, or Ensembl ids.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="MODEL", help="Model folder to make.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            metavar="FILE",
            help="Of a classifier: the names of its types in order, one a line, or a column of Parquet or CSV.",
        ),
    ] = None,
    as_evaluated_in_paper: Annotated[
        bool,
        typer.Option(
            "--as-evaluated-in-paper", help="With ReLU and a rectified embedding, not the network that was trained."
        ),
    ] = False,
    allow_numpy: Annotated[
        bool, typer.Option("--allow-numpy", help="Let the file hold scalars and arrays of numpy beside the weights.")
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Make a model folder of a checkpoint that the paper's authors released.

    Masked autoencoders, with a negative binomial or not, classifiers, BYOL, SimSiam and Barlow Twins are told apart by
    their weights. Nothing in the file is run. The folder is used like any other MODEL.

    Example: selfcell import-checkpoint RandomMask.ckpt --genes var.parquet --out models/random-mask
    """
    from selfcell.training.import_checkpoint import import_checkpoint as run

    model = run(
        file,
        genes=genes,
        out=out,
        labels=labels,
        as_evaluated_in_paper=as_evaluated_in_paper,
        allow_numpy=allow_numpy,
        overwrite=overwrite,
    )
    typer.echo(
        f"Imported: {model.manifest['imported']['layout']}, {len(model.genes):,} genes to {model.encoder.n_latent} "
        f"dimensions, {model.encoder.settings.activation}. The model is in {out}."
    )
    if model.labels is None:
        typer.echo(f"Next: selfcell embed {out} CELLS.h5ad --out embedded.h5ad")
    else:
        typer.echo(f"Next: selfcell annotate {out} QUERY.h5ad --out annotated.h5ad")
