"""Data integration: an embedding in which cells lie together by type and not by batch."""

import functools
import logging
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int
from pydantic import Field
from sklearn.decomposition import PCA

from selfcell.core.errors import InputError
from selfcell.data.counts import log_normalize
from selfcell.data.source import Cells, encode, obs_column
from selfcell.data.splits import Split
from selfcell.downstream.base import Columns, DownstreamTask, EncodedCells, SupervisedSettings, TaskScores, shown_cells
from selfcell.downstream.cell_type import label_classes
from selfcell.downstream.conditional_autoencoder import ConditionalAutoencoder
from selfcell.downstream.decoding import decoder_settings
from selfcell.downstream.embed import embed_counts
from selfcell.downstream.integration_scores import cells_to_score, integration_scores
from selfcell.downstream.resampling import TestUnits
from selfcell.downstream.scib_scores import check_scib, scib_scores
from selfcell.downstream.supervised import FineTuningSettings, Start, TrainingPlace, train_supervised
from selfcell.network.conditional_decoder import ConditionalDecoder, ConditionedLayers
from selfcell.network.encoder import MlpEncoder
from selfcell.network.likelihoods import LikelihoodName, OutputName, make_likelihood
from selfcell.training.fit import FitOutcome
from selfcell.training.run_folder import TrainedModel

logger = logging.getLogger(__name__)

N_UNINTEGRATED = 50
"""Principal components that stand for the cells before integration, where scores compare with them."""
MAX_SCORED = 10_000
"""Cells that are scored at once; of more, so many are drawn."""


class IntegrationTrainingSettings(FineTuningSettings):
    """The optimizer of integration: the paper's rate and decay, and more epochs, as no labels can be overfitted."""

    max_epochs: int = Field(default=50, ge=1)
    """Passes over the training cells."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate at the start, or after the warm-up."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay: decoupled with adamw; with lars added to the gradients, and not on biases and norms."""


class IntegrationSettings(SupervisedSettings):
    """Settings of data integration."""

    training: IntegrationTrainingSettings = IntegrationTrainingSettings()
    """Optimizer of probe, fine_tuned and from_scratch."""
    likelihood: Literal["pretext"] | LikelihoodName = "pretext"
    """The loss of the reconstruction: that of the pretext task, or squared_error where it has none; or one by name."""
    batch_in: ConditionedLayers = "every"
    """Layers of the decoder that are told the batch: first or every."""
    mmd_weight: float = Field(default=1.0, ge=0)
    """Weight of the maximum mean discrepancy between the embeddings of batches, as a multiple of the reconstruction's
    loss; 0 leaves it out."""
    scorer: Literal["selfcell", "scib-metrics"] = "selfcell"
    """Whose scores judge: those of this package, or scib-metrics, slower and with two more, to set beside published
    ones; it needs the extra scib."""


