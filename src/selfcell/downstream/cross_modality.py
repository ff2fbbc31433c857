"""Cross-modality prediction: tell proteins or chromatin of a cell from its RNA."""

import logging
from collections.abc import Hashable
from typing import Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from pydantic import Field

from selfcell.core.errors import InputError
from selfcell.core.words import counted
from selfcell.data.source import Cells, obs_column
from selfcell.data.splits import Split
from selfcell.data.targets import TargetKind, Targets, read_targets, refuse_atlas
from selfcell.downstream.base import Columns, DownstreamTask, EncodedCells, SupervisedSettings, TaskScores
from selfcell.downstream.feature_sums import FeatureSums, cell_blocks, densely
from selfcell.downstream.neighbors import Weights, find_neighbors, mean_of_neighbors
from selfcell.downstream.rank_scores import MAX_FLATTENED, rank_scores
from selfcell.downstream.regression_scores import RegressionTotals
from selfcell.downstream.resampling import TestUnits
from selfcell.downstream.ridge import fit_ridge
from selfcell.downstream.supervised import FineTuningSettings, Start, TrainingPlace, train_supervised
from selfcell.downstream.target_head import TargetHead, TargetRegressor, loss_of, predict_targets
from selfcell.downstream.target_space import Matrix, TargetPrediction, TargetSpace, TransformName, usual_transform
from selfcell.network.encoder import MlpEncoder
from selfcell.training.fit import FitOutcome

logger = logging.getLogger(__name__)

_MOST_RANKED = 100_000_000
"""Predicted entries up to which features are ranked over cells, which needs all of them at once."""

_MOST_NAMED = 20_000
"""Targets up to which the scores of each are kept."""


class CrossModalityTraining(FineTuningSettings):
    """The optimizer of cross-modality prediction, fine-tuned and from scratch alike.

    Chosen on validation donors of ``liu_covid_pbmc``; more epochs raise the correlation of each cell a little and
    overfit everything else.
    """

    max_epochs: int = Field(default=10, ge=1)
    """Passes over the training cells."""
    average_decay: float = Field(default=0.999, ge=0, lt=1)
    """Watch and keep a moving average of the weights, of which each optimizer step leaves this share; less at first. 0
    keeps the weights themselves."""


class CrossModalitySettings(SupervisedSettings):
    """Settings of cross-modality prediction."""

    target: str | None = None
    """Key of obsm with what is predicted, such as protein_counts or atac_counts."""
    names_key: str | None = None
    """Key of uns with the names of the targets; found by itself where it is called as usual (protein_names)."""
    kind: TargetKind | None = None
    """What the targets are: protein_counts, chromatin_counts or values; found by the name of the key if left out."""
    transform: TransformName = "auto"
    """What is predicted: log1p of counts; clr (centered log ratio across a cell's proteins); tfidf of peaks; counts, by
    a negative binomial likelihood, scored as log1p of the mean; binary, whether a peak is open; unchanged. auto takes
    log1p for proteins, tfidf for chromatin and unchanged for values."""
    rank: int | None = Field(default=None, ge=0)
    """Predict so many directions of the targets instead of each: principal components, or with counts and binary a
    layer that is learned. 0 predicts each; left out, each of up to 2,000, and 50 directions of more."""
    hidden_size: int = Field(default=512, ge=0)
    """Units of a hidden block of the head; 0 for a linear head on the activated embedding."""
    n_neighbors: int = Field(default=30, ge=1)
    """Training cells whose targets are averaged in zero_shot."""
    weights: Weights = "uniform"
    """Weight of these: uniform, or distance (one over it)."""
    training: CrossModalityTraining = CrossModalityTraining()
    """Optimizer of fine_tuned and from_scratch."""


