"""The settings of a pre-training run: sections ``[data] [network] [pretext] [training]``."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from selfcell.core.config import Settings
from selfcell.core.errors import InputError
from selfcell.core.words import seconds_of
from selfcell.data.counts import Scale
from selfcell.network.encoder import EncoderSettings
from selfcell.pretext import PRETEXT_TASKS
from selfcell.pretext.base import PretextSettings, PretextTask
from selfcell.pretext.masked_autoencoder import MaskedAutoencoderSettings


class DataSettings(Settings):
    """Which cells and genes, and which cells are held out."""

    layer: str | None = None
    """Layer with the raw counts, or X or raw.X. Left alone, layers['counts'], X and raw.X are tried in this order."""
    scale: Scale = "auto"
    """What the values are: auto (whole counts), counts (fractional too) or log1p (log-normalized, to be undone)."""
    gene_column: str | None = None
    """Column of var that names the genes, instead of var_names."""
    donor_key: str | None = None
    """Column of obs with the donor. Held-out cells are then of other donors; else they are split by cell. Left out:
    donor_id, where it is there and has three donors or more; an empty text for none."""
    batch_key: str | None = None
    """Column of obs with the batch: the experiment a cell comes from. Only views that mix neighbors use it."""
    n_top_genes: int | None = Field(default=None, ge=2)
    """Train on so many of the most variable genes alone, chosen on the training cells; all genes if left out. With some
    thousand cells of many genes, 2,000 make a better encoder. Cells must be in memory."""
    where: str | None = None
    """Only cells for which this holds, written as for pandas: tissue == 'lung' and n_genes > 500."""
    balance_key: str | None = None
    """Column of obs whose values are drawn equally often, whatever their share of the cells. An epoch stays as long."""
    backed: bool = False
    """Read a file from disk while training, instead of holding it in memory; an atlas always is."""
    resident: bool = False
    """Hold the training cells where they are trained on, packed in about three bytes a count: on the GPU, or in memory.
    Validation cells are streamed. It changes no number."""
    block_size: int | None = Field(default=None, ge=1)
    """On disk: neighbouring cells that are read at one go; 128 of an atlas and 32 of a file, which may lie sorted."""
    buffer_size: int | None = Field(default=None, ge=1)
    """On disk: cells held in memory and shuffled together; 4,096 of an atlas and 8,192 of a file."""
    loader_threads: int = Field(default=1, ge=1)
    """On disk: threads that read ahead. They change no number."""
    cache_folder: str | None = None
    """With an atlas behind a URL: folder to keep what was fetched, for later epochs. It may grow to the atlas's
    size."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=0.9)
    """Share of the cells on which the loss is watched, between 0 and 0.9."""
    test_fraction: float = Field(default=0.0, ge=0, lt=0.9)
    """Share of the cells that training never sees, for `selfcell evaluate`, between 0 and 0.9."""
    train_donor_fraction: float = Field(default=1.0, gt=0, le=1)
    """Pre-train on this share of the training donors, at least one, drawn so that smaller shares are parts of larger
    ones: what more cells are worth. The other donors may be labelled later, and are never judged on."""
    split_seed: int = Field(default=0, ge=0)
    """Seed of the split alone, so that runs of other training seeds hold out the same cells."""


