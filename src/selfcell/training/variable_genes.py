"""Training on the most variable genes alone."""

import logging

from selfcell.core.errors import InputError
from selfcell.data.genes import GeneTable
from selfcell.data.highly_variable import highly_variable_genes
from selfcell.data.source import Cells
from selfcell.data.splits import Split
from selfcell.data.stream import AnyCells
from selfcell.data.stream_split import StreamSplit

logger = logging.getLogger(__name__)

FEW_CELLS, MANY_GENES = 20_000, 5_000
"""For so few cells of so many genes it is said that fewer genes may be better."""


def with_variable_genes(cells: AnyCells, split: Split | StreamSplit, *, n_top_genes: int | None) -> AnyCells:
    """Keep the genes that vary most among the training cells; all of them if no number is given.

    Parameters
    ----------
    cells
        All cells.
    split
        Which of them are for training; no others are looked at.
    n_top_genes
        Genes to keep, ranked as by Seurat 3 (:func:`selfcell.data.highly_variable.standardized_variance`).

    Raises
    ------
    InputError
        If cells are read from disk, or some have no counts of the genes that are kept.
    """
    if n_top_genes is None:
        if isinstance(cells, Cells) and len(split.train) <= FEW_CELLS and len(cells.genes) >= MANY_GENES:
            logger.info(
                "%s cells are few for %s genes: an encoder of the 2,000 most variable ones, --n-top-genes 2000 "
                "(data.n_top_genes), was better on all such data that we judged on.",
                f"{len(split.train):,}",
                f"{len(cells.genes):,}",
            )
        return cells
    if not isinstance(cells, Cells) or not isinstance(split, Split):
        raise InputError(
            "data.n_top_genes (--n-top-genes) looks at the counts of all training cells, so they must be in memory: "
            "give a file without --backed, or leave it out and build the atlas from files with fewer genes."
        )
    if n_top_genes >= len(cells.genes):
        return cells
    kept = highly_variable_genes(cells.counts[split.train], n_genes=n_top_genes)
    logger.info("%s of %s genes are kept, those that vary most.", f"{len(kept):,}", f"{len(cells.genes):,}")
    genes = GeneTable(tuple(cells.genes.ids[k] for k in kept), tuple(cells.genes.symbols[k] for k in kept))
    return cells.aligned_to(genes, allow_low_overlap=True)
