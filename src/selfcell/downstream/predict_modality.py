"""Predict proteins or chromatin of cells, with a model that was fine-tuned for it or from a reference."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import numpy as np

from selfcell.core.errors import InputError, did_you_mean
from selfcell.data.cell_hashes import CellHashes
from selfcell.data.counts import Scale
from selfcell.data.source import Cells, CellSource, open_cells, refuse_mudata
from selfcell.downstream.cross_modality import CrossModalitySettings
from selfcell.downstream.embed import as_model, refuse_foreign_key, write_provenance
from selfcell.downstream.target_head import TargetHead, predict_targets
from selfcell.downstream.target_reference import TargetReference
from selfcell.downstream.target_space import TargetPrediction
from selfcell.training.run_folder import TrainedModel, read_settings

logger = logging.getLogger(__name__)

MOST_ENTRIES = 2**30
"""Cells x targets up to which predictions are written: four gigabytes."""


def predict_modality(
    adata: anndata.AnnData | Any,  # MuData is refused with words
    model: TrainedModel | str | Path,
    *,
    reference: CellSource | None = None,
    target: str | None = None,
    by: str | None = None,
    donor_key: str | None = None,
    settings: CrossModalitySettings | Mapping[str, Any] | None = None,
    key_added: str | None = None,
    names: Sequence[str] | None = None,
    layer: str | None = None,
    scale: Scale = "auto",
    gene_column: str | None = None,
    allow_low_overlap: bool = False,
) -> str:
    """Write predicted proteins or chromatin of every cell into ``adata.obsm[key_added]``.

    A model that was fine-tuned for it needs nothing else. Any other is given a reference, cells of which both were
    measured: of a new cell the mean of the nearest of them is predicted, or a ridge regression on the embedding is
    fitted to them. These are the regimes ``zero_shot`` and ``probe`` of :func:`selfcell.evaluate`.

    Values are on the scale of the transform, ``log1p`` of raw counts for proteins unless that was set otherwise; it is
    told in ``uns["selfcell"][key_added]``. Of the cells only genes are looked at.

    Parameters
    ----------
    adata
        Cells with raw counts. Besides ``obsm[key_added]`` (cells x targets, float32) the names of the targets are
        written, into ``uns[key_added + "_names"]``.
    model
        A model fine-tuned for ``cross_modality``, or any other with a reference; or its run folder.
    reference
        Cells with the targets in ``obsm``: an AnnData, or the path of an .h5ad or .h5mu file or .zarr folder.
    target
        Key of the reference's ``obsm`` with what is predicted, such as ``protein_counts``.
    by
        ``ridge`` (the default): a ridge regression on the embedding; ``knn``: the mean of the nearest reference cells.
    donor_key
        Column of the reference's ``obs`` with the donors, on whole ones of which a ridge's penalty is chosen;
        ``donor_id`` if left out and there, an empty text for none.
    settings
        Further settings of the task: ``transform``, ``rank``, ``names_key`` and ``kind``; ``n_neighbors`` and
        ``weights`` of ``knn``. See :class:`~selfcell.downstream.cross_modality.CrossModalitySettings`.
    key_added
        Key of ``obsm``; ``predicted_`` and the key of the targets if left out, such as
        ``predicted_protein_counts``.
    names
        The targets to predict, in the order wanted; all of them if left out.
    layer, scale, gene_column, allow_low_overlap
        As in :func:`selfcell.embed`. ``layer``, ``scale`` and ``gene_column`` are those of ``adata``, and the
        reference's are found by themselves.

    Returns
    -------
    The key of ``obsm``.

    Raises
    ------
    InputError
        If the model predicts no targets, or not these, and there is no reference; if there is one for a model that was
        fine-tuned for targets, or it has all of the cells; if cells or reference cannot be worked with; or if there
        were more than a thousand million values.

    Examples
    --------
    >>> cells = anndata.read_h5ad("query.h5ad")
    >>> key = selfcell.predict_modality(cells, "runs/proteins", names=["CD3", "CD19"])
    >>> cells.obsm[key].shape[1]
    2
    >>> selfcell.predict_modality(
    ...     cells, "runs/mae", reference="cite.h5ad", target="protein_counts", by="knn", key_added="by_neighbors"
    ... )
    'by_neighbors'
    """
    refuse_mudata(adata, "predict_modality")
    model = as_model(model)
    asked: _OwnHead | TargetReference
    if reference is None:
        _refuse_unused({"target": target, "by": by, "donor_key (--donor)": donor_key, "settings (--set)": settings})
        asked = _OwnHead.of(model)
    else:
        settings = _with_target(settings, target)
        asked = TargetReference.of(
            reference, model, settings, by=by or "ridge", donor_key=donor_key, allow_low_overlap=allow_low_overlap
        )
    key_added = f"predicted_{asked.target}" if key_added is None else key_added
    refuse_foreign_key(adata, key_added, adata.obsm, "obsm")
    chosen = _positions(names, asked.names, asked.origin)
    if adata.n_obs * len(chosen) > MOST_ENTRIES:
        raise InputError(
            f"{adata.n_obs:,} cells x {len(chosen):,} targets are too many to write at once. Name those that are "
            "wanted (names, --only), or predict some of the cells at a time."
        )
    cells = open_cells(adata, layer=layer, scale=scale, gene_column=gene_column)
    cells = cells.aligned_to(model.genes, allow_low_overlap=allow_low_overlap)
    prediction = _some(asked.predict(model, cells), chosen)
    adata.obsm[key_added] = np.concatenate([prediction.rows(block) for block in prediction.blocks()])
    adata.uns[f"{key_added}_names"] = np.array([asked.names[position] for position in chosen], dtype=object)
    write_provenance(adata, key_added, model, cells, **asked.how)
    return key_added


class _OwnHead(NamedTuple):
    """The head of a model that was fine-tuned for targets answers."""

    model: TrainedModel
    target: str
    names: Sequence[str]
    origin: str

    @classmethod
    def of(cls, model: TrainedModel) -> "_OwnHead":
        if model.manifest.get("task") != "cross_modality":
            raise InputError(
                f"{model.path} was not trained to predict another modality. Fine-tune it first: selfcell finetune "
                "MODEL CELLS --task cross_modality --target KEY. Or give cells of which both were measured: "
                "reference=... and target=... (--reference FILE --target KEY)."
            )
        return cls(model, model.manifest["target"], model.manifest["target_names"], str(model.path))

    @property
    def how(self) -> dict[str, Any]:
        return {"target": self.target, "transform": self.model.manifest["transform"]}

    def predict(self, model: TrainedModel, cells: Cells) -> TargetPrediction:
        _warn_of_known_cells(cells, model)
        return predict_targets(model.encoder, stored_head(model), cells)


def _refuse_unused(given: Mapping[str, Any]) -> None:
    if unused := [name for name, value in given.items() if value is not None]:
        raise InputError(f"{' and '.join(unused)} is for a reference (--reference), but there is none.")


def _with_target(
    settings: CrossModalitySettings | Mapping[str, Any] | None, target: str | None
) -> CrossModalitySettings | Mapping[str, Any]:
    if isinstance(settings, CrossModalitySettings):
        return settings if target is None else settings.model_copy(update={"target": target})
    return {**(settings or {}), **({} if target is None else {"target": target})}


def _warn_of_known_cells(cells: Cells, model: TrainedModel) -> None:
    if model.known_cells is None:
        return
    n_known = int(CellHashes.of(cells).found_in(model.known_cells.learned_from).sum())
    if n_known:
        logger.warning(
            "%s of the %s cells are among those that the model was trained on: what is predicted of them is closer to "
            "what was measured than it is of new cells.",
            f"{n_known:,}",
            f"{len(cells):,}",
        )


def stored_head(model: TrainedModel) -> TargetHead:
    """Give the head of a model that was fine-tuned for ``cross_modality``."""
    settings = read_settings(model.path)["cross_modality"]
    state = {name.removeprefix("head."): tensor for name, tensor in model.head_state.items()}
    return TargetHead.from_state(
        model.encoder, state, transform=model.manifest["transform"], hidden_size=settings["hidden_size"]
    )


def _positions(names: Sequence[str] | None, known: Sequence[str], origin: str) -> np.ndarray:
    position_of = {name: position for position, name in enumerate(known)}
    if names is None:
        return np.arange(len(position_of))
    by_lower = {name.lower(): position for name, position in position_of.items()}
    for name in names:
        if name.lower() not in by_lower:
            raise InputError(f"{origin} does not predict {name!r}. {did_you_mean(name, list(known))}")
    found = [position_of.get(name, by_lower[name.lower()]) for name in names]
    return np.array(list(dict.fromkeys(found)), dtype=np.int64)


def _some(prediction: TargetPrediction, chosen: np.ndarray) -> TargetPrediction:
    """Keep some of the targets."""
    if prediction.right is None:
        return TargetPrediction(prediction.left[:, chosen], None, prediction.offset[chosen], prediction.link)
    return TargetPrediction(prediction.left, prediction.right[:, chosen], prediction.offset[chosen], prediction.link)
