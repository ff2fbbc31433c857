"""Proteins or chromatin of cells by a reference that was measured for both: from its nearest cells, or by a ridge."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from selfcell.core.config import build
from selfcell.core.errors import InputError, speaking_of
from selfcell.data.atlas.index import is_atlas
from selfcell.data.cell_hashes import CellHashes
from selfcell.data.cellxgene import donor_column
from selfcell.data.measured import on_common_genes
from selfcell.data.source import Cells, CellSource, open_cells
from selfcell.data.splits import Split
from selfcell.data.targets import refuse_atlas
from selfcell.downstream.base import Columns
from selfcell.downstream.cross_modality import CrossModalitySettings, CrossModalityTask
from selfcell.downstream.embed import embed_counts
from selfcell.downstream.target_space import TargetPrediction
from selfcell.training.run_folder import TrainedModel

logger = logging.getLogger(__name__)

WAYS = ("ridge", "knn")
"""A ridge regression on the embedding (the regime probe), or the mean of the nearest cells (zero_shot)."""

_OF_NEIGHBORS = {"n_neighbors", "weights"}
_OF_TRAINING = {"hidden_size", "training"}


class TargetReference(NamedTuple):
    """Cells of which the targets were measured, and how others are told from them.

    The answers are those of the regimes ``probe`` and ``zero_shot`` of :class:`CrossModalityTask`, by its own methods.
    """

    task: CrossModalityTask
    """Of the reference's cells."""
    cells: Cells
    """The reference, on the model's genes."""
    by: str
    donor_key: str | None
    allow_low_overlap: bool
    """Go on where reference and cells have few genes in common."""

    @classmethod
    def of(
        cls,
        source: CellSource,
        model: TrainedModel,
        settings: CrossModalitySettings | Mapping[str, Any],
        *,
        by: str,
        donor_key: str | None,
        allow_low_overlap: bool,
    ) -> "TargetReference":
        """Read a reference and check it; nothing is embedded yet.

        Parameters
        ----------
        source
            The cells.
        model
            The model, which must not have been fine-tuned for such targets.
        settings
            Which targets, and how they are taken; settings that are not used must be left out.
        by
            One of :data:`WAYS`.
        donor_key
            Column of donors, of which a ridge's penalty is chosen on whole ones; None for ``donor_id`` where it is
            there, an empty text for none.
        allow_low_overlap
            As in :func:`selfcell.embed`.

        Raises
        ------
        InputError
            If the model was fine-tuned for targets, or the reference lacks them, or a setting is not used.
        """
        _check_model(model)
        settings = _checked_settings(settings, by, donor_key)
        if isinstance(source, str | Path) and is_atlas(source):
            refuse_atlas(source, settings.target or "KEY")
        cells = open_cells(source)
        with speaking_of(cells.origin):
            cells = cells.aligned_to(model.genes, allow_low_overlap=allow_low_overlap)
        donor_key = donor_column(cells, donor_key) if by == "ridge" else None
        task = CrossModalityTask.of(settings, cells, Columns(donor=donor_key))
        return cls(task, cells, by, donor_key, allow_low_overlap)

    @property
    def target(self) -> str:
        """The key of obsm with the targets."""
        return str(self.task.settings.target)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the targets."""
        return self.task.targets.names

    @property
    def origin(self) -> str:
        """What knows the targets, for messages."""
        return f"{self.cells.origin} (the reference)"

    @property
    def how(self) -> dict[str, Any]:
        """What is to be written of how targets were predicted."""
        how: dict[str, Any] = {"target": self.target, "transform": self.task.about()["transform"], "by": self.by}
        how |= {"reference": self.cells.origin, "reference_fingerprint": self.cells.fingerprint()}
        if self.by == "ridge":
            return {**how, "donor": self.donor_key or ""}
        return {**how, "n_neighbors": self.task.settings.n_neighbors, "weights": self.task.settings.weights}

    def predict(self, model: TrainedModel, cells: Cells) -> TargetPrediction:
        """Predict the targets of cells that are on the model's genes.

        Raises
        ------
        InputError
            If all of them are in the reference.
        """
        _refuse_known(cells, self.cells)
        shown = on_common_genes(self.cells, cells, allow_low_overlap=self.allow_low_overlap)
        known, asked = (
            embed_counts(model.encoder, some.counts, show_progress=True) for some in (shown.reference, shown.query)
        )
        space = np.zeros((len(self.cells) + len(cells), known.shape[1]), dtype=np.float32)
        space[shown.rows], space[len(self.cells) :] = known, asked
        test = len(self.cells) + np.arange(len(cells))
        split = Split(shown.rows, np.array([], dtype=np.int64), test, unit="data set")
        if self.by == "ridge":
            return self.task.predict_by_ridge(space, split)
        return self.task.answer_in_space(space, split)


def _check_model(model: TrainedModel) -> None:
    task = model.manifest.get("task")
    if task == "cross_modality":
        raise InputError(
            f"{model.path} was fine-tuned to predict {model.manifest['target']} and answers without a reference: leave "
            "it out (--reference). On cells that it was trained on its embedding fits better than on new ones, so that "
            "a reference would be trusted too much: with one, give the pre-trained run that it began from."
        )
    if task is not None:
        logger.warning(
            "%s was fine-tuned for %s. If the reference's cells were among those that it was trained on, predictions "
            "are worse than they could be: the pre-trained run that it began from knows none of them.",
            model.path,
            task,
        )


def _checked_settings(
    settings: CrossModalitySettings | Mapping[str, Any], by: str, donor_key: str | None
) -> CrossModalitySettings:
    if by not in WAYS:
        raise InputError(f"by (--by) is ridge or knn, but is {by!r}.")
    built = settings if isinstance(settings, CrossModalitySettings) else build(CrossModalitySettings, settings)
    if unused := built.model_fields_set & _OF_TRAINING:
        raise InputError(f"Nothing is trained with a reference: leave the settings {_listed(unused)} out.")
    if by == "ridge" and (unused := built.model_fields_set & _OF_NEIGHBORS):
        raise InputError(f"A ridge regression has no neighbors: leave the settings {_listed(unused)} out, or by=knn.")
    if by == "knn" and donor_key:
        raise InputError(
            "Donors (donor_key, --donor) are for the penalty of a ridge regression: leave them out, or by=ridge."
        )
    return built


def _listed(names: set[str]) -> str:
    return " and ".join(sorted(names))


def _refuse_known(cells: Cells, reference: Cells) -> None:
    """Warn of cells whose targets are known already, and refuse where it is all of them."""
    n_known = int(CellHashes.of(cells).found_in(CellHashes.of(reference)).sum())
    if n_known == len(cells):
        raise InputError(
            f"All cells of {cells.origin} are in the reference, where their targets were measured: there is nothing to "
            "predict. Give other cells."
        )
    if n_known:
        logger.warning(
            "%s of the %s cells are in the reference too: what is predicted of them is closer to what was measured "
            "than it is of new cells.",
            f"{n_known:,}",
            f"{len(cells):,}",
        )
