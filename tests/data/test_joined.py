import dataclasses

import numpy as np
import pytest

from selfcell.core.errors import InputError
from selfcell.data.joined import join_cells


def test_cells_of_two_sources_stand_one_behind_the_other(cells):
    first, second = cells.subset(np.arange(3)), cells.subset(np.arange(5, 7))
    joined = join_cells(first, second)
    assert len(joined) == 5
    assert (joined.counts.toarray() == cells.counts[[0, 1, 2, 5, 6]].toarray()).all()
    assert list(joined.obs["donor"]) == list(cells.obs["donor"].iloc[[0, 1, 2, 5, 6]])


def test_other_genes_are_refused(cells):
    genes = dataclasses.replace(cells.genes, ids=tuple(reversed(cells.genes.ids)))
    with pytest.raises(InputError, match="have different genes: align both to an encoder first"):
        join_cells(cells, dataclasses.replace(cells, genes=genes))
