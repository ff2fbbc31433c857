"""Models that were trained elsewhere: which may be judged, alone or side by side with others of their kind."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfcell.benchmark.planned import GivenEncoder
from selfcell.core.errors import InputError, speaking_of
from selfcell.training.run_folder import TrainedModel, load, read_settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GivenModel:
    """One model of a plan's ``[models.NAME]``."""

    encoder: GivenEncoder
    source: str | Path
    """A run folder, or a model on the Hub."""

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do: there never was."""
        return True

    def result(self) -> TrainedModel:
        """Load the model."""
        with speaking_of(f"[models.{self.encoder.encoder}]"):
            return load(self.source)


def beside(folder: Path, source: str) -> str | Path:
    """Give what a plan names: the folder beside the plan if there is one, else a name that the Hub may know."""
    path = folder / source
    return path if path.exists() else source


def check_models(models: Sequence[TrainedModel], *, crossed: bool) -> None:
    """Refuse models that cannot be judged together, and tell of those that differ in more than the seed.

    Parameters
    ----------
    models
        Pre-trained in one way, as they should be.
    crossed
        Whether each is judged with every seed of fine-tuning: then scores are paired by the seeds of both.

    Raises
    ------
    InputError
        If one was fine-tuned, has other genes, is given twice or, if crossed, has the seed of another.
    """
    first = models[0]
    for place, model in enumerate(models):
        _refuse_fine_tuned(model)
        if model.genes != first.genes:
            raise InputError(f"{model.path} and {first.path} were trained on different genes.")
        for other in models[:place]:
            if model.weights_digest == other.weights_digest:
                raise InputError(
                    f"{model.path} is given twice (model, --also, or [models.NAME]): name pre-trainings of other seeds."
                )
            if crossed and model.manifest["seed"] == other.manifest["seed"]:
                raise InputError(
                    f"{model.path} and {other.path} are both of seed {model.manifest['seed']}, by which scores are "
                    "paired: judge them one by one or, in a benchmark's plan, under a name each ([models.NAME])."
                )
        if _but_for_the_seed(model) != _but_for_the_seed(first):
            logger.warning(
                "%s and %s differ in more than the seed, in their cells or settings: means over them are of no one way "
                "of pre-training.",
                model.path,
                first.path,
            )


def _refuse_fine_tuned(model: TrainedModel) -> None:
    """Refuse a model that has learned from labels, or from another truth."""
    if model.manifest["kind"] != "pretrained":
        began = "checkpoint" if "imported" in model.manifest else "run"
        raise InputError(
            f"{model.path} was fine-tuned for {model.manifest['task']}, perhaps on the test cells. Evaluate the "
            f"pre-trained {began} that it began from."
        )


def _but_for_the_seed(model: TrainedModel) -> tuple[Any, dict[str, Any]]:
    settings = read_settings(model.path)
    settings.get("training", {}).pop("seed", None)
    return model.manifest["data"]["fingerprint"], settings
