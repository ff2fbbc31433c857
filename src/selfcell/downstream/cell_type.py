"""Cell-type prediction: tell the type of each cell of donors that were never seen."""

import logging
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Num
from pydantic import Field

from selfcell.core.errors import InputError
from selfcell.data.cellxgene import ontology_terms
from selfcell.data.source import Cells, encode, obs_column
from selfcell.data.splits import Split, split_cells
from selfcell.downstream.base import (
    Columns,
    DownstreamTask,
    EncodedCells,
    SupervisedSettings,
    TaskScores,
)
from selfcell.downstream.classifier_confidence import ClassifierConfidence, learn_confidence
from selfcell.downstream.confidence import Answer, Reference, confidence_table, leave_types_out
from selfcell.downstream.labelled_reference import ALPHA, By, Naming
from selfcell.downstream.logistic_regression import PROBE_INVERSE_PENALTY, fit_logistic_regression
from selfcell.downstream.metrics import FEW_CELLS, classification_scores, macro_f1
from selfcell.downstream.neighbors import N_NEIGHBORS, Weights, vote_of_neighbors
from selfcell.downstream.ontology_scores import corrected_confusion, digest_of_terms
from selfcell.downstream.resampling import TestUnits
from selfcell.downstream.supervised import Start, Supervised, TrainingPlace, train_supervised
from selfcell.downstream.type_classifier import CellTypeClassifier, ClassWeights, class_weight, classify
from selfcell.network.encoder import MlpEncoder
from selfcell.training.fit import FitOutcome

logger = logging.getLogger(__name__)

N_TO_CALIBRATE = 50
"""Held-out cells without which a classifier's confidence is left as it is."""
_BY: dict[str, By] = {"zero_shot": "knn", "probe": "logistic"}
"""How a reference names cells in each regime that trains no network."""
TO_CALIBRATE = 0.15
"""Share of the labelled cells by which a classifier's confidence is calibrated, where it is examined."""


class CellTypeSettings(SupervisedSettings):
    """Settings of cell-type prediction."""

    n_neighbors: int = Field(default=N_NEIGHBORS, ge=1)
    """Labelled cells that vote in zero_shot."""
    weights: Weights = "uniform"
    """Weight of their votes: uniform, or distance (one over it)."""
    class_weights: ClassWeights = "root"
    """Weight of a class in the loss of fine-tuning and probe: balanced is one over its number of cells, the paper's;
    root is one over the root of that; none counts every cell alike."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of each label that is spread over all classes, from 0 (the paper's) to 1, in fine-tuning."""


