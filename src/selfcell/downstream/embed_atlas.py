"""Embed the cells of an atlas as a stream: one vector a cell in memory, and no counts."""

import warnings
from pathlib import Path

import anndata
import numpy as np
import torch
from tqdm import tqdm

from selfcell.core.errors import InputError
from selfcell.data.atlas.cells import AtlasObs, open_atlas
from selfcell.data.loader import CellLoader
from selfcell.data.minibatch import CellMinibatch
from selfcell.data.order import BlockOrder
from selfcell.data.schedule import Schedule
from selfcell.data.streamed import StreamedCells
from selfcell.downstream.embed import CELLS_AT_ONCE, as_model, write_provenance
from selfcell.network.compute import quick_float32
from selfcell.network.encoder import MlpEncoder
from selfcell.training.run_folder import TrainedModel

_BLOCK = 1024


def embed_atlas(
    path: str | Path,
    model: TrainedModel | str | Path,
    *,
    key_added: str = "X_selfcell",
    where: str | None = None,
    allow_low_overlap: bool = False,
    cache_folder: str | Path | None = None,
    n_threads: int = 1,
) -> anndata.AnnData:
    """Embed the cells of an atlas, read block by block; the embedding of a cell is that of :func:`selfcell.embed`.

    Parameters
    ----------
    path
        Folder or URL of the atlas.
    model
        A loaded model, or a run folder.
    key_added
        Key of ``obsm``; provenance goes to ``uns["selfcell"][key_added]``.
    where
        A query on obs, as :meth:`pandas.DataFrame.query` takes it; None for all cells.
    allow_low_overlap
        Go on where under half of the encoder's genes are there.
    cache_folder
        For a URL, as in :func:`selfcell.data.atlas.cells.open_atlas`.
    n_threads
        Threads that read ahead.

    Returns
    -------
    The cells in the order of the atlas with obs and ``obsm``, but without genes and counts: memory has to hold the
    embedding and what is known of the cells.

    Raises
    ------
    InputError
        If there is no atlas, its genes do not match the encoder's, no cell fits the query, or a cell has no counts in
        the encoder's genes.
    FloatingPointError
        If the encoder gives values that are not finite.

    Examples
    --------
    >>> embedded = selfcell.embed_atlas("atlas", "runs/mae", where="tissue == 'lung'")
    >>> embedded.obsm["X_selfcell"].shape[1]
    64
    """
    model = as_model(model)
    cells = open_atlas(path, cache_folder=cache_folder)
    if where is not None:
        cells = cells.where(where)
    aligned = cells.aligned_to(model.genes, allow_low_overlap=allow_low_overlap)
    embedding = _embed_stream(model.encoder, aligned, n_threads=n_threads)
    assert isinstance(cells.obs, AtlasObs)
    with warnings.catch_warnings():
        # Cells of several inputs may share a name, as they do in the atlas.
        warnings.filterwarnings("ignore", message=".*names are not unique.*")
        adata = anndata.AnnData(obs=cells.obs.table(cells.subset), obsm={key_added: embedding})
    write_provenance(adata, key_added, model, aligned, atlas=str(path), **({} if where is None else {"where": where}))
    return adata


def _embed_stream(encoder: MlpEncoder, cells: StreamedCells, *, n_threads: int) -> np.ndarray:
    encoder.eval()
    device = next(encoder.parameters()).device
    order = BlockOrder(
        cells.rows.boundaries, cells.subset, shuffle_seed=None, block_size=_BLOCK, buffer_size=CELLS_AT_ONCE
    )
    loader = CellLoader(cells.rows, Schedule(order, CELLS_AT_ONCE), n_threads=n_threads)
    embedding = np.empty((len(cells), encoder.n_latent), dtype=np.float32)
    at = 0
    with (
        torch.inference_mode(),
        quick_float32(exact=device.type != "cpu"),
        tqdm(total=len(cells), desc="Embedding", unit=" cells", unit_scale=True, disable=None) as bar,
    ):
        for minibatch in loader:
            _refuse_empty_cells(minibatch, cells)
            part = encoder(minibatch.to(device).sparse_expression()).cpu().numpy()
            embedding[at : at + len(part)] = part
            at += len(part)
            bar.update(len(part))
    if not np.isfinite(embedding).all():
        raise FloatingPointError("The encoder gives embeddings that are not finite; its weights are probably damaged.")
    return embedding


def _refuse_empty_cells(minibatch: CellMinibatch, cells: StreamedCells) -> None:
    n_empty = int((minibatch.cell_offsets.diff() == 0).sum())
    if n_empty:
        raise InputError(
            f"{n_empty:,} of {minibatch.n_cells:,} cells of {cells.origin} that were read at one go have no counts in "
            "the genes used. Leave them out by a query (--where), or build the atlas on the encoder's genes "
            "(selfcell atlas build --genes RUN), which does so."
        )
