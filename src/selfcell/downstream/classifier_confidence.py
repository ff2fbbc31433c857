"""How far a fine-tuned classifier can be trusted, learned from the cells that its training held out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from selfcell.core.errors import InputError
from selfcell.downstream.calibration import calibrated_probability, fit_temperature
from selfcell.downstream.conformal import fit_prediction_sets

ALPHAS = (0.01, 0.05, 0.1, 0.2)
"""The shares of known cells that may be called unknown, for which a run keeps a threshold."""


@dataclass(frozen=True)
class ClassifierConfidence:
    """A temperature, and the probability below which no label is in the prediction set."""

    temperature: float = 1.0
    least_probability: float = 0.0
    is_calibrated: bool = False

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any], *, alpha: float) -> "ClassifierConfidence":
        """Read it from a run's manifest; what a run has not learned leaves probabilities as they are.

        Raises
        ------
        InputError
            If the run keeps no threshold for ``alpha``.
        """
        learned = manifest.get("calibration")
        if learned is None:
            return cls()
        if str(alpha) not in learned["least_probability"]:
            known = ", ".join(learned["least_probability"])
            raise InputError(f"A fine-tuned classifier knows alpha {known}, but {alpha:g} is asked for.")
        return cls(learned["temperature"], learned["least_probability"][str(alpha)], is_calibrated=True)

    def probability(
        self, uncalibrated: Float[np.ndarray, "n_cells n_classes"]
    ) -> Float[np.ndarray, "n_cells n_classes"]:
        """Calibrate the probabilities that the classifier gives."""
        return calibrated_probability(_logits(uncalibrated), temperature=self.temperature)

    def is_unknown(self, probability: Float[np.ndarray, "n_cells n_classes"]) -> Bool[np.ndarray, " n_cells"]:
        """Tell which cells have no label in their prediction set."""
        return np.asarray(~self.sets(probability).any(axis=1))

    def sets(self, probability: Float[np.ndarray, "n_cells n_classes"]) -> Bool[np.ndarray, "n_cells n_classes"]:
        """Tell which labels are in the prediction set of each cell."""
        return np.asarray(probability >= self.least_probability)


def learn_confidence(
    probability: Float[np.ndarray, "n_cells n_classes"],
    label_code: Int[np.ndarray, " n_cells"],
    *,
    donor_code: Int[np.ndarray, " n_cells"] | None,
) -> dict[str, Any]:
    """Give what a manifest is to hold, from the classifier's probabilities of held-out cells.

    Parameters
    ----------
    probability
        Not calibrated.
    label_code
        True types.
    donor_code
        Donors, each of which counts equally.
    """
    logits = _logits(probability)
    temperature = fit_temperature(logits, label_code, donor_code=donor_code)
    calibrated = calibrated_probability(logits, temperature=temperature)
    least = {str(alpha): _least_probability(calibrated, label_code, alpha=alpha) for alpha in ALPHAS}
    return {"temperature": temperature, "least_probability": least, "n_cells": len(label_code)}


def _least_probability(probability: np.ndarray, label_code: np.ndarray, *, alpha: float) -> float:
    """Give the smallest probability of a label that is in a prediction set; 0 where all labels are."""
    sets = fit_prediction_sets(probability, label_code, alpha=alpha)
    cells = np.arange(len(label_code))
    # One of the probabilities themselves, not one less the threshold: rounding would leave equal ones out.
    of_truth = probability[cells, label_code][sets.predict(probability)[cells, label_code]]
    return float(of_truth.min()) if np.isfinite(sets.threshold) else 0.0


def _logits(probability: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probability.astype(np.float64), np.finfo(np.float32).tiny))
