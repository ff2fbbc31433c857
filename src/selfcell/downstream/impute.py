"""Impute: cells and a model with a decoder in, the expression that it expects of each gene of each cell out."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anndata
import h5py
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from tqdm import tqdm

from selfcell.core.atomic import atomic_path
from selfcell.core.errors import InputError, did_you_mean
from selfcell.data.counts import Scale
from selfcell.data.genes import GeneTable
from selfcell.data.source import Cells, open_cells, read_adata, refuse_mudata
from selfcell.downstream.decoding import expected_counts, expected_expression, load_autoencoder, require_decoder
from selfcell.downstream.embed import as_model, refuse_foreign_key, write_provenance
from selfcell.downstream.reconstruction_scores import ENTRIES_AT_ONCE
from selfcell.pretext.masked_autoencoder import MaskedAutoencoder
from selfcell.training.run_folder import TrainedModel

logger = logging.getLogger(__name__)

ImputedValues = Literal["log1p", "counts"]
"""What is written: ``log1p`` of counts per 10,000, or counts at each cell's own depth."""


def impute(
    adata: anndata.AnnData | Any,  # MuData is refused with words
    model: TrainedModel | str | Path,
    *,
    layer_added: str = "imputed",
    as_counts: bool = False,
    cells_at_once: int | None = None,
    layer: str | None = None,
    scale: Scale = "auto",
    gene_column: str | None = None,
    allow_low_overlap: bool = False,
) -> None:
    """Write the expression that the model's decoder expects into ``adata.layers[layer_added]``, dense float32.

    The values are ``log1p`` of counts per 10,000 (over the model's genes), never negative; of a model trained on counts
    the ``log1p`` of the mean. What is expected of a cell depends on that cell and the model alone. Genes that the
    model does not know are NaN. Nothing but the layer and ``uns["selfcell"][layer_added]`` is written.

    Expected values are smoother than measured ones: do not test genes for differences on them, since cells are no
    longer independent draws.

    Parameters
    ----------
    adata
        Cells with raw counts.
    model
        A masked autoencoder, or a run that was fine-tuned for reconstruction; loaded, or its run folder.
    layer_added
        Key of ``layers``.
    as_counts
        Write expected counts at each cell's own depth instead. Of a model trained on the squared error these are the
        counts that have the expected ``log1p``, which lie below the mean.
    cells_at_once
        Cells that are decoded together; what there is room for, if left out.
    layer, scale, gene_column, allow_low_overlap
        As in :func:`selfcell.embed`.

    Raises
    ------
    InputError
        If the model has no decoder, the key is taken, or the cells cannot be worked with.

    Examples
    --------
    >>> cells = anndata.read_h5ad("query.h5ad")
    >>> selfcell.impute(cells, "runs/mae")
    >>> expected = cells[:, "CD3E"].layers["imputed"]
    """
    refuse_mudata(adata, "impute")
    model = _with_decoder(model)
    _refuse_key(adata, layer_added)
    cells = _open(adata, model, layer=layer, scale=scale, gene_column=gene_column, allow_low_overlap=allow_low_overlap)
    imputation = Imputation.of(model, cells, as_counts=as_counts)
    imputation.say_what_is_unknown()
    imputed = np.empty((adata.n_obs, adata.n_vars), dtype=np.float32)
    for block, values in imputation.blocks(cells_at_once):
        imputed[block] = values
    adata.layers[layer_added] = imputed
    write_provenance(adata, layer_added, model, cells, values=imputation.values)


def impute_to_file(
    source: str | Path,
    model: TrainedModel | str | Path,
    out: str | Path,
    *,
    layer_added: str = "imputed",
    genes: Sequence[str] | None = None,
    as_counts: bool = False,
    cells_at_once: int | None = None,
    layer: str | None = None,
    scale: Scale = "auto",
    gene_column: str | None = None,
    allow_low_overlap: bool = False,
) -> tuple[int, int]:
    """Write a copy of a file with what :func:`impute` gives, a block of cells at a time.

    The dense layer never stands in memory; the cells as they are in the file do.

    Parameters
    ----------
    source
        The path of an .h5ad file or of a .zarr folder.
    out
        The .h5ad file to write, whole or not at all. It is replaced.
    genes
        Write these genes alone, by their name in ``var_names``, their id or their symbol.
    model, layer_added, as_counts, cells_at_once, layer, scale, gene_column, allow_low_overlap
        As in :func:`impute`.

    Returns
    -------
    Cells and genes in the file.

    Raises
    ------
    InputError
        As :func:`impute`, and if a gene is not in the file or not known to the model.
    """
    model = _with_decoder(model)
    adata = read_adata(source)
    _refuse_key(adata, layer_added)
    cells = _open(adata, model, layer=layer, scale=scale, gene_column=gene_column, allow_low_overlap=allow_low_overlap)
    imputation = Imputation.of(model, cells, as_counts=as_counts)
    if genes is not None:
        columns = _columns_of(genes, adata, model, imputation, gene_column=gene_column)
        imputation = imputation.of_columns(columns)
        adata = adata[:, columns].copy()
    imputation.say_what_is_unknown()
    adata.layers.pop(layer_added, None)
    write_provenance(adata, layer_added, model, cells, values=imputation.values)
    with atomic_path(Path(out)) as temporary:
        adata.write_h5ad(temporary, compression="gzip")
        with h5py.File(temporary, "r+") as file:
            dataset = file["layers"].create_dataset(layer_added, shape=adata.shape, dtype=np.float32)
            dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            for block, values in imputation.blocks(cells_at_once):
                dataset[block] = values
    return int(adata.n_obs), int(adata.n_vars)


