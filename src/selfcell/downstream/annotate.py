"""Annotate cells with types, from a labelled reference or with a fine-tuned classifier."""

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import anndata
import numpy as np
import pandas as pd
from jaxtyping import Bool

from selfcell.core.errors import InputError, speaking_of
from selfcell.data.cell_hashes import CellHashes
from selfcell.data.cellxgene import donor_column, needed_label_column
from selfcell.data.counts import Scale
from selfcell.data.measured import on_common_genes
from selfcell.data.source import Cells, CellSource, encode, obs_column, open_cells, refuse_mudata
from selfcell.downstream.cell_type import N_TO_CALIBRATE, label_classes
from selfcell.downstream.classifier_confidence import ClassifierConfidence
from selfcell.downstream.embed import as_model, embed_counts, refuse_foreign_key, write_provenance
from selfcell.downstream.labelled_reference import ALPHA, By, Naming, calibrated_reference
from selfcell.downstream.neighbors import N_NEIGHBORS, Weights
from selfcell.downstream.type_classifier import classify, trained_head
from selfcell.training.run_folder import TrainedModel

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
MOST = 0.5
"""Share of cells that, if more are called unknown, tells of other data sets and not of other types."""
BETWEEN_NAMES = " | "
"""Stands between the types of a prediction set."""


def annotate(
    query: anndata.AnnData | Any,  # MuData is refused with words
    model: TrainedModel | str | Path,
    *,
    reference: CellSource | None = None,
    label_key: str | None = None,
    donor_key: str | None = None,
    key_added: str = "predicted_type",
    by: str | None = None,
    n_neighbors: int = N_NEIGHBORS,
    weights: Weights = "uniform",
    alpha: float = ALPHA,
    mark_unknown: bool = False,
    layer: str | None = None,
    scale: Scale = "auto",
    gene_column: str | None = None,
    allow_low_overlap: bool = False,
) -> None:
    """Write a type and a calibrated confidence for every cell into ``query.obs``, and whether it is like none known.

    With a reference, the nearest labelled cells in the embedding vote, or a logistic regression on the embedding
    answers. How far that can be trusted is learned from the reference, which is asked about its own cells, each time
    without their donors (:mod:`selfcell.downstream.labelled_reference`). Without a reference, a fine-tuned model's own
    classifier is used, calibrated on the cells that its training held out, if it held any out
    (``validation_fraction`` of :func:`selfcell.finetune`).

    Parameters
    ----------
    query
        Cells to annotate. Only ``uns["selfcell"][key_added]`` and columns of ``obs`` that begin with ``key_added`` are
        written: ``key_added`` (categorical), ``key_added + "_confidence"`` (probability that it is right, if its type
        is one of the reference), ``key_added + "_is_unknown"``, ``key_added + "_set"`` (types that hold the
        true one for all but a share ``alpha`` of known cells, such as ``"B | plasma"``; nothing for a set without any;
        not written by a classifier that is not calibrated), and with a reference ``key_added + "_distance"`` (mean
        distance to the neighbors in the embedding) and ``key_added + "_familiarity"`` (share of the reference cells of
        that type that lie as far from others, or farther: near 0 is unfamiliar).
    model
        A loaded model, or a run folder.
    reference
        Labelled cells: an AnnData, or the path of an .h5ad file or .zarr folder.
    label_key, donor_key
        Columns of the reference's ``obs`` with the types and the donors. Types that are not named are those of
        ``cell_type``, donors those of ``donor_id``, where it is there; an empty text stands for no donors. Without
        donors, confidence is that on new cells of the same donors, which is too high for others.
    key_added
        Column to write.
    by
        With a reference, by what: ``knn``, the vote of the nearest cells (the regime ``zero_shot``; taken if left out),
        or ``logistic``, a regression (``probe``), which is often better, and slower: it is fitted once more without
        each fold of donors, of which there are five at most.
    n_neighbors, weights
        Reference cells that vote, and with what weight: uniform, or distance (one over it). With ``logistic`` the cells
        to which the distance is taken; no weights.
    alpha
        Share of known cells that may be called unknown, for each of two reasons; see
        ``UNKNOWN_RULE`` of :mod:`selfcell.downstream.unknown`. A fine-tuned classifier knows the first alone.
    mark_unknown
        Write ``unknown`` as the type of such cells.
    layer, scale, gene_column, allow_low_overlap
        As in :func:`selfcell.embed`; ``layer``, ``scale`` and ``gene_column`` are those of the query, and the
        reference's are found by themselves; ``allow_low_overlap`` holds for both.

    Raises
    ------
    InputError
        If there is a label but no reference, or no column of types, what is given is not used, or the cells cannot be
        worked with.

    Examples
    --------
    >>> query = anndata.read_h5ad("query.h5ad")
    >>> selfcell.annotate(query, "runs/mae", reference="reference.h5ad", label_key="cell_type", donor_key="donor_id")
    >>> sure = query[query.obs["predicted_type_confidence"] > 0.9]
    """
    refuse_mudata(query, "annotate")
    model = as_model(model)
    naming = _checked_naming(by, n_neighbors, weights)
    if reference is None:
        _refuse_without_reference(label_key, donor_key, naming, by=by)
    refuse_foreign_key(query, key_added, query.obs, "obs")
    # The smaller chore first: a fault in the reference shows before the query is read.
    asked: _ByReference | _ByClassifier
    if reference is not None:
        asked = _ByReference.of(
            reference,
            label_key,
            donor_key,
            model,
            naming,
            alpha,
            allow_low_overlap=allow_low_overlap,
        )
    else:
        asked = _ByClassifier.of(model, alpha)
    cells = open_cells(query, layer=layer, scale=scale, gene_column=gene_column)
    cells = cells.aligned_to(model.genes, allow_low_overlap=allow_low_overlap)
    _check_that_new(cells, asked.known, is_reference=reference is not None)
    found = asked.answer(model, cells)
    # A reference may have a type of this name.
    categories = list(dict.fromkeys([*asked.classes, *([UNKNOWN] if mark_unknown else [])]))
    code = np.where(found.is_unknown, categories.index(UNKNOWN), found.label_code) if mark_unknown else found.label_code
    query.obs[key_added] = pd.Categorical.from_codes(code, categories=categories)
    query.obs[f"{key_added}_confidence"] = found.confidence.astype(np.float32)
    query.obs[f"{key_added}_is_unknown"] = found.is_unknown
    if found.sets is not None:
        query.obs[f"{key_added}_set"] = _names_of_sets(found.sets, asked.classes)
    if found.familiarity is not None and found.distance is not None:
        _warn_of_distance(found.is_unknown, key_added)
        query.obs[f"{key_added}_distance"] = found.distance.astype(np.float32)
        query.obs[f"{key_added}_familiarity"] = found.familiarity.astype(np.float32)
    write_provenance(query, key_added, model, cells, **asked.how, **found.how)