class CrossModalityTask(DownstreamTask):
    """Predict what else was measured of each test cell from its genes :cite:p:`richter2025`.

    Transforms, directions and means are those of the training cells, so nothing of a test cell's targets is looked at.
    Where the paper's released code gives totalVI the proteins of test cells, picks runs by hand and trains from scratch
    at another learning rate than it fine-tunes at, nothing of that is done here.

    Parameters
    ----------
    settings
        Settings.
    targets
        Of every cell.
    donor_code
        Donor of every cell, where donors are known: penalties are chosen on whole donors.
    """

    name = "cross_modality"
    Settings = CrossModalitySettings
    headline = "pearson_per_cell"
    seedless = frozenset({"zero_shot", "probe"})

    def __init__(
        self, settings: CrossModalitySettings, *, targets: Targets, donor_code: Int[np.ndarray, " n_cells"] | None
    ) -> None:
        self.settings = settings
        self.targets = targets
        self.donor_code = donor_code
        self._spaces: dict[Hashable, TargetSpace] = {}

    @classmethod
    def of(cls, settings: CrossModalitySettings, cells: Cells, columns: Columns) -> "CrossModalityTask":
        """Take the targets from ``obsm``.

        Raises
        ------
        InputError
            If no key is named, or what it has cannot be used.
        """
        if settings.target is None:
            if cells.of_atlas:
                refuse_atlas(cells.origin, "KEY")
            there = ", ".join(sorted(cells.obsm)) or "nothing"
            raise InputError(
                "The task cross_modality needs the key of obsm with what is predicted: --target KEY (the setting "
                f"target). In obsm of {cells.origin} there is {there}."
            )
        targets = read_targets(cells, settings.target, names_key=settings.names_key, kind=settings.kind)
        if len(targets.names) < 2:
            raise InputError(
                f"{targets.origin} has {counted(len(targets.names), 'column')}, but at least 2 targets are needed: "
                "scores are correlations across them."
            )
        donor_code = None
        if columns.donor is not None:
            donor_code = np.unique(obs_column(cells.obs, columns.donor, role="donor"), return_inverse=True)[1]
        # A transform that is not for such targets shows before any work.
        TargetSpace.fit(targets.subset(np.arange(1)), settings.transform, rank=0)
        return cls(settings, targets=targets, donor_code=donor_code)

    @classmethod
    def obsm_keys(cls, settings: CrossModalitySettings) -> tuple[str, ...]:
        """Give the key with the targets, if one is named."""
        return () if settings.target is None else (settings.target,)

    @classmethod
    def names_keys(cls, settings: CrossModalitySettings) -> dict[str, str]:
        """Give the key with the names of the targets, if one is named."""
        return {} if settings.target is None or settings.names_key is None else {settings.target: settings.names_key}

    def space(self, train: Int[np.ndarray, " n_train"]) -> TargetSpace:
        """Give the space of targets in which is learned and predicted, fitted on training cells; the last is kept."""
        key = (self.settings.transform, self.settings.rank, train.tobytes())
        if key not in self._spaces:
            self._spaces.clear()
            self._spaces[key] = TargetSpace.fit(
                self.targets.subset(train), self.settings.transform, rank=self.settings.rank
            )
        return self._spaces[key]

    def predict(self, encoded: EncodedCells, split: Split, *, regime: str, seed: int) -> TargetPrediction:
        """Predict the targets of every cell of ``split.test``."""
        if regime == "zero_shot":
            return self.answer_in_space(encoded.embedding, split)
        if regime == "probe":
            return self.predict_by_ridge(encoded.embedding, split)
        trained = cast("TargetRegressor", self.trained(encoded, split, regime=regime, seed=seed))
        return predict_targets(trained.encoder, trained.head, encoded.cells.subset(split.test))

    def answer_in_space(self, space: Float[np.ndarray, "n_cells n_dimensions"], split: Split) -> TargetPrediction:
        """Take the mean of the nearest training cells' targets."""
        targets = self.space(split.train)
        neighbors = find_neighbors(space[split.train], space[split.test], n_neighbors=self.settings.n_neighbors)
        known = targets.coordinates(targets.values(self.targets.subset(split.train)))
        coordinates = mean_of_neighbors(neighbors, known, weights=self.settings.weights)
        return targets.prediction(coordinates)

    def predict_by_ridge(self, inputs: Matrix, split: Split) -> TargetPrediction:
        """Predict by a ridge regression on any vectors of all cells; see :func:`selfcell.downstream.ridge.fit_ridge`.

        The penalty is chosen on held-out training cells, whole donors where donors are known.
        """
        targets, train = self.space(split.train), split.train
        ridge = fit_ridge(
            inputs[train],
            targets.coordinates(targets.values(self.targets.subset(train))),
            group_code=None if self.donor_code is None else self.donor_code[train],
        )
        return targets.prediction(ridge.predict(inputs[split.test]))

    def usable(self, rows: Int[np.ndarray, " n_rows"], *, reference: Int[np.ndarray, " n_reference"]) -> np.ndarray:  # noqa: ARG002
        """Give all test cells; which scores would take too much memory for so many is said here, once."""
        n_entries = len(rows) * len(self.targets.names)
        for most, score in ((MAX_FLATTENED, "over everything"), (_MOST_RANKED, "of each target")):
            if n_entries > most:
                logger.info(
                    "Spearman's correlation %s is left out: ranking %s entries, more than %s, takes too much memory.",
                    score,
                    f"{n_entries:,}",
                    f"{most:,}",
                )
        return rows

    def score(self, predicted: TargetPrediction, split: Split, units: TestUnits) -> TaskScores:
        """Compute Pearson and Spearman correlations by cell, by target and over all entries, and squared errors.

        On the scale of the transform; of counts that a likelihood was fitted to, ``log1p``. Cells are taken some at a
        time. Ranks over cells need them all at once, and are left out where that were over a hundred million entries.
        """
        truth = self.space(split.train).values(self.targets.subset(split.test))
        totals = RegressionTotals(n_features=predicted.shape[1], n_units=len(units.names))
        for block in predicted.blocks():
            totals.add(truth[block], predicted.rows(block), units.code[block])
        values, resampled = totals.scores(), totals.scores(units.draws)
        if np.prod(predicted.shape) <= _MOST_RANKED:
            dense = predicted.dense()
            once = np.ones((1, len(units.names)))
            ranked = rank_scores(truth, dense, units.code, weight=np.concatenate([once, units.draws]))
            values |= {name: draws[:1] for name, draws in ranked.items()}
            resampled |= {name: draws[1:] for name, draws in ranked.items()}
        known = [name for name, value in values.items() if np.isfinite(value[0])]
        return TaskScores({name: float(values[name][0]) for name in known}, {name: resampled[name] for name in known})

    def tables(self, predicted: TargetPrediction, split: Split, units: TestUnits) -> dict[str, pd.DataFrame]:  # noqa: ARG002
        """Give the correlation and the squared error of each target over test cells, unless there are very many."""
        n_targets = predicted.shape[1]
        if n_targets > _MOST_NAMED:
            return {}
        truth = self.space(split.train).values(self.targets.subset(split.test))
        sums = FeatureSums(n_features=n_targets, n_units=1)
        for cells in cell_blocks(len(predicted.left), n_targets):
            true, foretold = densely(truth[cells]), densely(predicted.rows(cells))
            sums.add(true, foretold, np.zeros(len(true), dtype=np.int64))
        of_targets = sums.moments(np.ones((1, 1)))
        pearson, mse = of_targets.pearson[0], of_targets.squared_error[0]
        return {"features": pd.DataFrame({"feature": list(self.targets.names), "pearson": pearson, "mse": mse})}

    def train(
        self, start: Start, cells: Cells, split: Split, *, place: TrainingPlace
    ) -> tuple[TargetRegressor, FitOutcome]:
        """Train encoder and head; see :meth:`DownstreamTask.train`."""
        rows = np.concatenate([split.train, split.validation])
        train, watched = self.targets.subset(split.train), self.targets.subset(rows)
        space, settings = self.space(split.train), self.settings
        loss = loss_of(space.name)
        truth: Matrix = watched.matrix if loss == "negative_binomial" else space.values(watched)
        if loss == "squared_error":
            truth = space.coordinates(truth)

        def make(encoder: MlpEncoder) -> TargetRegressor:
            head = TargetHead.for_space(encoder, space, train, hidden_size=settings.hidden_size)
            return TargetRegressor(encoder, head, truth)

        # Cells that are neither trained on nor watched have no place in the truth.
        place_of = np.full(len(self.targets), -1, dtype=np.int64)
        place_of[rows] = np.arange(len(rows))
        return train_supervised(make, start, cells, split, settings.training, codes={"row": place_of}, place=place)

    def about(self) -> dict[str, Any]:
        """Give what is predicted: names of the targets, in the order of the head's outputs, and how they were made."""
        return {
            "target": self.settings.target,
            "target_kind": self.targets.kind,
            "transform": usual_transform(self.settings.transform, self.targets.kind),
            "target_names": list(self.targets.names),
        }