@dataclass(frozen=True)
class Imputation:
    """Expected expression of cells, block by block, in the columns of their own file."""

    autoencoder: MaskedAutoencoder
    counts: sp.csr_matrix
    """In the encoder's order of genes."""
    gene_of_column: Int[np.ndarray, " n_columns"]
    """Gene of the encoder that each column is, or -1 if it is none of them."""
    as_counts: bool

    @classmethod
    def of(cls, model: TrainedModel, cells: Cells, *, as_counts: bool) -> "Imputation":
        """Make it of cells that are aligned to a model with a decoder."""
        assert cells.alignment is not None
        column_of_gene = cells.alignment.column_of_gene
        gene_of_column = np.full(cells.alignment.n_columns, -1)
        known = np.flatnonzero(column_of_gene >= 0)
        gene_of_column[column_of_gene[known]] = known
        return cls(load_autoencoder(model), cells.counts, gene_of_column, as_counts)

    @property
    def values(self) -> ImputedValues:
        """What is given."""
        return "counts" if self.as_counts else "log1p"

    def say_what_is_unknown(self) -> None:
        """Say how many columns will be NaN."""
        if n_unknown := int((self.gene_of_column < 0).sum()):
            logger.info(
                "%s of %s genes are not among the encoder's: they are NaN in what is written.",
                f"{n_unknown:,}",
                f"{len(self.gene_of_column):,}",
            )

    def of_columns(self, columns: Int[np.ndarray, " n_chosen"]) -> "Imputation":
        """Give some of the columns alone."""
        return Imputation(self.autoencoder, self.counts, self.gene_of_column[columns], self.as_counts)

    def blocks(
        self, cells_at_once: int | None = None
    ) -> Iterator[tuple[slice, Float[np.ndarray, "n_cells n_columns"]]]:
        """Give the expected values of some cells after another, with where they belong; NaN for unknown genes."""
        n_cells, n_genes = self.counts.shape
        size = cells_at_once or max(1, ENTRIES_AT_ONCE // n_genes)
        expected = expected_counts if self.as_counts else expected_expression
        known = self.gene_of_column >= 0
        with tqdm(total=n_cells, desc="Imputing", unit=" cells", unit_scale=True, disable=None, leave=False) as bar:
            for start in range(0, n_cells, size):
                block = slice(start, min(start + size, n_cells))
                of_genes = expected(self.autoencoder, self.counts[block])
                values = np.full((len(of_genes), len(known)), np.nan, dtype=np.float32)
                values[:, known] = of_genes[:, self.gene_of_column[known]]
                yield block, values
                bar.update(len(values))


def _with_decoder(model: TrainedModel | str | Path) -> TrainedModel:
    model = as_model(model)
    require_decoder(
        model,
        remedy="Train one, from the encoder of a pre-trained run: selfcell finetune RUN CELLS --task reconstruction.",
    )
    return model


def _refuse_key(adata: anndata.AnnData, key: str) -> None:
    if "/" in key or not key:
        raise InputError(f"{key!r} cannot be the name of a layer: choose another layer_added, without a slash.")
    if key == "counts":
        raise InputError(
            "layers['counts'] is where raw counts are looked for, and what is imputed is none: choose another "
            "layer_added (--layer-added)."
        )
    refuse_foreign_key(adata, key, adata.layers, "layers", argument="layer_added")


def _open(adata: anndata.AnnData, model: TrainedModel, *, allow_low_overlap: bool, **how: Any) -> Cells:
    cells = open_cells(adata, **how)
    if cells.counts_address == "raw.X":
        raise InputError(
            "The counts are in raw.X, whose genes need not be those of the layers. Make cells of it first: "
            "adata.raw.to_adata()."
        )
    return cells.aligned_to(model.genes, allow_low_overlap=allow_low_overlap)


def _columns_of(
    genes: Sequence[str],
    adata: anndata.AnnData,
    model: TrainedModel,
    imputation: Imputation,
    *,
    gene_column: str | None,
) -> Int[np.ndarray, " n_chosen"]:
    """Find genes by name: those of the file, or what the model calls the gene in a column."""
    place = {name: column for column, name in enumerate(adata.var_names)}
    own = GeneTable.from_var(adata.var, gene_column=gene_column)
    for column, (gene, *names) in enumerate(zip(imputation.gene_of_column, own.symbols, own.ids, strict=True)):
        known = [model.genes.symbols[gene], model.genes.ids[gene]] if gene >= 0 else []
        for name in filter(None, [*names, *known]):
            place.setdefault(name, column)
    by_lower = {name.lower(): column for name, column in place.items()}
    found = {gene: place.get(gene, by_lower.get(gene.lower(), -1)) for gene in genes}
    for gene, column in found.items():
        if column < 0:
            raise InputError(f"There is no gene {gene!r} in the cells. {did_you_mean(gene, list(place))}")
        if imputation.gene_of_column[column] < 0:
            raise InputError(
                f"{gene} is not among the {len(model.genes):,} genes of {model.path}, and no other can be imputed. "
                "Leave it out, or pre-train on more genes: a larger --n-top-genes, or none."
            )
    return np.array(list(dict.fromkeys(found.values())), dtype=np.int64)