def _checked_naming(by: str | None, n_neighbors: int, weights: Weights) -> dict[str, Any]:
    if by not in (None, *get_args(By)):
        raise InputError(f"by (--by) is knn or logistic, but is {by!r}.")
    if by == "logistic" and weights != "uniform":
        raise InputError("A regression has no votes to be weighted: leave --weights (weights) out, or --by knn (by).")
    return {"by": by or "knn", "n_neighbors": n_neighbors, "weights": weights}


def _refuse_without_reference(
    label_key: str | None, donor_key: str | None, naming: Mapping[str, Any], *, by: str | None
) -> None:
    if label_key is not None:
        raise InputError("label_key (--label) is the reference's column of types, but there is no reference.")
    if donor_key is not None:
        raise InputError("donor_key (--donor) is the reference's column of donors, but there is no reference.")
    if by is not None or naming != _checked_naming(None, N_NEIGHBORS, "uniform"):
        raise InputError(
            "by, n_neighbors and weights (--by, --n-neighbors, --weights) say how a reference answers, but there is "
            "none: leave them out, or give one."
        )


class _Found(NamedTuple):
    label_code: np.ndarray
    confidence: np.ndarray
    is_unknown: np.ndarray
    distance: np.ndarray | None
    familiarity: np.ndarray | None
    sets: Bool[np.ndarray, "n_cells n_classes"] | None
    how: dict[str, Any]
    """What is to be written of the answer besides."""


def _names_of_sets(sets: Bool[np.ndarray, "n_cells n_classes"], classes: tuple[str, ...]) -> pd.Categorical:
    """Write each prediction set as its names; an empty one as nothing."""
    distinct, code = np.unique(sets, axis=0, return_inverse=True)
    names = [BETWEEN_NAMES.join(itertools.compress(classes, one)) for one in distinct]
    return pd.Categorical.from_codes(code.ravel(), categories=names)