class CellTypeTask(DownstreamTask):
    """Tell the type of each test cell :cite:p:`richter2025`.

    Parameters
    ----------
    settings
        Settings.
    label_code
        Type of every cell, as a position in ``classes``.
    classes
        Names of the types.
    terms
        What the Cell Ontology calls each; scores by it are left out where there are none.
    """

    name = "cell_type"
    Settings = CellTypeSettings
    headline = "macro_f1"
    seedless = frozenset({"zero_shot", "probe"})

    def __init__(
        self,
        settings: CellTypeSettings,
        *,
        label_code: Int[np.ndarray, " n_cells"],
        classes: tuple[str, ...],
        terms: tuple[str, ...] = (),
    ) -> None:
        self.settings = settings
        self.label_code = label_code
        self.classes = classes
        self.terms = terms

    @classmethod
    def of(cls, settings: CellTypeSettings, cells: Cells, columns: Columns) -> "CellTypeTask":
        """Take the types from ``obs``.

        Raises
        ------
        InputError
            If no column of labels is named, or it cannot be used.
        """
        if columns.label is None:
            raise InputError(
                "The task cell_type needs the column of obs with the types: --label COLUMN (label_key). There is no "
                "obs['cell_type'] that could be taken by itself."
            )
        labels = obs_column(cells.obs, columns.label, role="label")
        classes = label_classes(labels.to_list(), key=columns.label)
        terms = ontology_terms(cells.obs, columns.label, classes)
        return cls(settings, label_code=encode(labels, classes), classes=classes, terms=terms)

    def identity(self) -> dict[str, Any]:
        """Give a hash of what the Cell Ontology calls the types, and says of them."""
        return {"ontology": digest_of_terms(self.terms)} if self.terms else {}

    def usable(self, rows: Int[np.ndarray, " n_rows"], *, reference: Int[np.ndarray, " n_reference"]) -> np.ndarray:
        """Leave out cells of types that no reference cell has: nothing could name them. Says how many.

        Raises
        ------
        InputError
            If none is left.
        """
        known = np.isin(self.label_code[rows], np.unique(self.label_code[reference]))
        if not known.any():
            raise InputError(
                "No type of the cells to judge on is among those of the labelled cells "
                f"({_listed(self.classes, self.label_code[rows])} against "
                f"{_listed(self.classes, self.label_code[reference])}). Make the names agree: --label-map FILE.csv "
                "(label_map), if they are of different sources."
            )
        if not known.all():
            logger.warning(
                "%s of %s cells to judge on are of types that no labelled cell has, and are left out: %s.",
                f"{int((~known).sum()):,}",
                f"{len(rows):,}",
                _listed(self.classes, self.label_code[rows][~known]),
            )
        return rows[known]

    def facts(self, rows: Int[np.ndarray, " n_rows"]) -> dict[str, int]:
        """Give the number of classes among the test cells."""
        return {"n_classes": len(np.unique(self.label_code[rows]))}

    def predict(self, encoded: EncodedCells, split: Split, *, regime: str, seed: int) -> Int[np.ndarray, " n_test"]:
        """Give the class of every cell of ``split.test``; ``validation`` is for stopping, where that is asked for."""
        labelled = split.train
        embedding = encoded.embedding
        if regime == "zero_shot":
            return self.answer_in_space(embedding, split)
        if regime == "probe":
            return fit_logistic_regression(
                embedding[labelled],
                self.label_code[labelled],
                embedding[split.test],
                class_weights=self.settings.class_weights,
                inverse_penalty=PROBE_INVERSE_PENALTY,
            )
        classifier = cast("CellTypeClassifier", self.trained(encoded, split, regime=regime, seed=seed))
        test_cells = encoded.cells.subset(split.test)
        return np.asarray(classify(classifier.encoder, classifier.head, test_cells).argmax(axis=1))

    def answer_in_space(self, space: Float[np.ndarray, "n_cells n_dimensions"], split: Split) -> np.ndarray:
        """Let the nearest labelled cells vote."""
        return vote_of_neighbors(
            space[split.train],
            self.label_code[split.train],
            space[split.test],
            n_neighbors=self.settings.n_neighbors,
            weights=self.settings.weights,
        ).label_code

    def score(self, predicted: Int[np.ndarray, " n_test"], split: Split, units: TestUnits) -> TaskScores:
        """Compute macro and micro F1 and balanced accuracy, and ``macro_f1_frequent`` without types of few test cells.

        Where all types are of the Cell Ontology, by name or by CELLxGENE's column of ids, ``macro_f1_ontology`` and
        ``micro_f1_ontology`` count a prediction that is a kind of the true type as right
        (:mod:`selfcell.downstream.ontology_scores`).
        """
        matrices = self._matrices(predicted, split, units).astype(float)
        confusion = matrices.sum(axis=0)
        frequent = confusion.sum(axis=1) >= FEW_CELLS
        resampled = self._scores(np.tensordot(units.draws, matrices, axes=1), frequent)
        return TaskScores({name: float(one) for name, one in self._scores(confusion, frequent).items()}, resampled)

    def _scores(
        self, confusion: Num[np.ndarray, "*studies n_classes n_classes"], frequent: Bool[np.ndarray, " n_classes"]
    ) -> dict[str, np.ndarray]:
        scores = classification_scores(confusion)
        if frequent.any():
            scores["macro_f1_frequent"] = macro_f1(confusion, among=frequent)
        if self.terms:
            lenient = classification_scores(corrected_confusion(confusion, classes=self.terms))
            scores |= {f"{name}_ontology": lenient[name] for name in ("macro_f1", "micro_f1")}
        return scores

    def tables(self, predicted: Int[np.ndarray, " n_test"], split: Split, units: TestUnits) -> dict[str, pd.DataFrame]:
        """Count test cells by unit, true type and predicted type."""
        matrices = self._matrices(predicted, split, units)
        unit, truth, given = np.nonzero(matrices)
        classes = np.array(self.classes, dtype=object)
        counted = pd.DataFrame(
            {
                "donor": np.array(units.names, dtype=object)[unit],
                "truth": classes[truth],
                "predicted": classes[given],
                "n_cells": matrices[unit, truth, given].astype(np.int64),
            }
        )
        return {"confusion": counted}

    def examine(
        self, encoded: EncodedCells, split: Split, *, donors: pd.Series | None, regimes: Sequence[str]
    ) -> dict[str, pd.DataFrame]:
        """Tell how far confidence can be trusted: :mod:`selfcell.downstream.confidence`.

        ``confidence`` has the test cells as zero_shot, probe and fine_tuned name them, with the confidence that
        :func:`selfcell.annotate` would give: learned from the labelled cells, donor by donor, and from 15 % of them
        that fine-tuning is not given. ``unseen_types`` has the types that were left out of the reference in turn.
        """
        tables: dict[str, pd.DataFrame] = {}
        of_methods = []
        names = np.full(len(split.test), "") if donors is None else donors.iloc[split.test].to_numpy()
        if {"zero_shot", "probe"} & set(regimes):
            reference, truth, classes = self._reference(encoded, split, donors)
            test = encoded.embedding[split.test]
            for regime, by in _BY.items():
                if regime in regimes:
                    named = reference._replace(naming=reference.naming._replace(by=by)).ask(test)
                    of_methods.append(confidence_table(regime, named, donors=names, truth=truth, classes=classes))
            if "zero_shot" in regimes:
                tables["unseen_types"] = leave_types_out(reference, test, truth, classes)
        if "fine_tuned" in regimes and (told := self._ask_classifier(encoded, split, donors)) is not None:
            truth = self.label_code[split.test]
            of_methods.append(confidence_table("fine_tuned", told, donors=names, truth=truth, classes=self.classes))
        return tables | ({"confidence": pd.concat(of_methods, ignore_index=True)} if of_methods else {})

    def _reference(
        self, encoded: EncodedCells, split: Split, donors: pd.Series | None
    ) -> tuple[Reference, np.ndarray, tuple[str, ...]]:
        """Give the labelled cells, the true types of the others, and the types, which are those of labelled cells."""
        rows = split.train
        present, label_code = np.unique(self.label_code[rows], return_inverse=True)
        donor_code = None if donors is None else pd.factorize(donors.iloc[rows])[0].astype(np.int64)
        settings = self.settings
        naming = Naming(
            len(present),
            n_neighbors=settings.n_neighbors,
            weights=settings.weights,
            class_weights=settings.class_weights,
        )
        reference = Reference(encoded.embedding[rows], label_code, donor_code, naming)
        classes = tuple(self.classes[code] for code in present)
        return reference, np.searchsorted(present, self.label_code[split.test]), classes

    def _ask_classifier(self, encoded: EncodedCells, split: Split, donors: pd.Series | None) -> Answer | None:
        """Ask a classifier that is calibrated on labelled donors it was not trained on; None with too few cells."""
        of_labelled = None if donors is None else donors.iloc[split.train]
        if of_labelled is not None and of_labelled.nunique() < 2:
            of_labelled = None
        within = split_cells(len(split.train), of_labelled, validation_fraction=TO_CALIBRATE, seed=0)
        parts = Split(split.train[within.train], split.train[within.validation], split.test, unit=within.unit)
        classifier = cast("CellTypeClassifier", self.trained(encoded, parts, regime="fine_tuned", seed=0))
        confidence = ClassifierConfidence.of_manifest(self.learned(classifier, encoded.cells, parts), alpha=ALPHA)
        if not confidence.is_calibrated:
            logger.info("Too few labelled cells to calibrate a classifier on, so its confidence is not looked into.")
            return None
        uncalibrated = classify(classifier.encoder, classifier.head, encoded.cells.subset(split.test))
        probability = confidence.probability(uncalibrated)
        predicted = probability.argmax(axis=1)
        place = np.arange(len(predicted)), predicted
        is_unknown, sets = confidence.is_unknown(probability), confidence.sets(probability)
        return Answer(predicted, probability[place], uncalibrated[place], sets, is_unknown)

    def _matrices(self, predicted: np.ndarray, split: Split, units: TestUnits) -> np.ndarray:
        """Give the confusion matrix of each test unit."""
        n_classes, n_units = len(self.classes), len(units.names)
        place = (units.code * n_classes + self.label_code[split.test]) * n_classes + predicted
        counted = np.bincount(place, minlength=n_units * n_classes**2)
        return counted.reshape(n_units, n_classes, n_classes)

    def train(
        self, start: Start, cells: Cells, split: Split, *, place: TrainingPlace
    ) -> tuple[CellTypeClassifier, FitOutcome]:
        """Train a classifier; see :meth:`DownstreamTask.train`."""
        n_classes, settings = len(self.classes), self.settings
        weights = class_weight(self.label_code[split.train], n_classes=n_classes, kind=settings.class_weights)
        weight = torch.from_numpy(weights.astype(np.float32))

        def make(encoder: MlpEncoder) -> CellTypeClassifier:
            return CellTypeClassifier(encoder, class_weight=weight, label_smoothing=settings.label_smoothing)

        codes = {"label": self.label_code}
        return train_supervised(make, start, cells, split, settings.training, codes=codes, place=place)

    def learned(self, objective: Supervised, cells: Cells, split: Split) -> dict[str, Any]:
        """Learn from the held-out cells how far the classifier can be trusted, where there are enough of them."""
        known = np.isin(self.label_code[split.validation], np.unique(self.label_code[split.train]))
        rows = split.validation[known]
        if len(rows) < N_TO_CALIBRATE:
            return {}
        classifier = cast("CellTypeClassifier", objective)
        probability = classify(classifier.encoder, classifier.head, cells.subset(rows))
        donors = None
        if split.unit in cells.obs:
            donors = pd.factorize(cells.obs[split.unit].iloc[rows])[0].astype(np.int64)
        return {"calibration": learn_confidence(probability, self.label_code[rows], donor_code=donors)}

    def about(self) -> dict[str, Any]:
        """Give the names of the types, in the order of the classifier's outputs."""
        return {"labels": list(self.classes)}


def _listed(classes: tuple[str, ...], codes: np.ndarray) -> str:
    names = [classes[code] for code in np.unique(codes)]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def label_classes(labels: "np.ndarray | list[str]", *, key: str) -> tuple[str, ...]:
    """Give the sorted classes of a label column.

    Raises
    ------
    InputError
        If there is only one, or nearly every cell has its own.
    """
    classes = tuple(sorted(set(labels)))
    if len(classes) > max(len(labels) // 2, 2):
        raise InputError(
            f"obs[{key!r}] has {len(classes):,} different values for {len(labels):,} cells, so it looks like a "
            "measurement or a name of each cell. Give a column of types."
        )
    if len(classes) < 2:
        raise InputError(
            f"All cells have the same label in obs[{key!r}] ({classes[0]!r}): there is nothing to tell apart."
        )
    return classes
