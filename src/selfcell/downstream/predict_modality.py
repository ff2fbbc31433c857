"""Predict proteins or chromatin of cells with a model that was fine-tuned for it."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import anndata
import numpy as np

from selfcell.core.errors import InputError, did_you_mean
from selfcell.data.cell_hashes import CellHashes
from selfcell.data.counts import Scale
from selfcell.data.source import Cells, open_cells, refuse_mudata
from selfcell.downstream.embed import as_model, refuse_foreign_key, write_provenance
from selfcell.downstream.target_head import TargetHead, predict_targets
from selfcell.downstream.target_space import TargetPrediction
from selfcell.training.run_folder import TrainedModel, read_settings

logger = logging.getLogger(__name__)

MOST_ENTRIES = 2**30
"""Cells x targets up to which predictions are written: four gigabytes."""


def predict_modality(
    adata: anndata.AnnData | Any,  # MuData is refused with words
    model: TrainedModel | str | Path,
    *,
    key_added: str | None = None,
    names: Sequence[str] | None = None,
    layer: str | None = None,
    scale: Scale = "auto",
    gene_column: str | None = None,
    allow_low_overlap: bool = False,
) -> str:
    """Write predicted proteins or chromatin of every cell into ``adata.obsm[key_added]``.

    Values are on the scale that the model was trained for, ``log1p`` of raw counts for proteins unless that was set
    otherwise; it is told in ``uns["selfcell"][key_added]``. Of the cells only genes are looked at.

    Parameters
    ----------
    adata
        Cells with raw counts. Besides ``obsm[key_added]`` (cells x targets, float32) the names of the targets are
        written, into ``uns[key_added + "_names"]``.
    model
        A model fine-tuned for ``cross_modality``, or its run folder.
    key_added
        Key of ``obsm``; ``predicted_`` and the key that the model was trained on if left out, such as
        ``predicted_protein_counts``.
    names
        The targets to predict, in the order wanted; all of them if left out.
    layer, scale, gene_column, allow_low_overlap
        As in :func:`selfcell.embed`.

    Returns
    -------
    The key of ``obsm``.

    Raises
    ------
    InputError
        If the model predicts no targets, or not these; if the cells cannot be worked with; or if there were more than
        a thousand million values.

    Examples
    --------
    >>> cells = anndata.read_h5ad("query.h5ad")
    >>> key = selfcell.predict_modality(cells, "runs/proteins", names=["CD3", "CD19"])
    >>> cells.obsm[key].shape[1]
    2
    """
    refuse_mudata(adata, "predict_modality")
    model = as_model(model)
    if model.manifest.get("task") != "cross_modality":
        raise InputError(
            f"{model.path} was not trained to predict another modality. Fine-tune it first: selfcell finetune MODEL "
            "CELLS --task cross_modality --target KEY."
        )
    key_added = f"predicted_{model.manifest['target']}" if key_added is None else key_added
    refuse_foreign_key(adata, key_added, adata.obsm, "obsm")
    chosen = _positions(names, model)
    known = model.manifest["target_names"]
    if adata.n_obs * len(chosen) > MOST_ENTRIES:
        raise InputError(
            f"{adata.n_obs:,} cells x {len(chosen):,} targets are too many to write at once. Name those that are "
            "wanted (names, --only), or predict some of the cells at a time."
        )
    cells = open_cells(adata, layer=layer, scale=scale, gene_column=gene_column)
    cells = cells.aligned_to(model.genes, allow_low_overlap=allow_low_overlap)
    _warn_of_known_cells(cells, model)
    prediction = _some(predict_targets(model.encoder, stored_head(model), cells), chosen)
    adata.obsm[key_added] = np.concatenate([prediction.rows(block) for block in prediction.blocks()])
    adata.uns[f"{key_added}_names"] = np.array([known[position] for position in chosen], dtype=object)
    write_provenance(
        adata, key_added, model, cells, target=model.manifest["target"], transform=model.manifest["transform"]
    )
    return key_added


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


def _positions(names: Sequence[str] | None, model: TrainedModel) -> np.ndarray:
    known = {name: position for position, name in enumerate(cast("list[str]", model.manifest["target_names"]))}
    if names is None:
        return np.arange(len(known))
    by_lower = {name.lower(): position for name, position in known.items()}
    for name in names:
        if name.lower() not in by_lower:
            raise InputError(f"{model.path} does not predict {name!r}. {did_you_mean(name, list(known))}")
    found = [known.get(name, by_lower[name.lower()]) for name in names]
    return np.array(list(dict.fromkeys(found)), dtype=np.int64)


def _some(prediction: TargetPrediction, chosen: np.ndarray) -> TargetPrediction:
    """Keep some of the targets."""
    if prediction.right is None:
        return TargetPrediction(prediction.left[:, chosen], None, prediction.offset[chosen], prediction.link)
    return TargetPrediction(prediction.left, prediction.right[:, chosen], prediction.offset[chosen], prediction.link)