class TrainingSettings(Settings):
    """The optimizer and when to stop: by default AdamW with the paper's rates for masked autoencoders."""

    chooses_minibatch: ClassVar[bool] = True
    """Whether minibatch_size may be auto."""

    seed: int = Field(default=0, ge=0)
    """Seed of everything random but the split: order, weights, masks, dropout."""
    max_epochs: int = Field(default=100, ge=1)
    """Passes over the training cells at most."""
    budget: str | None = None
    """Wall-clock time to train for, of all sessions together, such as 90s, 30m, 2h or 1h30m; max_epochs and patience
    may end it before. The last validation comes on top."""
    minibatch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 256
    """Cells whose loss is taken at once, of all devices together. The paper's 8,192 suits millions of cells; thousands
    need smaller ones. auto chooses by the number of training cells, and by the memory."""
    accumulate: int = Field(default=1, ge=1)
    """Minibatches per optimizer step, whose gradients are averaged: a step of a larger minibatch in the memory of a
    smaller one. What a task compares a cell with comes from one minibatch."""
    optimizer: Literal["adamw", "lars"] = "adamw"
    """adamw, or lars, made for very large minibatches: momentum, and steps in proportion to each weight's norm."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate at the start, or after the warm-up."""
    scale_learning_rate: Literal["none", "linear", "sqrt"] = "none"
    """Multiply the learning rates by the cells per optimizer step over 256, or by the root of that (usual with adamw;
    linear is with lars)."""
    bias_learning_rate: float | None = Field(default=None, gt=0)
    """With optimizer=lars: the learning rate of biases and norms; learning_rate if left out."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """With optimizer=lars: how much of the step before is kept."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay: decoupled with adamw; with lars added to the gradients, and not on biases and norms."""
    schedule: Literal["steps", "cosine"] = "steps"
    """How the learning rate falls: in steps of epochs, or along a cosine to a thousandth at the last epoch."""
    learning_rate_decay: float = Field(default=0.9, gt=0, le=1)
    """With schedule=steps: factor every `decay_every_epochs` epochs; 1 keeps the rate constant."""
    decay_every_epochs: int = Field(default=2, ge=1)
    """With schedule=steps: epochs between two decays."""
    warmup_epochs: float = Field(default=0.0, ge=0)
    """Epochs over which the learning rate first rises from 0, in a line; fractions too, to the nearest step."""
    gradient_clip: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient; 0 switches clipping off."""
    average_decay: float = Field(default=0.0, ge=0, lt=1)
    """Watch and keep a moving average of the weights, of which each optimizer step leaves this share, such as 0.999;
    less at first. 0 keeps the weights themselves."""
    patience: int = Field(default=5, ge=0)
    """Stop after so many epochs without a better validation loss, and keep the best weights; 0 trains all epochs and
    keeps the last ones. Pretext tasks whose loss is measured against something that training moves (byol and its kin)
    take 0 unless it is set."""
    checkpoint_minutes: float = Field(default=10.0, ge=0)
    """Minutes between checkpoints within an epoch, for --resume; 0 makes them at the end of each epoch only."""
    tracker: Literal["none", "wandb", "mlflow"] = "none"
    """Send the curves to Weights & Biases or MLflow too, if its package is installed. TensorBoard has them always."""
    devices: int = Field(default=1, ge=1)
    """Processes on this machine, one a GPU, that share each minibatch."""
    nodes: int = Field(default=1, ge=1)
    """Machines with `devices` each; torchrun and SLURM are recognised."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type in which matrices are multiplied: auto takes bfloat16 where the processor or GPU does so, with float32 sums.
    Weights and their updates are float32 whatever it is."""
    exact: bool = False
    """Compute densely and in float32, by plain torch: slow, to check the quick path by."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to train: auto takes a CUDA GPU where there is one; gpu takes Apple's as well."""

    @field_validator("budget")
    @classmethod
    def _is_a_time(cls, budget: str | None) -> str | None:
        if budget is not None:
            seconds_of(budget, name="training.budget")
        return budget

    @field_validator("minibatch_size", mode="before")
    @classmethod
    def _size_or_auto(cls, value: Any) -> Any:
        is_size = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not is_size and not (value == "auto" and cls.chooses_minibatch):
            auto = ", or auto" if cls.chooses_minibatch else " (auto is for pre-training alone)"
            raise ValueError(f"it takes a whole number from 1{auto}")
        return value

    @model_validator(mode="after")
    def _nothing_in_vain(self) -> "TrainingSettings":
        only_with = {
            "bias_learning_rate": ("optimizer", "lars"),
            "momentum": ("optimizer", "lars"),
            "learning_rate_decay": ("schedule", "steps"),
            "decay_every_epochs": ("schedule", "steps"),
        }
        for name, (owner, value) in only_with.items():
            if getattr(self, owner) != value and getattr(self, name) != type(self).model_fields[name].default:
                raise InputError(f"training.{name} has a meaning with training.{owner}={value} only.")
        if self.exact and self.precision == "bfloat16":
            raise InputError("training.exact computes in float32: leave training.precision out.")
        return self

    @model_validator(mode="after")
    def _schedule_has_an_end(self) -> "TrainingSettings":
        if self.warmup_epochs >= self.max_epochs:
            raise InputError(
                f"training.warmup_epochs is {self.warmup_epochs:g}, but there are {self.max_epochs} epochs in all: the "
                "learning rate would never be reached. Lower training.warmup_epochs or raise training.max_epochs."
            )
        if self.budget is not None and self.schedule == "cosine":
            raise InputError(
                "training.schedule=cosine falls by the share of the training that is done, which with training.budget "
                "would depend on the pace of the machine: the same seed would give other weights every time. Take "
                "training.schedule=steps, or set training.max_epochs and leave training.budget out."
            )
        return self

    @property
    def cells_per_minibatch(self) -> int:
        """Cells whose loss is taken at once; known once ``auto`` has been replaced by what it stands for."""
        if self.minibatch_size == "auto":
            raise ValueError("training.minibatch_size=auto must be chosen first.")
        return self.minibatch_size

    @property
    def cells_per_step(self) -> int:
        """Cells of an optimizer step."""
        return self.cells_per_minibatch * self.accumulate

    @property
    def budget_seconds(self) -> float | None:
        """Wall-clock time to train for; None where there is no limit."""
        return None if self.budget is None else seconds_of(self.budget, name="training.budget")


