"""Embed cells: an encoder and counts in, one vector a cell out."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import scipy.sparse as sp
import torch
from tqdm import tqdm

from selfcell.core.errors import InputError
from selfcell.data.counts import Scale
from selfcell.data.loader import cell_loader
from selfcell.data.source import Cells, open_cells, refuse_mudata
from selfcell.data.streamed import StreamedCells
from selfcell.network.compute import quick_float32
from selfcell.network.encoder import MlpEncoder
from selfcell.training.run_folder import TrainedModel, describe_environment, load

CELLS_AT_ONCE = 4096


def embed(
    adata: anndata.AnnData | Any,  # MuData is refused with words
    model: TrainedModel | str | Path,
    *,
    key_added: str = "X_selfcell",
    layer: str | None = None,
    scale: Scale = "auto",
    gene_column: str | None = None,
    allow_low_overlap: bool = False,
) -> None:
    """Write the embedding of every cell into ``adata.obsm[key_added]``, and how it was made into ``adata.uns``.

    Nothing else of ``adata`` changes. The embedding of a cell depends on that cell and the encoder alone.

    Parameters
    ----------
    adata
        Cells with raw counts.
    model
        A loaded model, or a run folder.
    key_added
        Key of ``obsm``; provenance goes to ``uns["selfcell"][key_added]``.
    layer, scale, gene_column
        Where the counts are, what they are, which column of ``var`` names the genes;
        see :func:`selfcell.data.source.open_cells`.
    allow_low_overlap
        Go on where under half of the encoder's genes are there.

    Raises
    ------
    InputError
        If the cells have no counts, or their genes do not match the encoder's.

    Examples
    --------
    >>> adata = anndata.read_h5ad("cells.h5ad")
    >>> selfcell.embed(adata, "runs/mae")
    >>> adata.obsm["X_selfcell"].shape[1]
    64
    """
    refuse_mudata(adata, "embed")
    model = as_model(model)
    refuse_foreign_key(adata, key_added, adata.obsm, "obsm")
    cells = open_cells(adata, layer=layer, scale=scale, gene_column=gene_column)
    cells = cells.aligned_to(model.genes, allow_low_overlap=allow_low_overlap)
    adata.obsm[key_added] = embed_counts(model.encoder, cells.counts, show_progress=True)
    write_provenance(adata, key_added, model, cells)


def embed_counts(encoder: MlpEncoder, counts: sp.csr_matrix, *, show_progress: bool = False) -> np.ndarray:
    """Embed counts that are in the encoder's order of genes.

    Returns
    -------
    Cells x ``n_latent``, float32.

    Raises
    ------
    FloatingPointError
        If the encoder gives values that are not finite.
    """
    encoder.eval()
    device = next(encoder.parameters()).device
    parts = []
    minibatches = cell_loader(counts, minibatch_size=CELLS_AT_ONCE)
    with torch.inference_mode(), quick_float32(exact=device.type != "cpu"):
        for minibatch in tqdm(
            minibatches, desc="Embedding", unit=" minibatches", disable=None if show_progress else True, leave=False
        ):
            parts.append(encoder(minibatch.to(device).sparse_expression()).cpu().numpy())
    embedding = np.concatenate(parts)
    if not np.isfinite(embedding).all():
        raise FloatingPointError("The encoder gives embeddings that are not finite; its weights are probably damaged.")
    return embedding


def refuse_foreign_key(adata: anndata.AnnData, key: str, where: Any, name: str, *, argument: str = "key_added") -> None:
    """Refuse to write over something that an earlier call of ours did not write.

    Raises
    ------
    InputError
        If the key is taken.
    """
    ours = adata.uns.get("selfcell", {})
    if key in where and not (isinstance(ours, dict) and key in ours):
        raise InputError(
            f"{name}[{key!r}] is there already and was not written by selfcell: choose another {argument}."
        )


def as_model(model: TrainedModel | str | Path) -> TrainedModel:
    """Load a model if a path is given."""
    return model if isinstance(model, TrainedModel) else load(model)


def write_provenance(
    adata: anndata.AnnData, key: str, model: TrainedModel, cells: Cells | StreamedCells, **more: Any
) -> None:
    """Write into ``adata.uns["selfcell"][key]`` what made a result: strings and numbers only, so that it fits .h5ad.

    Raises
    ------
    InputError
        If ``uns["selfcell"]`` holds something that is not ours.
    """
    record = adata.uns.setdefault("selfcell", {})
    if not isinstance(record, dict):
        raise InputError("adata.uns['selfcell'] holds something else; rename it first.")
    alignment = cells.alignment
    record[key] = {
        "model": model.name,
        "kind": model.manifest["kind"],
        "seed": model.manifest["seed"],
        "model_data_fingerprint": model.manifest["data"]["fingerprint"],
        "counts_from": cells.counts_address,
        "scale": cells.scale,
        "share_of_genes": alignment.share_of_genes if alignment else 1.0,
        "share_of_counts": alignment.share_of_counts if alignment else 1.0,
        "selfcell_version": describe_environment()["versions"]["selfcell"],
        **more,
    }
