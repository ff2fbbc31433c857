"""Annotate cells with types, from a labelled reference or with a fine-tuned classifier."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from selfcell.core.errors import InputError
from selfcell.data.counts import Scale
from selfcell.data.source import Cells, CellSource, encode, obs_column, open_cells
from selfcell.downstream.cell_type import classifier_head, classify, label_classes
from selfcell.downstream.embed import as_model, embed_counts, refuse_foreign_key, write_provenance
from selfcell.downstream.neighbors import N_NEIGHBORS, Vote, vote_of_neighbors
from selfcell.training.run_folder import TrainedModel


def annotate(
    query: anndata.AnnData,
    model: TrainedModel | str | Path,
    *,
    reference: CellSource | None = None,
    label_key: str | None = None,
    key_added: str = "predicted_type",
    n_neighbors: int = N_NEIGHBORS,
    layer: str | None = None,
    scale: Scale = "auto",
    gene_column: str | None = None,
    allow_low_overlap: bool = False,
) -> None:
    """Write a type and a confidence for every cell into ``query.obs``.

    With a reference, the nearest labelled cells in the embedding vote, and the confidence is the share that agreed.
    Without one, a fine-tuned model's own classifier is used, and the confidence is its probability. Neither is
    calibrated: 0.9 does not mean that nine in ten are right.

    Parameters
    ----------
    query
        Cells to annotate. Only ``obs[key_added]`` (categorical), ``obs[key_added + "_confidence"]`` and
        ``uns["selfcell"][key_added]`` are written.
    model
        A loaded model, or a run folder.
    reference
        Labelled cells: an AnnData, or the path of an .h5ad file or .zarr folder.
    label_key
        Column of the reference's ``obs`` with the types.
    key_added
        Column to write.
    n_neighbors
        Reference cells that vote.
    layer, scale, gene_column, allow_low_overlap
        As in :func:`selfcell.embed`; ``layer``, ``scale`` and ``gene_column`` are those of the query, and the
        reference's are found by themselves.

    Raises
    ------
    InputError
        If reference and label do not go together, or the cells cannot be worked with.
    """
    model = as_model(model)
    if (reference is None) != (label_key is None):
        raise InputError("A reference and its label column go together: give both reference and label_key, or neither.")
    refuse_foreign_key(query, key_added, query.obs, "obs")
    # The smaller chore first: a fault in the reference shows before the query is read.
    prepared = None if reference is None or label_key is None else _prepare_reference(reference, label_key, model)
    cells = open_cells(query, layer=layer, scale=scale, gene_column=gene_column)
    cells = cells.aligned_to(model.genes, allow_low_overlap=allow_low_overlap)
    if prepared is None:
        vote, classes = _by_classifier(model, cells)
    else:
        embedding, codes, classes = prepared
        query_embedding = embed_counts(model.encoder, cells.counts, show_progress=True)
        vote = vote_of_neighbors(embedding, codes, query_embedding, n_neighbors=n_neighbors)
    query.obs[key_added] = pd.Categorical.from_codes(vote.label_code, categories=list(classes))
    query.obs[f"{key_added}_confidence"] = vote.confidence.astype(np.float32)
    how = (
        {"by": "classifier"}
        if prepared is None
        else {"by": "neighbors", "n_neighbors": n_neighbors, "label": str(label_key)}
    )
    write_provenance(query, key_added, model, cells, **how)


def _prepare_reference(
    reference: CellSource, label_key: str, model: TrainedModel
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    cells = open_cells(reference).aligned_to(model.genes)
    labels = obs_column(cells.obs, label_key, role="label")
    classes = label_classes(labels.to_list(), key=label_key)
    return embed_counts(model.encoder, cells.counts, show_progress=True), encode(labels, classes), classes


def _by_classifier(model: TrainedModel, cells: Cells) -> tuple[Vote, tuple[str, ...]]:
    if model.labels is None:
        raise InputError(
            f"{model.path} has no cell-type classifier. Give labelled cells with reference=... and label_key=... "
            "(--reference FILE --label COLUMN), or fine-tune it first: selfcell finetune."
        )
    head = classifier_head(model.encoder, n_classes=len(model.labels))
    head.load_state_dict({name.removeprefix("head."): tensor for name, tensor in model.head_state.items()})
    probability = classify(model.encoder, head, cells)
    return Vote(probability.argmax(axis=1), probability.max(axis=1)), model.labels