class _ByReference(NamedTuple):
    """Labelled cells tell of others."""

    cells: Cells
    """The reference, on the model's genes."""
    label_code: np.ndarray
    donor_code: np.ndarray | None
    classes: tuple[str, ...]
    naming: Naming
    known: CellHashes
    """Of the reference."""
    how: dict[str, Any]
    allow_low_overlap: bool
    """Go on where reference and query have few genes in common."""

    @classmethod
    def of(
        cls,
        source: CellSource,
        label_key: str | None,
        donor_key: str | None,
        model: TrainedModel,
        naming: Mapping[str, Any],
        alpha: float,
        *,
        allow_low_overlap: bool,
    ) -> "_ByReference":
        _warn_of_trained_on(model)
        cells = open_cells(source)
        label_key = needed_label_column(cells, label_key)
        with speaking_of(cells.origin):
            cells = cells.with_value_in(label_key, role="label")
            cells = cells.aligned_to(model.genes, allow_low_overlap=allow_low_overlap)
        labels = obs_column(cells.obs, label_key, role="label")
        donor_key = donor_column(cells, donor_key)
        if donor_key is None:
            logger.info(
                "No donor column is named (--donor, donor_key), so confidence is that on new cells of the same "
                "donors, which is too high for others."
            )
        classes = label_classes(labels.to_list(), key=label_key)
        donors = None if donor_key is None else obs_column(cells.obs, donor_key, role="donor")
        donor_code = None if donors is None else pd.factorize(donors)[0].astype(np.int64)
        how = {**naming, "label": label_key, "alpha": alpha, "donor": donor_key or ""}
        return cls(
            cells,
            encode(labels, classes),
            donor_code,
            classes,
            Naming(len(classes), **naming),
            CellHashes.of(cells),
            how,
            allow_low_overlap,
        )

    def answer(self, model: TrainedModel, cells: Cells) -> _Found:
        shown = on_common_genes(self.cells, cells, allow_low_overlap=self.allow_low_overlap)
        reference = calibrated_reference(
            embed_counts(model.encoder, shown.reference.counts, show_progress=True),
            self.label_code[shown.rows],
            self.naming,
            donor_code=None if self.donor_code is None else self.donor_code[shown.rows],
            alpha=self.how["alpha"],
        )
        assigned = reference.assign(embed_counts(model.encoder, shown.query.counts, show_progress=True))
        return _Found(
            assigned.label_code,
            assigned.confidence,
            assigned.is_unknown,
            assigned.distance,
            assigned.share_farther,
            assigned.sets,
            {"temperature": reference.temperature, "n_common_genes": shown.n_genes},
        )


def _check_that_new(cells: Cells, known: CellHashes | None, *, is_reference: bool) -> None:
    """Warn of cells of which the type is known already, and refuse where it is of all, from a reference.

    Raises
    ------
    InputError
        If all cells are in the reference.
    """
    n_known = 0 if known is None else int(CellHashes.of(cells).found_in(known).sum())
    if n_known == len(cells) and is_reference:
        raise InputError(
            f"All cells of {cells.origin} are in the reference: each would be named by itself, and confidence would "
            "say nothing. Annotate other cells."
        )
    if n_known:
        logger.warning(
            "%s of the %s cells are %s, so their confidence is too high: it is meant for new cells.",
            f"{n_known:,}",
            f"{len(cells):,}",
            "in the reference too" if is_reference else "among those that the classifier was trained on",
        )


def _warn_of_distance(is_unknown: np.ndarray, key_added: str) -> None:
    """Say what it means if most cells are called unknown."""
    if (share := float(is_unknown.mean())) > MOST:
        logger.warning(
            "%.0f %% of the cells are farther from the reference than its own cells are from one another. That is what "
            "another technology or study looks like, more than types that are not known. Their types may be right all "
            "the same: go by %s_confidence and %s_set rather than by %s_is_unknown.",
            100 * share,
            key_added,
            key_added,
            key_added,
        )


def _warn_of_trained_on(model: TrainedModel) -> None:
    if model.labels is not None:
        logger.warning(
            "%s was fine-tuned with labels. If these cells of the reference were among those, they lie closer together "
            "than new ones, and confidence comes out too high: leave the reference out, so that the model's own "
            "classifier answers, or use the pre-trained run that it began from.",
            model.path,
        )


class _ByClassifier(NamedTuple):
    """A fine-tuned model's own head answers."""

    classes: tuple[str, ...]
    confidence: ClassifierConfidence
    known: CellHashes | None
    """Of the cells that it was trained on, if its run has kept them."""
    how: dict[str, Any]

    @classmethod
    def of(cls, model: TrainedModel, alpha: float) -> "_ByClassifier":
        if model.labels is None:
            raise InputError(
                f"{model.path} has no cell-type classifier. Give labelled cells with reference=... and label_key=... "
                "(--reference FILE --label COLUMN), or fine-tune it first: selfcell finetune."
            )
        confidence = ClassifierConfidence.of_manifest(model.manifest, alpha=alpha)
        if not confidence.is_calibrated:
            logger.warning(
                "No cells were held out to calibrate the classifier on, or fewer than %d, so its confidence is not "
                "calibrated and no cell is called unknown. Fine-tune with --validation-fraction 0.15 or more for that.",
                N_TO_CALIBRATE,
            )
        else:
            logger.info(
                "A classifier calls unknown what it is not sure of. How far a cell is from all that is known it cannot "
                "tell: a labelled reference can (--reference)."
            )
        known = None if model.known_cells is None else model.known_cells.learned_from
        how = {"by": "classifier", "temperature": confidence.temperature, "alpha": alpha}
        return cls(model.labels, confidence, known, how)

    def answer(self, model: TrainedModel, cells: Cells) -> _Found:
        probability = self.confidence.probability(classify(model.encoder, trained_head(model), cells))
        code = probability.argmax(axis=1)
        confidence = probability[np.arange(len(code)), code]
        sets = self.confidence.sets(probability) if self.confidence.is_calibrated else None
        return _Found(code, confidence, self.confidence.is_unknown(probability), None, None, sets, {})
