"""The settings of a pre-training run: sections ``[data] [network] [pretext] [training]``."""

from typing import Any, Literal

from pydantic import Field, SerializeAsAny, field_validator

from selfcell.core.config import Settings
from selfcell.data.counts import Scale
from selfcell.network.encoder import EncoderSettings
from selfcell.pretext import PRETEXT_TASKS
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
    """Column of obs with the donor. Held-out cells are then of other donors; else they are split by cell."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=0.9)
    """Share of the cells on which the loss is watched, between 0 and 0.9."""
    test_fraction: float = Field(default=0.0, ge=0, lt=0.9)
    """Share of the cells that training never sees, for `selfcell evaluate`, between 0 and 0.9."""
    split_seed: int = Field(default=0, ge=0)
    """Seed of the split alone, so that runs of other training seeds hold out the same cells."""


class TrainingSettings(Settings):
    """The optimizer and when to stop: AdamW with the paper's rates."""

    seed: int = Field(default=0, ge=0)
    """Seed of everything random but the split: order, weights, masks, dropout."""
    max_epochs: int = Field(default=100, ge=1)
    """Passes over the training cells at most."""
    minibatch_size: int = Field(default=256, ge=1)
    """Cells per optimizer step. The paper's 8,192 suits millions of cells; thousands need smaller ones."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """AdamW's learning rate at the start."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decoupled weight decay."""
    learning_rate_decay: float = Field(default=0.9, gt=0, le=1)
    """Factor on the learning rate every `decay_every_epochs` epochs; 1 keeps it constant."""
    decay_every_epochs: int = Field(default=2, ge=1)
    """Epochs between two decays of the learning rate."""
    gradient_clip: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient; 0 switches clipping off."""
    patience: int = Field(default=5, ge=0)
    """Stop after so many epochs without a better validation loss, and keep the best weights; 0 trains all epochs and
    keeps the last ones."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to train: auto takes a CUDA GPU where there is one; gpu takes Apple's as well."""


class PretrainSettings(Settings):
    """Everything that determines a pre-training run, but for the cells."""

    data: DataSettings = DataSettings()
    network: EncoderSettings = EncoderSettings()
    pretext: SerializeAsAny[Settings] = MaskedAutoencoderSettings()
    training: TrainingSettings = TrainingSettings()

    @field_validator("pretext", mode="before")
    @classmethod
    def _of_its_task(cls, value: Any) -> Any:
        if isinstance(value, Settings):
            return value
        name = value.get("name", "masked_autoencoder") if isinstance(value, dict) else value
        return PRETEXT_TASKS[str(name)].Settings.model_validate(value)