class PretrainSettings(Settings):
    """Everything that determines a pre-training run, but for the cells."""

    data: DataSettings = DataSettings()
    network: EncoderSettings = EncoderSettings()
    pretext: SerializeAsAny[PretextSettings] = MaskedAutoencoderSettings()
    training: TrainingSettings = TrainingSettings()

    @field_validator("pretext", mode="before")
    @classmethod
    def _of_its_task(cls, value: Any) -> Any:
        if isinstance(value, Settings):
            return value
        settings_class = _class_of(_task_name(value)).Settings
        _refuse_settings_of_others(settings_class, _task_name(value), value)
        return settings_class.model_validate(value)

    @model_validator(mode="before")
    @classmethod
    def _patience_of_its_task(cls, values: Any) -> Any:
        """Train all epochs where the loss cannot tell when to stop, unless the user knows better."""
        pretext, training = values.get("pretext", "masked_autoencoder"), values.get("training", {})
        task = _task_name(pretext)
        # A name that is unknown is told of where the section is read.
        if not isinstance(training, dict) or "patience" in training or not (task in PRETEXT_TASKS or ":" in task):
            return values
        moving = _class_of(task).moving_target
        return {**values, "training": {**training, "patience": 0}} if moving else values


def _class_of(task: str) -> type[PretextTask]:
    """Give the class of a pretext task, ours or one's own, as ``module:Name``."""
    found = PRETEXT_TASKS[task]
    if not (isinstance(found, type) and issubclass(found, PretextTask) and hasattr(found, "Settings")):
        raise InputError(
            f"{task} is no pretext task: it must be a class derived from selfcell.pretext.base.PretextTask, with "
            "Settings derived from PretextSettings."
        )
    return found


def _refuse_settings_of_others(settings_class: type[PretextSettings], task: str, value: Any) -> None:
    """Say which tasks have a setting that this one has not."""
    for name in value if isinstance(value, dict) else ():
        steps, _, _ = name.partition(".")
        if steps in {"views", "second_views"} and steps != name:
            raise InputError(
                f"Steps of a view are written whole, not one by one: pretext.{steps}="
                '[{name="mask_genes", fraction=0.5}] instead of pretext.' + f"{name}."
            )
        others = [other for other in PRETEXT_TASKS if name in PRETEXT_TASKS[other].Settings.model_fields]
        if name not in settings_class.model_fields and others:
            raise InputError(
                f"{task} has no setting {name!r}; it is one of {', '.join(others)} (pretext.name={others[0]})."
            )


def _task_name(pretext: Any) -> str:
    if isinstance(pretext, PretextSettings):
        return pretext.name
    return str(pretext.get("name", "masked_autoencoder") if isinstance(pretext, dict) else pretext)