class IntegrationTask(DownstreamTask):
    """Embed cells by type and not by batch :cite:p:`richter2025,luecken2022`.

    The answer is the embedding of all cells. Training is told batches and never types, which serve scores alone, and it
    sees the training cells alone: all others are mapped by the encoder, which needs no batch. Scores without a prefix
    are over the test cells; those that begin with ``all_`` are over training and test cells together, which tells
    whether the mapped cells join their likes. Where the test cells are all of one batch, so that there is nothing to
    mix among them, the former are those over all cells too.

    Neighbors make scores of integration, and those of drawn donors cannot be had from those of all, so that none are
    resampled. Scores are those of :func:`~selfcell.downstream.integration_scores.integration_scores`, or by the setting
    ``scorer`` those of :func:`~selfcell.downstream.scib_scores.scib_scores`, under the same names.

    Parameters
    ----------
    settings
        Settings.
    batch_code, batch_names
        Batch of every cell, as a position among the names.
    label_code
        Type of every cell, from 0; None where nothing is to be scored.
    counts
        All cells, of which principal components are computed when first needed.
    """

    name = "integration"
    Settings = IntegrationSettings
    headline = "total"
    takes_from_pretext = True

    def __init__(
        self,
        settings: IntegrationSettings,
        *,
        batch_code: Int[np.ndarray, " n_cells"],
        batch_names: tuple[str, ...],
        label_code: Int[np.ndarray, " n_cells"] | None,
        counts: sp.csr_matrix,
    ) -> None:
        self.settings = settings
        self.batch_code, self.batch_names = batch_code, batch_names
        self.label_code = label_code
        self._counts: sp.csr_matrix | None = counts

    @classmethod
    def of(cls, settings: IntegrationSettings, cells: Cells, columns: Columns) -> "IntegrationTask":
        """Take batches and, where a column of labels is named, types from ``obs``.

        Cells without a batch are taken for a batch of their own, with a warning.

        Raises
        ------
        InputError
            If no column of batches is named, or there is a single batch, or a column cannot be used.
        """
        if columns.batch is None:
            raise InputError(
                "The task integration needs the column of obs with the batch, such as the study: --batch COLUMN "
                "(batch_key)."
            )
        of_cell = obs_column(cells.obs, columns.batch, role="batch", missing="own category")
        batch_names = tuple(sorted(set(of_cell)))
        if len(batch_names) < 2:
            raise InputError(
                f"All cells are of one batch in obs[{columns.batch!r}] ({batch_names[0]!r}): there is nothing to "
                "integrate."
            )
        label_code = None
        if columns.label is not None:
            labels = obs_column(cells.obs, columns.label, role="label")
            label_code = encode(labels, label_classes(labels.to_list(), key=columns.label))
        batch_code = encode(of_cell, batch_names)
        return cls(settings, batch_code=batch_code, batch_names=batch_names, label_code=label_code, counts=cells.counts)

    def usable(self, rows: Int[np.ndarray, " n_rows"], *, reference: Int[np.ndarray, " n_reference"]) -> np.ndarray:
        """Give all test cells, saying which batches are not among them, or not among the training cells.

        Raises
        ------
        InputError
            If no types are known, test and training cells together are of one batch, or the scorer is not installed
            or needs more cells.
        """
        if self.label_code is None:
            raise InputError(
                "Integration is judged by cell types, so it needs their column in obs: --label COLUMN (label_key). "
                "There is no obs['cell_type'] that could be taken by itself."
            )
        tested, trained = (np.unique(self.batch_code[part]) for part in (rows, reference))
        if len(trained) < 2:
            raise InputError(
                f"All training cells are of one batch ({self.batch_names[trained[0]]!r}), so nothing can be learned of "
                "the differences between batches. Judge on other cells, or take another column of batches."
            )
        if self.settings.scorer == "scib-metrics":
            check_scib(len(rows) if len(tested) > 1 else len(rows) + len(reference))
        unseen = np.setdiff1d(tested, trained)
        if len(unseen):
            logger.info("No training cell is of %s: those test cells are mapped unseen.", self._listed(unseen))
        absent = np.setdiff1d(trained, tested)
        if len(tested) < 2:
            logger.warning(
                "All test cells are of one batch, %s, so that nothing is to be mixed among them: all scores are over "
                "training and test cells together.",
                self._listed(tested),
            )
        elif len(absent):
            logger.warning("No test cell is of %s: scores without all_ do not tell of it.", self._listed(absent))
        return rows

    def facts(self, rows: Int[np.ndarray, " n_rows"]) -> dict[str, int]:
        """Give the number of types among the test cells."""
        return {} if self.label_code is None else {"n_classes": len(np.unique(self.label_code[rows]))}

    def prepare(self) -> None:
        """Compute the principal components that scores compare with, and let go of the cells."""
        _ = self.unintegrated
        self._counts = None

    @functools.cached_property
    def unintegrated(self) -> Float[np.ndarray, "n_cells n_components"]:
        """The cells before integration: their principal components, of all genes."""
        expression = log_normalize(self._counts)
        n_components = min(N_UNINTEGRATED, min(expression.shape) - 1)
        components = PCA(n_components, svd_solver="arpack", random_state=0).fit_transform(expression)
        return np.asarray(components, dtype=np.float32)

    def predict(
        self, encoded: EncodedCells, split: Split, *, regime: str, seed: int
    ) -> Float[np.ndarray, "n_cells n_latent"]:
        """Embed all cells by an encoder that was trained on those of ``split.train``."""
        if regime == "zero_shot":
            return encoded.embedding
        trained = self.trained(encoded, split, regime=regime, seed=seed)
        return embed_counts(trained.encoder, encoded.cells.counts)

    def answer_in_space(
        self,
        space: Float[np.ndarray, "n_cells n_dimensions"],
        split: Split,  # noqa: ARG002
    ) -> Float[np.ndarray, "n_cells n_dimensions"]:
        """Take the space as it is."""
        return space

    def score(
        self,
        predicted: Float[np.ndarray, "n_cells n_dimensions"],
        split: Split,
        units: TestUnits,  # noqa: ARG002
    ) -> TaskScores:
        """Compute the scores of scIB over the test cells and over training and test cells together."""
        everyone = np.concatenate([split.train, split.test])
        of_all = self._scores(predicted, everyone)
        is_mixed = len(np.unique(self.batch_code[split.test])) > 1
        of_test = self._scores(predicted, split.test) if is_mixed else of_all
        return TaskScores(of_test | {f"all_{name}": value for name, value in of_all.items()}, {})

    def tables(
        self,
        predicted: Float[np.ndarray, "n_cells n_dimensions"],
        split: Split,
        units: TestUnits,  # noqa: ARG002
    ) -> dict[str, pd.DataFrame]:
        """Keep where some test cells lie, to be shown."""
        return {"shown": pd.DataFrame(predicted[shown_cells(split.test)].astype(np.float32)).add_prefix("dimension_")}

    def _scores(self, space: np.ndarray, rows: np.ndarray) -> dict[str, float]:
        assert self.label_code is not None
        if self.settings.scorer == "scib-metrics":
            rows = rows[cells_to_score(self.batch_code[rows], self.label_code[rows], MAX_SCORED)]
            return scib_scores(
                space[rows],
                batch_code=self.batch_code[rows],
                label_code=self.label_code[rows],
                unintegrated=self.unintegrated[rows],
            )
        return integration_scores(
            space[rows],
            batch_code=self.batch_code[rows],
            label_code=self.label_code[rows],
            unintegrated=self.unintegrated[rows],
            max_cells=MAX_SCORED,
        )

    def train(
        self, start: Start, cells: Cells, split: Split, *, place: TrainingPlace
    ) -> tuple[ConditionalAutoencoder, FitOutcome]:
        """Train encoder and decoder; see :meth:`DownstreamTask.train`.

        Raises
        ------
        InputError
            If the likelihood is one of counts, and the cells have fractional ones or none.
        """
        settings = self.settings
        name, output = likelihood_of(settings, start.model)
        _check_counts(name, cells)

        def make(encoder: MlpEncoder) -> ConditionalAutoencoder:
            likelihood = make_likelihood(name, n_genes=encoder.n_genes, output=output)
            decoder = ConditionalDecoder(
                encoder.settings,
                n_outputs=likelihood.outputs_per_gene * encoder.n_genes,
                n_batches=len(self.batch_names),
                conditioned=settings.batch_in,
            )
            return ConditionalAutoencoder(encoder, decoder, likelihood, mmd_weight=settings.mmd_weight)

        codes = {"batch": self.batch_code}
        return train_supervised(make, start, cells, split, settings.training, codes=codes, place=place)

    def about(self) -> dict[str, Any]:
        """Give the names of the batches, in the order in which the decoder is told them."""
        return {"batches": list(self.batch_names)}

    def _listed(self, codes: np.ndarray) -> str:
        names = [repr(self.batch_names[code]) for code in codes]
        return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def likelihood_of(settings: IntegrationSettings, model: TrainedModel) -> tuple[LikelihoodName, OutputName]:
    """Give the likelihood that is asked for, and what its outputs go through: the pretext task's, if it has any."""
    if settings.likelihood != "pretext":
        return settings.likelihood, "identity"
    of_pretext = decoder_settings(model)
    return of_pretext.likelihood, of_pretext.output


def _check_counts(likelihood: LikelihoodName, cells: Cells) -> None:
    if likelihood != "squared_error" and (cells.scale != "counts" or np.any(cells.counts.data % 1)):
        raise InputError(
            f"The likelihood {likelihood} needs raw whole counts, but the values of {cells.counts_address} are "
            f"{'fractional' if cells.scale == 'counts' else 'log-normalized ones, undone'}. Name the layer with the "
            "raw counts, or set integration.likelihood=squared_error."
        )
